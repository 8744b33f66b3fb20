mod random;
mod support;

use std::{
    collections::HashSet,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Barrier, Mutex, mpsc},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use self::support::*;
use super::{NotReplayable, Rebuild, Replay, ReplayBody};

const LIMIT: usize = 8 * 1024;

fn bytes(length: usize) -> Bytes {
    (0..length).map(|i| i as u8).collect()
}

// What is resent.

#[test]
fn bodies_up_to_the_limit_are_replayed() {
    for length in [0, 1, LIMIT - 1, LIMIT] {
        let (mut first, mut replay) = record(Full::new(bytes(length)), LIMIT);
        assert_eq!(read(&mut first).0, bytes(length));
        assert_eq!(replay.pause(), Ok(()));
        assert_eq!(read(&mut take_over(&mut replay)).0, bytes(length));
    }
}

#[test]
fn chunked_bodies_up_to_the_limit_are_replayed() {
    for length in [0, 1, LIMIT - 1, LIMIT] {
        for chunk in [1, 1000, 1024, LIMIT] {
            let (_feed, body) =
                Feed::whole(bytes(length).chunks(chunk).map(|c| Frame::data(c.to_vec().into())));
            let (mut first, mut replay) = record(body, LIMIT);
            assert_eq!(read(&mut first).0, bytes(length));
            assert_eq!(replay.pause(), Ok(()));
            assert_eq!(read(&mut take_over(&mut replay)).0, bytes(length));
        }
    }
}

#[test]
fn body_beyond_the_limit_is_sent_once() {
    let length = LIMIT + 1;
    for chunk in [1, 1000, LIMIT, length] {
        let (_feed, body) = Feed::whole(bytes(length).chunks(chunk).map(|c| Frame::data(c.to_vec().into())));
        let (mut first, mut replay) = record(body, LIMIT);
        let begun = poll(&mut first);
        let rest = read(&mut first).0;
        assert!(matches!(begun, Seen::Data(begun) if [&begun[..], &rest].concat() == bytes(length)));
        assert_eq!(replay.pause(), Err(NotReplayable::TooLarge));
        // And if it is tried all the same, it is neither truncated nor empty.
        assert_eq!(poll(&mut take_over(&mut replay)), cut_off());
    }
}

#[test]
fn long_body_is_replayed_while_little_of_it_has_passed() {
    let (_feed, body) = Feed::whole([Frame::data(bytes(LIMIT)), Frame::data(bytes(LIMIT))]);
    let (mut first, mut replay) = record(body, LIMIT);
    assert_eq!(poll(&mut first), Seen::Data(bytes(LIMIT)));
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(read(&mut take_over(&mut replay)).0, [bytes(LIMIT), bytes(LIMIT)].concat());
}

#[test]
fn replays_several_chunks_and_goes_on_with_the_live_body() {
    let (feed, body) = Feed::new();
    let (mut first, mut replay) = record(body, LIMIT);
    feed.data("one ");
    feed.data("two ");
    assert_eq!(read(&mut first).0, b"one two ");
    assert_eq!(replay.pause(), Ok(()));
    feed.data("three ");
    let mut second = take_over(&mut replay);
    assert_eq!(read(&mut second).0, b"one two three ");
    feed.data("four");
    assert!(second.is_woken());
    assert_eq!(poll(&mut second), data("four"));
    feed.close();
    assert_eq!(poll(&mut second), Seen::End);
}

#[test]
fn replays_trailers() {
    let (feed, body) = Feed::whole([Frame::data("a".into()), Frame::trailers(trailers())]);
    feed.announce_end();
    let (mut first, mut replay) = record(body, LIMIT);
    let expected = (b"a".to_vec(), Some(trailers()));
    assert_eq!(read(&mut first), expected);
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(read(&mut take_over(&mut replay)), expected);
}

#[test]
fn replays_trailers_only() {
    let (_feed, body) = Feed::whole([Frame::trailers(trailers())]);
    let (mut first, mut replay) = record(body, LIMIT);
    assert_eq!(poll(&mut first), Seen::Trailers(trailers()));
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(read(&mut take_over(&mut replay)), (vec![], Some(trailers())));
}

#[test]
fn trailers_after_a_known_length_are_replayed() {
    let (feed, body) = Feed::exact(1);
    feed.data("a");
    feed.trailers();
    feed.close();
    feed.announce_end();
    let (mut first, mut replay) = record(body, LIMIT);
    let expected = (b"a".to_vec(), Some(trailers()));
    assert_eq!(read(&mut first), expected);
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(read(&mut take_over(&mut replay)), expected);
}

