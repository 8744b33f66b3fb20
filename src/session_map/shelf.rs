//! What a map keeps: handles on the sessions that were used lately, and a register of all that are alive.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use lru::LruCache;

use crate::session::{Engine, Session};

/// How many sessions one call looks at for eviction: more than one, because a call brings at most one.
const LOOKS: usize = 3;

/// How many may come or go between two clearings of the register, besides half as many as the first of them has left.
const SLACK: usize = 64;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) capacity: usize,
    pub(super) idle_after: Duration,
}

pub(super) struct Shelf<K> {
    /// In the order of their use. Unbounded for the cache, because not every session may be evicted.
    kept: LruCache<K, Kept>,
    register: HashMap<K, Entry>,
    /// After so many more that come or go the register is cleared of what is gone.
    clear_in: usize,
}

struct Kept {
    session: Session,
    used: Duration,
}

enum Entry {
    /// Whoever asks for the key makes its session, or waits until it is made.
    InTheMaking(Place),
    Made(Weak<Engine>),
}

pub(super) type Place = Arc<OnceLock<Session>>;

pub(super) enum Found {
    Alive(Session),
    InTheMaking(Place),
}

/// Sessions that were looked at for eviction.
#[derive(Default)]
pub(super) struct Leaving {
    /// Nothing is lost with them.
    pub(super) evicted: Vec<Session>,
    /// Nobody else holds them, and their store has not taken their latest token. They stay.
    pub(super) unsaved: Vec<Session>,
}

impl<K: Hash + Eq + Clone> Shelf<K> {
    pub(super) fn new() -> Self {
        Shelf { kept: LruCache::unbounded(), register: HashMap::new(), clear_in: SLACK }
    }

    pub(super) fn find(&mut self, key: &K, limits: &Limits, now: Duration) -> (Found, Leaving) {
        if let Some(session) = self.look_up(key) {
            let leaving = self.keep(key, &session, limits, now);
            return (Found::Alive(session), leaving);
        }
        let place = match self.register.get(key) {
            Some(Entry::InTheMaking(place)) => place.clone(),
            _ => {
                let place = Place::default();
                self.note_change();
                self.register.insert(key.clone(), Entry::InTheMaking(place.clone()));
                place
            }
        };
        (Found::InTheMaking(place), Leaving::default())
    }

    /// The first to say so registers the session; who has waited for it finds it registered.
    pub(super) fn made(
        &mut self,
        key: &K,
        place: &Place,
        session: &Session,
        limits: &Limits,
        now: Duration,
    ) -> Leaving {
        match self.register.get_mut(key) {
            Some(entry) if entry.is_at(place) => *entry = Entry::Made(Arc::downgrade(session.engine())),
            _ => return Leaving::default(),
        }
        self.keep(key, session, limits, now)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<Session> {
        let alive = self.look_up(key);
        self.kept.pop(key);
        self.note_change();
        alive
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn alive(&self) -> Vec<Session> {
        self.register.values().filter_map(Entry::session).collect()
    }

    fn look_up(&self, key: &K) -> Option<Session> {
        self.register.get(key)?.session()
    }

    /// Of an entry that is about to come, or a session that may be about to go.
    fn note_change(&mut self) {
        self.clear_in = self.clear_in.saturating_sub(1);
        if self.clear_in == 0 {
            self.register.retain(|_, entry| entry.is_alive());
            self.clear_in = self.register.len() / 2 + SLACK;
            self.register.shrink_to(2 * self.register.len() + SLACK);
        }
    }

    fn keep(&mut self, key: &K, session: &Session, limits: &Limits, now: Duration) -> Leaving {
        match self.kept.get_mut(key) {
            Some(kept) => kept.used = now,
            None => {
                self.kept.put(key.clone(), Kept { session: session.clone(), used: now });
            }
        }
        self.make_room(limits, now)
    }

    /// Looks at those that were used least lately. Who may not go has been in use until now.
    fn make_room(&mut self, limits: &Limits, now: Duration) -> Leaving {
        let mut leaving = Leaving::default();
        for _ in 0..LOOKS {
            let is_full = self.kept.len() > limits.capacity;
            let is_due = |kept: &Kept| is_full || now.saturating_sub(kept.used) >= limits.idle_after;
            if !self.kept.peek_lru().is_some_and(|(_, kept)| is_due(kept)) {
                break;
            }
            let Some((key, Kept { session, .. })) = self.kept.pop_lru() else { break };
            match (session.is_unshared(), session.is_saved()) {
                (true, true) => {
                    leaving.evicted.push(session);
                    self.note_change();
                    continue;
                }
                (true, false) => leaving.unsaved.push(session.clone()),
                (false, _) => {}
            }
            self.kept.put(key, Kept { session, used: now });
        }
        leaving
    }
}

impl Entry {
    fn session(&self) -> Option<Session> {
        match self {
            Entry::InTheMaking(_) => None,
            Entry::Made(engine) => engine.upgrade().map(Session::of),
        }
    }

    fn is_at(&self, place: &Place) -> bool {
        matches!(self, Entry::InTheMaking(making) if Arc::ptr_eq(making, place))
    }

    /// A place without anybody at it is what a panic has left.
    fn is_alive(&self) -> bool {
        match self {
            Entry::InTheMaking(place) => Arc::strong_count(place) > 1,
            Entry::Made(engine) => engine.strong_count() > 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_fn;

    const LIMITS: Limits = Limits { capacity: 1, idle_after: Duration::MAX };

    fn get(shelf: &mut Shelf<usize>, key: usize) -> Session {
        match shelf.find(&key, &LIMITS, Duration::ZERO).0 {
            Found::Alive(session) => session,
            Found::InTheMaking(place) => {
                let session = Session::builder(source_fn(|_| async { unreachable!("nobody asks") })).build();
                let _ = shelf.made(&key, &place, &session, &LIMITS, Duration::ZERO);
                session
            }
        }
    }

    #[test]
    fn what_is_gone_leaves_the_register_after_a_while() {
        let mut shelf = Shelf::new();
        let held: Vec<_> = (0..5000).map(|key| get(&mut shelf, key)).collect();
        assert_eq!(shelf.register.len(), held.len(), "all of them are alive");
        drop(held);
        for _ in 0..5000 {
            get(&mut shelf, 0);
        }
        assert_eq!(shelf.len(), 1);
        assert!(shelf.register.len() <= 3 * SLACK, "{}", shelf.register.len());
    }

    #[test]
    fn a_key_whose_session_could_not_be_made_does_not_stay() {
        let mut shelf = Shelf::new();
        for key in 0..5000 {
            let _ = shelf.find(&key, &LIMITS, Duration::ZERO);
        }
        assert!(shelf.register.len() <= 2 * SLACK, "{}", shelf.register.len());
    }

    #[test]
    fn a_removed_session_that_somebody_holds_is_found_again() {
        let mut shelf = Shelf::new();
        let held = get(&mut shelf, 0);
        for key in 1..5000 {
            get(&mut shelf, key);
            shelf.remove(&key);
            shelf.remove(&0);
        }
        assert!(Arc::ptr_eq(get(&mut shelf, 0).engine(), held.engine()));
    }
}
