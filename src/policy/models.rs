//! The places for refused requests, taken and given back by several threads.

use loom::thread;

use super::{Held, Policy};
use crate::{Origin, Session, Token, source_fn, sync::kit::check_all};

#[test]
fn a_place_that_is_free_is_given_although_another_is_being_turned_away() {
    check_all(|| {
        let session = Session::builder(source_fn(async |_| Ok(Token::new("never")))).build();
        let mut policy = Policy::new(session, "https://api.test".parse::<Origin>().unwrap().into());
        policy.max_held = Some(1);
        let held = Held::one_more(&policy);
        assert!(held.is_some());
        let other = {
            let policy = policy.clone();
            thread::spawn(move || Held::one_more(&policy))
        };
        drop(held);
        let ours = Held::one_more(&policy);
        assert_ne!(ours.is_some(), other.join().unwrap().is_some());
    });
}