#[test]
fn empty_frames_pass() {
    let (_feed, body) = Feed::whole(["", "a", ""].map(|text| Frame::data(text.into())));
    let (mut first, mut replay) = record(body, LIMIT);
    assert_eq!([poll(&mut first), poll(&mut first), poll(&mut first)], [data(""), data("a"), data("")]);
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(read(&mut take_over(&mut replay)).0, b"a");
}

#[test]
fn body_that_is_sent_twice_is_not_sent_a_third_time() {
    let (_feed, body) = Feed::whole([Frame::data("a".into())]);
    let (_first, mut replay) = record(body, LIMIT);
    assert_eq!(replay.pause(), Ok(()));
    let mut second = take_over(&mut replay);
    assert_eq!(poll(&mut second), data("a"));
    assert_eq!(replay.pause(), Err(NotReplayable::TooLarge));
    assert!(matches!(poll(&mut take_over(&mut replay)), Seen::Error(_)));
}

// What it costs.

#[test]
fn empty_body_is_known_to_be_empty_in_both_attempts() {
    let (first, mut replay) = record(Full::new(Bytes::new()), LIMIT);
    assert_eq!(replay.pause(), Ok(()));
    for body in [&*first, &*take_over(&mut replay), &ReplayBody::passing(Full::new(Bytes::new())).0] {
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert_eq!(format!("{body:?}"), "ReplayBody(Whole)");
    }
}

#[test]
fn body_that_is_ready_as_a_whole_is_neither_shared_nor_copied() {
    let text = Bytes::from_static(b"text");
    let (mut first, mut replay) = record(Full::new(text.clone()), LIMIT);
    assert_eq!(format!("{:?}", &*first), "ReplayBody(Whole)");
    assert_eq!(replay.pause(), Ok(()));
    for client in [&mut first, &mut take_over(&mut replay)] {
        assert!(matches!(poll(client), Seen::Data(data) if data.as_ptr() == text.as_ptr()));
        assert!(client.is_end_stream());
        assert_eq!(poll(client), Seen::End);
    }
}

#[test]
fn body_of_any_type_that_is_ready_as_a_whole_is_not_shared() {
    let (feed, body) = Feed::exact(4);
    feed.data("text");
    feed.close();
    feed.announce_end();
    let (mut first, mut replay) = record(body, LIMIT);
    assert_eq!(format!("{:?}", &*first), "ReplayBody(Whole)");
    assert_eq!(read(&mut first).0, b"text");
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(read(&mut take_over(&mut replay)).0, b"text");
}

#[test]
fn without_a_limit_nothing_is_kept_and_a_whole_body_needs_no_guard() {
    let (mut first, replay) = record(Full::new(Bytes::from_static(b"text")), 0);
    assert!(!replay.is_kept());
    assert_eq!(replay.pause(), Err(NotReplayable::TooLarge));
    assert_eq!(format!("{:?}", &*first), "ReplayBody(Whole)");
    assert_eq!(read(&mut first).0, b"text");
    assert!(record(Full::new(Bytes::new()), 0).1.is_kept(), "there is nothing in it to keep");
}

#[test]
fn body_of_unknown_length_is_left_alone_until_the_client_reads() {
    let (feed, body) = Feed::whole([Frame::data("a".into())]);
    let (_first, mut replay) = record(body, LIMIT);
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(feed.polls(), 0);
    assert_eq!(read(&mut take_over(&mut replay)).0, b"a");
}

#[test]
fn known_length_that_is_not_ready_yet_is_read_as_it_comes() {
    let (feed, body) = Feed::exact(2);
    let (mut first, mut replay) = record(body, LIMIT);
    assert_eq!(poll(&mut first), Seen::Wait);
    feed.data("a");
    assert!(first.is_woken());
    assert_eq!(poll(&mut first), data("a"));
    feed.data("b");
    assert_eq!(poll(&mut first), data("b"));
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(read(&mut take_over(&mut replay)).0, b"ab");
}

#[test]
fn body_that_belies_its_length_is_handed_on_as_it_is() {
    let (feed, body) = Feed::exact(1);
    feed.data("too long");
    feed.close();
    feed.announce_end();
    let (mut first, mut replay) = record(body, LIMIT);
    assert_eq!(first.size_hint().exact(), Some(1));
    assert_eq!(read(&mut first).0, b"too long");
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(read(&mut take_over(&mut replay)).0, b"too long");
}

#[test]
fn first_frame_is_not_delayed() {
    let (feed, body) = Feed::new();
    let (mut first, _replay) = record(body, LIMIT);
    feed.data("a");
    assert_eq!(poll(&mut first), data("a"));
    assert_eq!(poll(&mut first), Seen::Wait);
}

