//! The hand-over of a live body between the threads of two attempts and of their response future, in every schedule.

mod feed;

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
};

use bytes::Bytes;
use http_body::Body;
use loom::thread::{self, JoinHandle};

use self::feed::{Broken, Fed, Feed, Step};
use super::{NotReplayable, Rebuild, Replay, ReplayBody, shared::CutOff};
use crate::sync::kit::{block_on, check, check_all};

const LIMIT: usize = 100;

/// What the client of an attempt has sent, and how its body ended.
#[derive(Debug, PartialEq)]
struct Sent(String, Ending);

#[derive(Debug, PartialEq)]
enum Ending {
    End,
    Broken,
    CutOff(CutOff),
    Panic,
}

impl Sent {
    fn whole(data: &str) -> Self {
        Sent(data.to_owned(), Ending::End)
    }

    /// An attempt that another one has followed had sent all of it, or was cut off somewhere.
    fn is_part_of(&self, data: &str) -> bool {
        match &self.1 {
            Ending::End => self.0 == data,
            ending => *ending == WITHDRAWN && data.starts_with(&self.0),
        }
    }
}

const WITHDRAWN: Ending = Ending::CutOff(CutOff::Withdrawn);

fn record(body: Fed, limit: usize) -> (ReplayBody<Fed>, Replay<Fed>) {
    ReplayBody::recording(body, limit, None)
}

/// Sends a body to its end, and keeps it as clients do.
fn send(body: &mut ReplayBody<Fed>) -> Sent {
    let mut sent = String::new();
    loop {
        let next = || block_on(poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)));
        let ending = match catch_unwind(AssertUnwindSafe(next)) {
            Ok(Some(Ok(frame))) => {
                let data = frame.into_data().unwrap_or_else(|_| Bytes::new());
                sent.push_str(std::str::from_utf8(&data).expect("it was text"));
                continue;
            }
            Ok(Some(Err(error))) => match error.downcast::<CutOff>() {
                Ok(cut_off) => Ending::CutOff(*cut_off),
                Err(error) => {
                    assert!(error.is::<Broken>());
                    Ending::Broken
                }
            },
            Ok(None) => Ending::End,
            Err(_panic) => Ending::Panic,
        };
        return Sent(sent, ending);
    }
}

/// Sends a body in a thread of its own, which gives it back.
fn client(mut body: ReplayBody<Fed>) -> JoinHandle<(Sent, ReplayBody<Fed>)> {
    thread::spawn(move || (send(&mut body), body))
}

fn feeder(feed: &Feed, steps: &'static [Step]) -> JoinHandle<()> {
    let feed = feed.clone();
    thread::spawn(move || steps.iter().for_each(|step| feed.push(*step)))
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("no thread of a model panics")
}

const AB: [Step; 3] = [Step::Data("a"), Step::Data("b"), Step::End];

#[test]
fn second_attempt_sends_the_whole_body_wherever_the_first_is_cut_off() {
    check_all(|| {
        let (_feed, body) = Feed::ready(AB);
        let (first, mut replay) = record(body, LIMIT);
        let first = client(first);
        assert_eq!(replay.pause(), Ok(()));
        let second = send(&mut replay.take_over());
        assert_eq!(second, Sent::whole("ab"));
        let (first, _body) = join(first);
        assert!(first.is_part_of("ab"), "{first:?}");
    });
}

#[test]
fn frames_that_come_during_the_hand_over_reach_the_second_attempt() {
    check(|| {
        let (feed, body) = Feed::ready([]);
        let (first, mut replay) = record(body, LIMIT);
        let first = client(first);
        let feeder = feeder(&feed, &[Step::Data("a"), Step::End]);
        assert_eq!(replay.pause(), Ok(()));
        let second = send(&mut replay.take_over());
        assert_eq!(second, Sent::whole("a"));
        let (first, _body) = join(first);
        assert!(first.is_part_of("a"), "{first:?}");
        join(feeder);
    });
}

#[test]
fn upload_that_outruns_the_limit_is_sent_once_and_whole() {
    check_all(|| {
        let (_feed, body) = Feed::ready(AB);
        let (first, mut replay) = record(body, 1);
        let first = client(first);
        if let Err(why) = replay.pause() {
            assert_eq!(why, NotReplayable::TooLarge);
            replay.release();
            assert_eq!(join(first).0, Sent::whole("ab"));
        } else {
            assert_eq!(send(&mut replay.take_over()), Sent::whole("ab"));
            let (first, _body) = join(first);
            assert!(first.is_part_of("ab"), "{first:?}");
        }
    });
}

#[test]
fn paused_upload_goes_on_when_the_response_is_delivered() {
    check(|| {
        let (feed, body) = Feed::ready([Step::Data("a")]);
        let (first, replay) = record(body, LIMIT);
        let first = client(first);
        let feeder = feeder(&feed, &[Step::Data("b"), Step::End]);
        assert_eq!(replay.pause(), Ok(()));
        replay.release();
        assert_eq!(join(first).0, Sent::whole("ab"));
        join(feeder);
    });
}

