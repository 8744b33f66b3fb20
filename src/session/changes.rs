//! What a session is doing, for those who want to follow it.

use std::sync::{Arc, Weak};

use tokio::sync::watch;

use super::{
    engine::Engine,
    kernel::{Fetch, Slot},
};
use crate::{
    error::{Error, ErrorKind},
    generation::Generation,
};

/// The state of a session as [`Changes`] tells it: what becomes of its refreshes. While one is in progress, or has
/// failed, the old token may still be good and in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// There is no token yet.
    Empty,
    /// A refresh is in progress.
    Refreshing,
    /// The token of this generation is in use. It may be a refresh token alone, for which no access token has been fetched
    /// yet.
    Issued(Generation),
    /// The last refresh failed; the next one waits for its back-off.
    Cooling,
    /// The authority keeps refusing without saying why; a fetch is tried now and then.
    Stalled,
    /// Nothing is fetched until somebody logs in.
    LoginRequired,
    /// The session was logged out.
    LoggedOut,
}

impl State {
    fn of(slot: &mut Slot) -> Self {
        match slot.fetch() {
            Fetch::Flight(flight) | Fetch::Overdue(flight, _) => match flight.over().map(Error::kind) {
                None => State::Refreshing,
                Some(ErrorKind::SessionEnded) => State::LoggedOut,
                Some(_) => State::LoginRequired,
            },
            Fetch::Cooling { error, .. } if error.kind() == ErrorKind::Stalled => State::Stalled,
            Fetch::Cooling { .. } => State::Cooling,
            Fetch::Dead(_) => State::LoginRequired,
            Fetch::LoggedOut => State::LoggedOut,
            Fetch::Idle => slot.token().map_or(State::Empty, |token| State::Issued(token.stamp().generation)),
        }
    }
}

/// Follows a session. A slow reader sees the newest state and misses the ones between.
///
/// ```
/// use tower_token_refresh::{Session, Token, session::State, source_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_token_refresh::Error> {
/// let session = Session::builder(source_fn(|_| async { Ok(Token::new("t")) })).build();
/// let mut changes = session.subscribe();
/// assert_eq!(changes.next().await, Some(State::Empty));
///
/// session.token().await?;
/// assert!(matches!(changes.next().await, Some(State::Issued(_))));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "it does nothing by itself: ask it for what comes next"]
pub struct Changes {
    engine: Weak<Engine>,
    pulse: watch::Receiver<()>,
    last: Option<State>,
}

impl Changes {
    pub(crate) fn of(engine: &Arc<Engine>) -> Self {
        Changes { engine: Arc::downgrade(engine), pulse: engine.pulse.subscribe(), last: None }
    }

    /// The state, as soon as it differs from the last one that was returned; the first call returns at once. `None` when
    /// the session is gone.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<State> {
        loop {
            self.pulse.mark_unchanged();
            let state = State::of(&mut self.engine.upgrade()?.slot());
            if self.last.replace(state) != Some(state) {
                return Some(state);
            }
            self.pulse.changed().await.ok()?;
        }
    }
}