#[test]
fn passing_body_is_handed_through() {
    let (feed, body) = Feed::exact(1);
    let (body, _replay) = ReplayBody::passing(body);
    let mut client = tokio_test::task::spawn(body);
    assert_eq!(client.size_hint().exact(), Some(1));
    feed.data("a");
    assert_eq!(poll(&mut client), data("a"));
    feed.fail();
    assert_eq!(poll(&mut client), Seen::Error("broken".into()));
}

#[test]
fn what_is_forgotten_is_not_kept_and_still_ends_with_its_response_future() {
    let (feed, body) = Feed::new();
    let (mut first, mut replay) = record(body, LIMIT);
    feed.data("a");
    assert_eq!(poll(&mut first), data("a"));
    replay.forget();
    assert_eq!(replay.pause(), Err(NotReplayable::TooLarge));
    feed.data("b");
    assert_eq!(poll(&mut first), data("b"));
    assert_eq!(poll(&mut first), Seen::Wait);
    drop(replay);
    assert!(first.is_woken());
    assert!(matches!(poll(&mut first), Seen::Error(_)));

    let (_first, mut replay) = record(Full::new(Bytes::from_static(b"text")), LIMIT);
    replay.forget();
    assert!(!replay.is_kept());
}

#[test]
fn memory_stays_within_the_limit_and_one_frame() {
    let gauge = Gauge::default();
    let frame = 2 * 1024;
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, LIMIT);
    let mut peak = 0;
    for _ in 0..64 {
        feed.data(gauge.bytes(frame));
        assert!(matches!(poll(&mut first), Seen::Data(_)));
        peak = peak.max(gauge.alive());
    }
    assert_eq!(peak, LIMIT);
    assert_eq!(gauge.alive(), 0, "nothing is kept past the limit");
    assert_eq!(replay.pause(), Err(NotReplayable::TooLarge));
}

#[test]
fn release_frees_what_was_kept_at_once() {
    let gauge = Gauge::default();
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, LIMIT);
    feed.data(gauge.bytes(LIMIT));
    assert!(matches!(poll(&mut first), Seen::Data(_)));
    assert_eq!(gauge.alive(), LIMIT);
    replay.release();
    assert_eq!(gauge.alive(), 0);
    feed.data(gauge.bytes(LIMIT));
    assert!(matches!(poll(&mut first), Seen::Data(_)));
    assert_eq!(gauge.alive(), 0);
}

#[test]
fn second_attempt_frees_what_it_has_replayed() {
    let gauge = Gauge::default();
    let (feed, body) = Feed::new();
    let (mut first, mut replay) = record(body, LIMIT);
    feed.data(gauge.bytes(LIMIT));
    assert!(matches!(poll(&mut first), Seen::Data(_)));
    assert_eq!(replay.pause(), Ok(()));
    let mut second = take_over(&mut replay);
    assert!(matches!(poll(&mut second), Seen::Data(_)));
    assert_eq!(gauge.alive(), 0);
}

#[test]
fn released_body_belongs_to_its_attempt() {
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, LIMIT);
    replay.release();
    feed.data("a");
    assert_eq!(poll(&mut first), data("a"));
    assert_eq!(format!("{:?}", &*first), "ReplayBody(Own)");
}

#[test]
fn replay_body_is_unpin_and_send_though_the_body_is_pinned() {
    fn check<T: Unpin + Send>(_: &T) {}
    fn shareable<T: Send + Sync + Clone>(_: &T) {}
    let (body, replay) = ReplayBody::recording(Feed::new().1, LIMIT, None);
    check(&body);
    check(&replay);
    shareable(&Rebuild::new(|| std::cell::Cell::new(())));
}

#[test]
fn each_reason_against_a_second_attempt_has_words_of_its_own() {
    use NotReplayable::{Failed, TooLarge, UnknownFrame};

    let words: HashSet<_> = [TooLarge, Failed, UnknownFrame].iter().map(NotReplayable::to_string).collect();
    assert_eq!(words.len(), 3);
    assert!(!words.contains(""));
}

// Size hints.

#[test]
fn size_hint_is_exact_at_every_frame_of_both_attempts() {
    let body = || {
        let (feed, body) = Feed::exact(5);
        for text in ["ab", "", "cde"] {
            feed.data(text);
        }
        feed.close();
        feed.announce_end();
        body
    };
    let (mut first, mut replay) = record(body(), LIMIT);
    let (mut beyond_the_limit, _replay) = record(body(), 1);
    let lengths = |client: &mut Client<Fed>| {
        let mut seen = vec![client.size_hint().exact()];
        while !client.is_end_stream() {
            assert!(matches!(poll(client), Seen::Data(_)));
            seen.push(client.size_hint().exact());
        }
        assert_eq!(poll(client), Seen::End);
        seen
    };
    for client in [&mut first, &mut beyond_the_limit] {
        assert_eq!(lengths(client), [Some(5), Some(3), Some(3), Some(0)]);
    }
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(lengths(&mut take_over(&mut replay)), [Some(5), Some(0)]);
}

