//! Users and their dice.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tower::BoxError;

use crate::{dice::Dice, tally::Tally, user::User};

/// What servers and clients know. Clones are the same world.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) users: Arc<Vec<Arc<User>>>,
    pub(crate) tally: Arc<Tally>,
    seed: u64,
    rolls: Arc<AtomicU64>,
}

impl World {
    pub(crate) async fn new(users: usize, seed: u64) -> Self {
        let mut all = Vec::new();
        for number in 0..users {
            all.push(User::new(number).await);
        }
        World { users: Arc::new(all), tally: Arc::default(), seed, rolls: Arc::default() }
    }

    /// Dice of one's own.
    pub(crate) fn dice(&self) -> Dice {
        Dice::of(self.seed, self.rolls.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn user_at(&self, path: &str) -> Result<Arc<User>, BoxError> {
        let user =
            path.strip_prefix("/user-").and_then(|number| self.users.get(number.parse::<usize>().ok()?));
        Ok(user.ok_or("nobody lives here")?.clone())
    }
}
