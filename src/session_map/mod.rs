//! A session for each of many identities: the users of a gateway, the tenants of a service.
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_token_refresh::{Session, SessionMap, Token, source_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_token_refresh::Error> {
//! let sessions = SessionMap::builder(|user: &String| {
//!     let user = user.clone();
//!     let source = source_fn(move |_| {
//!         let token = Token::new(format!("token-of-{user}"));
//!         async move { Ok(token) }
//!     });
//!     // Give it a `.store(..)` of this user's own: with the default one an eviction logs the user out. If that is a file,
//!     // no user may choose its name: `FileStore::new(directory.join(format!("{number}.json")))`, say.
//!     Session::builder(source).build()
//! })
//! .capacity(10_000)?
//! .idle_after(Duration::from_secs(600))?
//! .build();
//!
//! // In a handler: this session goes along with the user's requests, as their extension.
//! let session = sessions.get(&"alice".to_owned());
//! assert_eq!(session.token().await?.access().expose(), "token-of-alice");
//!
//! // When the process ends:
//! sessions.settle().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # A stack for all of them
//!
//! The layer has a session of its own, which serves the requests that carry none. Give it one that has nothing, so
//! that a request whose extension was forgotten fails instead of being sent as somebody else:
//!
//! ```
//! use tower_token_refresh::{FetchError, Origin, Session, Token, TokenRefreshLayer, source_fn};
//!
//! # fn main() -> Result<(), tower_token_refresh::Error> {
//! let nobody = Session::builder(source_fn(|_| async {
//!     Err(FetchError::login_required("the request carries no session"))
//! }))
//! .build();
//! let layer = TokenRefreshLayer::new(nobody, "https://api.example.com".parse::<Origin>()?);
//! # let _ = layer;
//! # let session = Session::builder(source_fn(|_| async { Ok(Token::new("t")) })).build();
//!
//! let mut request = http::Request::new(());
//! request.extensions_mut().insert(session); // of this user
//! # Ok(())
//! # }
//! ```
//!
//! The extension is a `Session`: an `Arc` of one is not found. See [there](Session#security) for how a request may lose
//! it.
//!
//! # What is kept, and for how long
//!
//! 1. There is never more than one live session for a key. The map keeps a handle of each session that was used
//!    lately, and knows every session that is alive, whoever keeps it so: one that was evicted while a request still
//!    held it is found again.
//! 2. A session is evicted when it is idle for too long, or is the least recently used of too many. It is not evicted
//!    while somebody else (its own observer, say) holds it, while a refresh is in progress, or while its store has not
//!    taken its latest token; saving such a token is tried again and again in the background. The map exceeds its capacity
//!    by the number of these sessions.
//! 3. Eviction happens in [`get`](SessionMap::get), a few sessions at a time: there is no task, and no traffic means
//!    no eviction.

mod shelf;

use std::{
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;

use self::shelf::{Found, Leaving, Limits, Shelf};
use crate::{
    error::Error,
    session::Session,
    time::{Clock, SystemClock},
    timer::timer,
};

/// How long a session that cannot be evicted is left alone after its save has failed.
const BETWEEN_SAVES: Duration = Duration::from_secs(5);

/// A session for each key, made when it is first asked for. Clones are the same map. See the [module docs](self).
///
/// Give each session a [store](crate::session::SessionBuilder::store) of its key's own. The default store is in memory
/// and ends with the session, so an eviction (by [`capacity`](SessionMapBuilder::capacity) or
/// [`idle_after`](SessionMapBuilder::idle_after)) loses its tokens: a user who has logged in has to do so again, unless
/// the source logs in by itself. Where it does, an eviction also undoes a logout: [`remove`](Self::remove) says more.
///
/// `Hash`, `Eq`, `Clone` and `Drop` of the keys run under the map's lock: one of them that asks the map for anything waits
/// for ever, and one that blocks holds everybody up.
pub struct SessionMap<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    make: Box<dyn Fn(&K) -> Session + Send + Sync>,
    limits: Limits,
    clock: Box<dyn Clock>,
    shelf: Mutex<Shelf<K>>,
}

impl<K: Hash + Eq + Clone> SessionMap<K> {
    /// Starts to build a map whose sessions are made by `make`.
    ///
    /// `make` is called once for each session, not under a lock. It must not ask the map for the same key, nor for a key
    /// whose `make` asks for this one: both would wait for ever. A panic in `make` reaches the caller of
    /// [`get`](Self::get); the next caller tries again.
    pub fn builder(make: impl Fn(&K) -> Session + Send + Sync + 'static) -> SessionMapBuilder<K> {
        SessionMapBuilder {
            make: Box::new(make),
            limits: Limits { capacity: 1000, idle_after: Duration::from_secs(3600) },
            clock: Box::new(SystemClock::new()),
        }
    }

    /// The session of this key: the one that is alive, or else a new one.
    pub fn get(&self, key: &K) -> Session {
        let Shared { make, limits, clock, .. } = &*self.shared;
        let now = clock.monotonic();
        let (found, leaving) = self.shelf().find(key, limits, now);
        see_off(leaving);
        match found {
            Found::Alive(session) => session,
            Found::InTheMaking(place) => {
                let session = place.get_or_init(|| make(key)).clone();
                let leaving = self.shelf().made(key, &place, &session, limits, now);
                see_off(leaving);
                session
            }
        }
    }

    /// Gives up the map's own handle, and returns the session if it is alive. As long as anybody holds it,
    /// [`get`](Self::get) finds it again. [Settle](Session::settle) it before it is dropped: nobody else saves what its
    /// store has not taken.
    ///
    /// This ends no session. To log a user out, say so first, also where the session is not alive but stored:
    ///
    /// ```
    /// # async fn example(sessions: tower_token_refresh::SessionMap<u64>, user: u64) -> Result<(), tower_token_refresh::Error> {
    /// sessions.get(&user).logout().await?;
    /// sessions.remove(&user);
    /// # Ok(()) }
    /// ```
    ///
    /// A session that [`get`](Self::get) makes later begins anew. If its source can log in by itself (with a password, or an
    /// application's own credentials), ask for no user who has logged out, or leave that to a source that only refreshes.
    pub fn remove(&self, key: &K) -> Option<Session> {
        self.shelf().remove(key)
    }

    /// How many sessions the map itself keeps alive.
    pub fn len(&self) -> usize {
        self.shelf().len()
    }

    /// Whether the map itself keeps no session alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// [Settles](Session::settle) all sessions that are alive, for the end of a process.
    ///
    /// # Errors
    ///
    /// The error of the first session that did not settle; all were waited for.
    pub async fn settle(&self) -> Result<(), Error> {
        let alive = self.shelf().alive();
        let settled = join_all(alive.iter().map(Session::settle)).await;
        settled.into_iter().collect()
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf<K>> {
        self.shared.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What remains to be done for sessions that were looked at for eviction; not under the map's lock, because what
/// belongs to a session (its source, its store) may do anything when it is dropped.
fn see_off(Leaving { evicted, unsaved }: Leaving) {
    drop(evicted);
    for session in unsaved {
        // Without a runtime there is nothing to save it on, and its next turn will come.
        let Some(runtime) = session.engine().runtime() else { continue };
        runtime.spawn(async move {
            // A failure is told to the session's observers.
            if session.settle().await.is_err() {
                if let Ok(pause) = timer(BETWEEN_SAVES) {
                    pause.await;
                }
            }
        });
    }
}

impl<K> Clone for SessionMap<K> {
    fn clone(&self) -> Self {
        SessionMap { shared: self.shared.clone() }
    }
}

impl<K> fmt::Debug for SessionMap<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionMap").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

/// Builds a [`SessionMap`].
#[must_use]
pub struct SessionMapBuilder<K> {
    make: Box<dyn Fn(&K) -> Session + Send + Sync>,
    limits: Limits,
    clock: Box<dyn Clock>,
}

impl<K: Hash + Eq + Clone> SessionMapBuilder<K> {
    /// How many sessions the map keeps alive; 1000 by default.
    ///
    /// Choose more than the number of users active at a time: an evicted session forgets its cooling, and which
    /// passwords were refused, unless its source is kept elsewhere: it asks the authority at once when it comes back. With the default store it loses its tokens, too: see [`SessionMap`].
    ///
    /// # Errors
    ///
    /// `InvalidValue` for zero.
    pub fn capacity(mut self, sessions: usize) -> Result<Self, Error> {
        Error::require(sessions > 0, "a session map must have room for a session")?;
        self.limits.capacity = sessions;
        Ok(self)
    }

    /// For how long the map keeps a session alive that nobody asks for; an hour by default. A session that is evicted then
    /// loses its tokens if its store is the default one: see [`SessionMap`].
    ///
    /// # Errors
    ///
    /// `InvalidValue` for zero.
    pub fn idle_after(mut self, time: Duration) -> Result<Self, Error> {
        Error::require(!time.is_zero(), "a session must be kept for longer than no time")?;
        self.limits.idle_after = time;
        Ok(self)
    }

    /// Where the time comes from; [`SystemClock`] by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Builds the map.
    pub fn build(self) -> SessionMap<K> {
        let SessionMapBuilder { make, limits, clock } = self;
        SessionMap { shared: Arc::new(Shared { make, limits, clock, shelf: Mutex::new(Shelf::new()) }) }
    }
}

impl<K> fmt::Debug for SessionMapBuilder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionMapBuilder").field("limits", &self.limits).finish_non_exhaustive()
    }
}