#[test]
fn open_size_hint_is_the_same_in_both_attempts() {
    let mut hint = SizeHint::new();
    hint.set_lower(2);
    hint.set_upper(9);
    let (feed, body) = Feed::sized(hint);
    let (mut first, mut replay) = record(body, LIMIT);
    let bounds = |client: &Client<Fed>| (client.size_hint().lower(), client.size_hint().upper());
    assert_eq!(bounds(&first), (2, Some(9)));
    feed.data("abc");
    assert_eq!(poll(&mut first), data("abc"));
    assert_eq!(bounds(&first), (0, Some(6)));
    assert_eq!(replay.pause(), Ok(()));
    let mut second = take_over(&mut replay);
    assert_eq!(bounds(&second), (2, Some(9)));
    feed.close();
    assert_eq!(read(&mut second).0, b"abc");
    assert_eq!(bounds(&second), (0, Some(0)));
    assert!(second.is_end_stream());
}

// The pause.

#[test]
fn early_refusal_before_the_first_frame_is_resent_whole() {
    let (feed, body) = Feed::new();
    let (mut first, mut replay) = record(body, LIMIT);
    assert_eq!(replay.pause(), Ok(()));
    feed.data("a");
    assert_eq!(poll(&mut first), Seen::Wait);
    feed.close();
    assert_eq!(read(&mut take_over(&mut replay)).0, b"a");
    assert_eq!(poll(&mut first), cut_off());
}

#[test]
fn early_refusal_before_the_trailers_is_resent_with_them() {
    let (feed, body) = Feed::new();
    let (mut first, mut replay) = record(body, LIMIT);
    feed.data("a");
    assert_eq!(poll(&mut first), data("a"));
    assert_eq!(replay.pause(), Ok(()));
    feed.trailers();
    assert_eq!(poll(&mut first), Seen::Wait);
    assert_eq!(read(&mut take_over(&mut replay)), (b"a".to_vec(), Some(trailers())));
}

#[test]
fn first_attempt_does_not_poll_the_body_while_it_is_paused() {
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, LIMIT);
    feed.data("one");
    assert_eq!(poll(&mut first), data("one"));
    assert_eq!(replay.pause(), Ok(()));
    feed.data("two");
    let polls = feed.polls();
    assert_eq!(poll(&mut first), Seen::Wait);
    assert_eq!(feed.polls(), polls);
    replay.release();
    assert_eq!(poll(&mut first), data("two"));
}

#[test]
fn first_attempt_is_woken_and_cut_off_at_the_take_over() {
    let (_feed, body) = Feed::new();
    let (mut first, mut replay) = record(body, LIMIT);
    assert_eq!(poll(&mut first), Seen::Wait);
    assert_eq!(replay.pause(), Ok(()));
    assert!(!first.is_woken());
    let mut second = take_over(&mut replay);
    assert!(first.is_woken());
    assert_eq!(poll(&mut first), cut_off());
    assert_eq!(poll(&mut first), cut_off());
    assert!(!first.is_end_stream());
    assert_eq!(poll(&mut second), Seen::Wait);
}

#[test]
fn first_attempt_that_was_dropped_leaves_the_body_to_the_second() {
    let (feed, body) = Feed::new();
    let (mut first, mut replay) = record(body, LIMIT);
    feed.data("a");
    assert_eq!(poll(&mut first), data("a"));
    drop(first);
    feed.data("b");
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(read(&mut take_over(&mut replay)).0, b"ab");
}

#[test]
fn release_after_a_pause_loses_no_wakeup_and_keeps_the_order() {
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, LIMIT);
    feed.data("a");
    assert_eq!(poll(&mut first), data("a"));
    assert_eq!(poll(&mut first), Seen::Wait);
    assert_eq!(replay.pause(), Ok(()));
    feed.data("b");
    feed.data("c");
    assert!(first.is_woken(), "by the body, whose only wakeup it was");
    assert_eq!(poll(&mut first), Seen::Wait);
    replay.release();
    assert!(first.is_woken());
    assert_eq!(poll(&mut first), data("b"));
    feed.close();
    assert_eq!(poll(&mut first), data("c"));
    assert_eq!(poll(&mut first), Seen::End);
}