#[test]
fn upload_is_not_held_up_when_the_response_is_delivered_early() {
    check(|| {
        let (feed, body) = Feed::ready([]);
        let (first, replay) = record(body, LIMIT);
        let first = client(first);
        let feeder = feeder(&feed, &[Step::Data("a"), Step::End]);
        replay.release();
        assert_eq!(join(first).0, Sent::whole("a"));
        join(feeder);
    });
}

#[test]
fn dropping_the_response_future_ends_the_upload_and_drops_the_body() {
    for is_paused in [false, true] {
        check_all(move || {
            let (feed, body) = Feed::ready([Step::Data("a")]);
            let (first, replay) = record(body, LIMIT);
            let first = client(first);
            if is_paused {
                assert_eq!(replay.pause(), Ok(()));
            }
            drop(replay);
            let (first, kept) = join(first);
            assert!(first.is_part_of("a") && first.1 == WITHDRAWN, "{first:?}");
            assert!(feed.is_dropped());
            drop(kept);
        });
    }
}

#[test]
fn dropping_the_response_future_ends_an_upload_past_the_limit() {
    check_all(|| {
        let (feed, body) = Feed::ready(["a", "b", "c"].map(Step::Data));
        let (first, replay) = record(body, 1);
        let first = client(first);
        drop(replay);
        let (first, kept) = join(first);
        assert!(first.is_part_of("abc") && first.1 == WITHDRAWN, "{first:?}");
        assert!(feed.is_dropped());
        drop(kept);
    });
}

#[test]
fn dropping_the_response_future_ends_both_attempts_and_drops_the_body() {
    check(|| {
        let (feed, body) = Feed::ready([Step::Data("a")]);
        let (first, mut replay) = record(body, LIMIT);
        let first = client(first);
        assert_eq!(replay.pause(), Ok(()));
        let second = client(replay.take_over());
        drop(replay);
        for (sent, _body) in [join(first), join(second)] {
            assert!(sent.is_part_of("a") && sent.1 == WITHDRAWN, "{sent:?}");
        }
        assert!(feed.is_dropped());
    });
}

#[test]
fn client_that_drops_the_first_attempt_takes_nothing_from_the_second() {
    check_all(|| {
        let (_feed, body) = Feed::ready(AB);
        let (mut first, mut replay) = record(body, LIMIT);
        let first = thread::spawn(move || {
            let polled = block_on(poll_fn(|cx| Pin::new(&mut first).poll_frame(cx)));
            drop(first);
            polled.is_some()
        });
        assert_eq!(replay.pause(), Ok(()));
        assert_eq!(send(&mut replay.take_over()), Sent::whole("ab"));
        assert!(join(first));
    });
}

#[test]
fn body_that_fails_fails_in_the_attempt_that_has_it() {
    check_all(|| {
        let (_feed, body) = Feed::ready([Step::Data("a"), Step::Fail]);
        let (first, mut replay) = record(body, LIMIT);
        let first = client(first);
        if let Err(why) = replay.pause() {
            assert_eq!(why, NotReplayable::Failed);
            replay.release();
            assert_eq!(join(first).0, Sent("a".to_owned(), Ending::Broken));
        } else {
            assert_eq!(send(&mut replay.take_over()), Sent("a".to_owned(), Ending::Broken));
            let (first, _body) = join(first);
            assert!(first.is_part_of("a") && first.1 == WITHDRAWN, "{first:?}");
        }
    });
}

#[test]
fn body_that_panics_leaves_nobody_waiting() {
    check_all(|| {
        let (_feed, body) = Feed::ready([Step::Data("a"), Step::Panic]);
        let (first, mut replay) = record(body, LIMIT);
        let first = client(first);
        if let Err(why) = replay.pause() {
            assert_eq!(why, NotReplayable::Failed);
            drop(replay);
            assert_eq!(join(first).0, Sent("a".to_owned(), Ending::Panic));
        } else {
            let second = send(&mut replay.take_over());
            let lost = Sent("a".to_owned(), Ending::CutOff(CutOff::Lost));
            let (first, _body) = join(first);
            match first.1 {
                // After the second attempt was given what was recorded, or before.
                Ending::Panic => assert!(second == lost || second.0.is_empty() && second.1 == WITHDRAWN),
                _ => assert_eq!(second, Sent("a".to_owned(), Ending::Panic)),
            }
        }
    });
}

#[test]
fn body_made_once_more_is_sent_whole_and_the_first_one_is_dropped() {
    check_all(|| {
        let (feed, body) = Feed::ready([Step::Data("a")]);
        let rebuild = Rebuild::new(|| Feed::ready(AB).1);
        let (first, mut replay) = ReplayBody::recording(body, LIMIT, Some(rebuild));
        let first = client(first);
        assert_eq!(replay.pause(), Ok(()));
        assert_eq!(send(&mut replay.take_over()), Sent::whole("ab"));
        let (first, _body) = join(first);
        assert!(first.is_part_of("a") && first.1 == WITHDRAWN, "{first:?}");
        assert!(feed.is_dropped());
    });
}
