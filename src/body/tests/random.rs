//! Whatever is done in whatever order: what is resent is the body, byte for byte.

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use proptest::prelude::*;

use super::support::*;

#[derive(Clone, Copy, Debug)]
enum Op {
    Feed,
    Poll,
    Pause,
    TakeOver,
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Feed),
        6 => Just(Op::Poll),
        1 => Just(Op::Pause),
        1 => Just(Op::TakeOver),
        1 => Just(Op::Release),
    ]
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![Just(0), Just(1), 2..50_usize, 1000..1050_usize, 3000..6000_usize];
    prop::collection::vec(size, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_interleaving_sends_the_body_byte_for_byte(
        sizes in sizes(),
        with_trailers: bool,
        announces_end: bool,
        known_length: bool,
        limit in prop_oneof![Just(0), Just(1024), Just(10_000), Just(usize::MAX)],
        ready in 0..3_usize,
        ops in prop::collection::vec(op(), 0..60),
    ) {
        let mut position = 0_u8;
        let chunks: Vec<Bytes> = sizes
            .iter()
            .map(|&size| (0..size).map(|_| { position = position.wrapping_add(1); position }).collect())
            .collect();
        let whole = chunks.concat();
        let expected = (whole.clone(), with_trailers.then(trailers));
        let mut frames: Vec<_> = chunks.into_iter().map(Frame::data).collect();
        if with_trailers {
            frames.push(Frame::trailers(trailers()));
        }
        let mut frames = frames.into_iter();
        let length = whole.len() as u64;
        let hint = if known_length { SizeHint::with_exact(length) } else { SizeHint::default() };

        let (feed, body) = Feed::sized(hint);
        if announces_end {
            feed.announce_end();
        }
        frames.by_ref().take(ready).for_each(|frame| feed.frame(frame));
        let (mut client, replay) = record(body, limit);
        let mut replay = Some(replay);
        let (mut seen, mut trailers_seen, mut paused) = (Vec::new(), None, false);
        for op in ops {
            match op {
                Op::Feed => match frames.next() {
                    Some(frame) => feed.frame(frame),
                    None => feed.close(),
                },
                Op::Poll => {
                    let hint = http_body::Body::size_hint(&*client);
                    let left = length - seen.len() as u64;
                    prop_assert!(hint.lower() <= left && left <= hint.upper().unwrap_or(u64::MAX));
                    if known_length {
                        prop_assert_eq!(hint.exact(), Some(left));
                    }
                    match poll(&mut client) {
                        Seen::Data(data) => seen.extend_from_slice(&data),
                        Seen::Trailers(map) => trailers_seen = Some(map),
                        Seen::Wait | Seen::End => {}
                        Seen::Error(error) => prop_assert!(false, "{}", error),
                    }
                }
                Op::Pause => {
                    paused |= replay.as_ref().is_some_and(|replay| replay.pause().is_ok());
                }
                Op::TakeOver => if paused {
                    if let Some(replay) = &mut replay {
                        client = take_over(replay);
                        (seen, trailers_seen, paused) = (Vec::new(), None, false);
                    }
                },
                Op::Release => if let Some(replay) = replay.take() {
                    replay.release();
                },
            }
            prop_assert!(whole.starts_with(&seen));
        }
        for frame in frames {
            feed.frame(frame);
        }
        feed.close();
        if let Some(replay) = replay {
            replay.release();
        }
        let (rest, trailers) = read(&mut client);
        seen.extend(rest);
        prop_assert_eq!((seen, trailers_seen.or(trailers)), expected);
        prop_assert_eq!(poll(&mut client), Seen::End);
    }
}