#[test]
fn release_wakes_the_task_that_waits_now() {
    let (_feed, body) = Feed::new();
    let (mut first, replay) = record(body, LIMIT);
    assert_eq!(poll(&mut first), Seen::Wait);
    assert_eq!(replay.pause(), Ok(()));
    let mut moved = tokio_test::task::spawn(first.into_inner());
    assert_eq!(poll(&mut moved), Seen::Wait);
    replay.release();
    assert!(moved.is_woken());
}

#[test]
fn body_that_cannot_be_resent_is_not_paused() {
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, 1);
    feed.data("ab");
    assert_eq!(poll(&mut first), data("ab"));
    assert_eq!(replay.pause(), Err(NotReplayable::TooLarge));
    feed.data("c");
    assert_eq!(poll(&mut first), data("c"));
}

#[test]
fn release_of_the_second_attempt_leaves_it_its_backlog() {
    let (feed, body) = Feed::new();
    let (mut first, mut replay) = record(body, LIMIT);
    feed.data("a");
    assert_eq!(poll(&mut first), data("a"));
    assert_eq!(replay.pause(), Ok(()));
    let mut second = take_over(&mut replay);
    replay.release();
    feed.data("b");
    feed.close();
    assert_eq!(read(&mut second).0, b"ab");
}

// A handle that is dropped.

fn drop_ends(prepare: impl FnOnce(&Feed, &mut Client<Fed>, &Replay<Fed>)) {
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, 1);
    prepare(&feed, &mut first, &replay);
    let waited = poll(&mut first) == Seen::Wait;
    drop(replay);
    assert_eq!(first.is_woken(), waited);
    assert!(feed.is_dropped());
    assert_eq!(poll(&mut first), cut_off());
    assert!(!first.is_end_stream());
}

#[test]
fn dropped_handle_ends_an_upload_that_waits() {
    drop_ends(|_, _, _| {});
}

#[test]
fn dropped_handle_ends_an_upload_that_is_paused() {
    drop_ends(|_, _, replay| assert_eq!(replay.pause(), Ok(())));
}

#[test]
fn dropped_handle_ends_an_upload_with_more_to_read() {
    drop_ends(|feed, _, _| (0..3).for_each(|_| feed.data("a")));
}

#[test]
fn dropped_handle_ends_an_upload_past_the_limit() {
    drop_ends(|feed, first, replay| {
        feed.data("ab");
        assert_eq!(poll(first), data("ab"));
        assert_eq!(replay.pause(), Err(NotReplayable::TooLarge));
    });
}

#[test]
fn dropped_handle_ends_an_upload_past_the_limit_that_has_its_body_in_hand() {
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, 1);
    for frame in ["ab", "c", "d", "e"] {
        feed.data(frame);
    }
    for frame in ["ab", "c", "d"] {
        assert_eq!(poll(&mut first), data(frame));
    }
    assert_eq!(replay.pause(), Err(NotReplayable::TooLarge));
    drop(replay);
    assert_eq!(poll(&mut first), cut_off());
    assert!(feed.is_dropped());
}

#[test]
fn dropped_handle_ends_an_upload_that_was_never_polled() {
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, LIMIT);
    drop(replay);
    assert!(feed.is_dropped());
    assert_eq!(poll(&mut first), cut_off());
}

#[test]
fn dropped_handle_ends_the_second_attempt() {
    let (feed, body) = Feed::new();
    let (mut first, mut replay) = record(body, LIMIT);
    feed.data("a");
    assert_eq!(poll(&mut first), data("a"));
    assert_eq!(replay.pause(), Ok(()));
    let mut second = take_over(&mut replay);
    assert_eq!(read(&mut second).0, b"a");
    drop(replay);
    assert!(second.is_woken());
    assert!(feed.is_dropped());
    assert_eq!(poll(&mut second), cut_off());
}

#[test]
fn dropped_handle_ends_the_second_attempt_in_its_backlog() {
    let gauge = Gauge::default();
    let (feed, body) = Feed::new();
    let (mut first, mut replay) = record(body, LIMIT);
    feed.data(gauge.bytes(2000));
    assert!(matches!(poll(&mut first), Seen::Data(_)));
    assert_eq!(replay.pause(), Ok(()));
    let mut second = take_over(&mut replay);
    drop(replay);
    assert_eq!(poll(&mut second), cut_off());
}

#[test]
fn dropped_handle_ends_the_second_attempt_though_the_first_hears_of_it_in_between() {
    let (feed, body) = Feed::new();
    let (mut first, mut replay) = record(body, LIMIT);
    feed.data("a");
    assert_eq!(poll(&mut first), data("a"));
    assert_eq!(replay.pause(), Ok(()));
    let mut second = take_over(&mut replay);
    for frame in ["b", "c", "d"] {
        feed.data(frame);
    }
    assert_eq!((poll(&mut second), poll(&mut second)), (data("a"), data("b")));
    drop(replay);
    assert_eq!(poll(&mut first), cut_off());
    assert_eq!(poll(&mut second), cut_off());
}

#[test]
fn dropped_handle_frees_what_was_kept() {
    let gauge = Gauge::default();
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, LIMIT);
    feed.data(gauge.bytes(2000));
    assert!(matches!(poll(&mut first), Seen::Data(_)));
    drop(replay);
    assert_eq!(gauge.alive(), 0);
}

#[test]
fn released_upload_outlives_the_handle() {
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, LIMIT);
    assert_eq!(poll(&mut first), Seen::Wait);
    replay.release();
    feed.data("a");
    feed.close();
    assert!(first.is_woken());
    assert_eq!(read(&mut first).0, b"a");
}

// Bodies that fail.

#[test]
fn error_of_the_body_comes_through_as_itself() {
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, LIMIT);
    feed.data("a");
    feed.fail();
    assert_eq!(poll(&mut first), data("a"));
    let polled = first.enter(|cx, body| body.poll_frame(cx));
    let Poll::Ready(Some(Err(error))) = polled else { panic!("{polled:?}") };
    assert_eq!(error.downcast_ref(), Some(&Broken));
    assert_eq!(replay.pause(), Err(NotReplayable::Failed));
    assert_eq!(poll(&mut first), lost(), "the end of a broken body would look like a whole one");
}

#[test]
fn error_that_nobody_has_read_goes_to_the_second_attempt() {
    let (feed, body) = Feed::new();
    let (_first, mut replay) = record(body, LIMIT);
    assert_eq!(replay.pause(), Ok(()));
    feed.fail();
    assert_eq!(poll(&mut take_over(&mut replay)), Seen::Error("broken".into()));
}

#[test]
fn body_that_panics_cannot_be_resent() {
    for is_in_poll in [true, false] {
        let (feed, body) = Feed::new();
        let (mut first, mut replay) = record(body, LIMIT);
        feed.data("a");
        assert_eq!(poll(&mut first), data("a"));
        feed.data("b");
        let panic = || panic!("on purpose");
        if is_in_poll {
            feed.on_poll(panic)
        } else {
            feed.on_look(panic)
        }
        assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut first))).is_err());
        assert_eq!(replay.pause(), Err(NotReplayable::Failed));
        assert_eq!(poll(&mut first), lost());
        assert!(matches!(poll(&mut take_over(&mut replay)), Seen::Error(_)));
    }
}

#[test]
fn body_in_hand_that_panics_leaves_nobody_waiting() {
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, 1);
    feed.data("ab");
    feed.data("c");
    assert_eq!((poll(&mut first), poll(&mut first)), (data("ab"), data("c")));
    feed.on_poll(|| panic!("on purpose"));
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut first))).is_err());
    feed.data("d");
    assert_eq!(poll(&mut first), data("d"));
    drop(replay);
    assert_eq!(poll(&mut first), cut_off());
}

#[test]
fn released_body_that_panics_leaves_nobody_waiting() {
    let (feed, body) = Feed::new();
    let (mut first, replay) = record(body, LIMIT);
    replay.release();
    feed.on_poll(|| panic!("on purpose"));
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut first))).is_err());
    feed.data("a");
    assert_eq!(poll(&mut first), data("a"));
}

// While the body is being polled.

/// Has a thread poll the first attempt, and does `meanwhile` in the middle of it.
fn in_the_middle_of_a_poll<T>(
    feed: &Feed,
    mut first: Client<Fed>,
    then: impl FnOnce() + Send + 'static,
    meanwhile: impl FnOnce() -> T,
) -> (Option<Seen>, Client<Fed>, T) {
    let barrier = Arc::new(Barrier::new(2));
    let (seen, entered) = (Arc::clone(&barrier), barrier);
    feed.on_poll(move || {
        seen.wait();
        seen.wait();
        then();
    });
    let poller = thread::spawn(move || {
        let seen = catch_unwind(AssertUnwindSafe(|| poll(&mut first))).ok();
        (seen, first)
    });
    entered.wait();
    let result = meanwhile();
    entered.wait();
    let (seen, first) = poller.join().expect("its panics are caught");
    (seen, first, result)
}

#[test]
fn take_over_in_the_middle_of_a_poll_loses_no_byte() {
    let (feed, body) = Feed::new();
    let (mut first, mut replay) = record(body, LIMIT);
    feed.data("a");
    assert_eq!(poll(&mut first), data("a"));
    feed.data("b");
    let (seen, _, mut second) = in_the_middle_of_a_poll(
        &feed,
        first,
        || {},
        || {
            assert_eq!(replay.pause(), Ok(()));
            let mut second = take_over(&mut replay);
            assert_eq!(read(&mut second).0, b"a", "it does not wait for the poll to replay");
            second
        },
    );
    assert_eq!(seen, Some(cut_off()));
    assert!(second.is_woken());
    feed.close();
    assert_eq!(read(&mut second).0, b"b");
}

#[test]
fn pause_in_the_middle_of_a_poll_holds_the_frame_back() {
    let (feed, body) = Feed::new();
    let (first, replay) = record(body, LIMIT);
    feed.data("a");
    let (seen, mut first, ()) =
        in_the_middle_of_a_poll(&feed, first, || {}, || assert_eq!(replay.pause(), Ok(())));
    assert_eq!(seen, Some(Seen::Wait));
    replay.release();
    assert!(first.is_woken());
    feed.close();
    assert_eq!(read(&mut first).0, b"a");
}

#[test]
fn release_in_the_middle_of_a_poll_lets_it_go_on() {
    let (feed, body) = Feed::new();
    let (first, replay) = record(body, LIMIT);
    feed.data("a");
    let (seen, mut first, ()) = in_the_middle_of_a_poll(&feed, first, || {}, || replay.release());
    assert_eq!(seen, Some(data("a")));
    feed.close();
    assert_eq!(poll(&mut first), Seen::End);
}

#[test]
fn drop_in_the_middle_of_a_poll_ends_it_and_drops_the_body() {
    let (feed, body) = Feed::new();
    let (first, replay) = record(body, LIMIT);
    feed.data("a");
    let (seen, _first, ()) = in_the_middle_of_a_poll(&feed, first, || {}, || drop(replay));
    assert_eq!(seen, Some(cut_off()));
    assert!(feed.is_dropped());
}

#[test]
fn panic_after_the_take_over_does_not_leave_the_second_attempt_waiting() {
    let (feed, body) = Feed::new();
    let (first, mut replay) = record(body, LIMIT);
    let (seen, _, mut second) = in_the_middle_of_a_poll(
        &feed,
        first,
        || panic!("on purpose"),
        || {
            assert_eq!(replay.pause(), Ok(()));
            let mut second = take_over(&mut replay);
            assert_eq!(poll(&mut second), Seen::Wait);
            second
        },
    );
    assert_eq!(seen, None);
    assert!(second.is_woken());
    assert_eq!(poll(&mut second), lost());
}

/// Yields one frame, and pauses itself whenever one of its methods runs.
struct Meddler {
    frame: Option<Frame<Bytes>>,
    only_when_dropped: bool,
    handle: Arc<Mutex<Option<Replay<Meddler>>>>,
}

impl Meddler {
    fn meddle(&self) {
        if let Some(replay) = &*self.handle.lock().expect("nobody panics") {
            let _ = replay.pause();
        }
    }
}

impl Body for Meddler {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.only_when_dropped {
            self.meddle();
        }
        Poll::Ready(self.frame.take().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        if !self.only_when_dropped {
            self.meddle();
        }
        self.frame.is_none()
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.meddle();
    }
}

/// Polls a meddler twice and reads what is resent, on a thread: a lock that is held would stop it for ever.
fn send_a_meddler(only_when_dropped: bool) -> ([Seen; 2], Vec<u8>) {
    let (done, finished) = mpsc::channel();
    thread::spawn(move || {
        let handle = Arc::default();
        let frame = Some(Frame::data("a".into()));
        let body = Meddler { frame, only_when_dropped, handle: Arc::clone(&handle) };
        let (mut first, replay) = record(body, LIMIT);
        *handle.lock().expect("nobody panics") = Some(replay);
        let seen = [poll(&mut first), poll(&mut first)];
        let mut replay = handle.lock().expect("nobody panics").take().expect("it was put there");
        done.send((seen, read(&mut take_over(&mut replay)).0)).expect("the test waits");
    });
    finished.recv_timeout(Duration::from_secs(20)).expect("it does not lock up")
}

#[test]
fn no_lock_is_held_while_the_body_is_polled() {
    assert_eq!(send_a_meddler(false), ([Seen::Wait, Seen::Wait], b"a".to_vec()));
}

#[test]
fn no_lock_is_held_while_the_body_is_dropped() {
    assert_eq!(send_a_meddler(true), ([data("a"), Seen::End], b"a".to_vec()));
}

#[test]
fn attempts_on_two_threads_send_every_byte() {
    for round in 0..300 {
        let (feed, body) = Feed::whole((0..50).map(|i| Frame::data(vec![i; 30].into())));
        feed.announce_end();
        let (mut first, mut replay) = record(body, usize::MAX);
        let uploader = thread::spawn(move || {
            loop {
                match poll(&mut first) {
                    Seen::End | Seen::Error(_) => break,
                    Seen::Wait => thread::yield_now(),
                    _ => {}
                }
            }
        });
        (0..round % 30).for_each(|_| thread::yield_now());
        assert_eq!(replay.pause(), Ok(()));
        let mut second = take_over(&mut replay);
        let mut bytes = Vec::new();
        loop {
            match poll(&mut second) {
                Seen::Data(data) => bytes.extend_from_slice(&data),
                Seen::Wait => thread::yield_now(),
                Seen::End => break,
                other => panic!("{other:?}"),
            }
        }
        uploader.join().expect("it does not panic");
        assert_eq!(bytes, (0..50).flat_map(|i| [i; 30]).collect::<Vec<u8>>());
    }
}

// A body that can be made again.

#[test]
fn rebuilt_body_that_is_empty_leaves_the_first_attempt_cut_off() {
    let (feed, body) = Feed::new();
    let rebuild = Rebuild::new(|| {
        let (feed, body) = Feed::whole([]);
        feed.announce_end();
        body
    });
    let (body, mut replay) = ReplayBody::recording(body, 1, Some(rebuild));
    let first = tokio_test::task::spawn(body);
    feed.data("a");
    let (seen, mut first, ()) = in_the_middle_of_a_poll(
        &feed,
        first,
        || {},
        || {
            assert_eq!(replay.pause(), Ok(()));
            assert!(take_over(&mut replay).is_end_stream());
            replay.release();
        },
    );
    assert_eq!(seen, Some(cut_off()));
    assert_eq!(poll(&mut first), cut_off());
    assert!(feed.is_dropped());
}

#[test]
fn rebuilt_body_is_made_only_when_it_is_sent_again() {
    let gauge = Gauge::default();
    let (feed, body) = Feed::exact(4);
    let made = Arc::new(Mutex::new(None));
    let rebuild = Rebuild::new({
        let made = Arc::clone(&made);
        move || {
            let (feed, body) = Feed::exact(4);
            *made.lock().expect("nobody panics") = Some(feed);
            body
        }
    });
    let (body, mut replay) = ReplayBody::recording(body, 1, Some(rebuild));
    let mut first = tokio_test::task::spawn(body);
    feed.data(gauge.bytes(2));
    assert!(matches!(poll(&mut first), Seen::Data(_)));
    assert_eq!(gauge.alive(), 0, "nothing is kept");
    assert_eq!(replay.pause(), Ok(()), "whatever the limit");
    assert_eq!(poll(&mut first), Seen::Wait);
    assert!(made.lock().expect("nobody panics").is_none());

    let mut second = take_over(&mut replay);
    let again = made.lock().expect("nobody panics").take().expect("it was made");
    assert!(first.is_woken());
    assert_eq!(poll(&mut first), cut_off());
    assert!(feed.is_dropped());
    assert_eq!(second.size_hint().exact(), Some(4));
    again.data("abcd");
    assert_eq!(poll(&mut second), data("abcd"));
    assert_eq!(poll(&mut second), Seen::Wait);
    assert_eq!(replay.pause(), Err(NotReplayable::TooLarge));
    drop(replay);
    assert!(second.is_woken());
    assert!(again.is_dropped());
    assert_eq!(poll(&mut second), cut_off());
}

#[test]
fn rebuilt_body_is_sent_though_the_first_one_failed() {
    let (feed, body) = Feed::new();
    let rebuild = Rebuild::new(|| Feed::whole([Frame::data("again".into())]).1);
    let (body, mut replay) = ReplayBody::recording(body, LIMIT, Some(rebuild));
    let mut first = tokio_test::task::spawn(body);
    feed.fail();
    assert_eq!(poll(&mut first), Seen::Error("broken".into()));
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(read(&mut take_over(&mut replay)).0, b"again");
}

#[test]
fn paused_body_with_a_rebuild_closure_resumes() {
    let (feed, body) = Feed::new();
    let rebuild = Rebuild::new(|| -> Fed { panic!("it is not sent again") });
    let (body, replay) = ReplayBody::recording(body, LIMIT, Some(rebuild));
    let mut first = tokio_test::task::spawn(body);
    feed.data("a");
    assert_eq!(poll(&mut first), data("a"));
    feed.data("b");
    assert_eq!(replay.pause(), Ok(()));
    assert_eq!(poll(&mut first), Seen::Wait);
    replay.release();
    assert!(first.is_woken());
    assert_eq!(poll(&mut first), data("b"));
}
