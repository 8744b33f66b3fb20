//! What happens in a session, for logs and metrics.
//!
//! An [`Observer`] is told of each change exactly once, before the requests that wait for the change go on. (At
//! `refresh_timeout` they go on first, because they have waited long enough.) Events carry generations, never tokens.
//!
//! ```
//! use std::error::Error as _;
//!
//! use tower_token_refresh::{Session, Token, event::Event, source_fn};
//!
//! # let source = source_fn(|_| async { Ok(Token::new("t")) });
//! let session = Session::builder(source)
//!     // Write the argument's type, so that the compiler accepts the closure for every lifetime.
//!     .observer(|event: &Event<'_>| match event {
//!         // The error's own text says what kind of failure it is; its cause, which is your source's text, says more.
//!         Event::RefreshFailed { error, .. } | Event::LoginRequired { error, .. } | Event::StoreFailed { error, .. } => {
//!             eprintln!("{error}: {:?}", error.source().map(ToString::to_string));
//!         }
//!         other => eprintln!("{other:?}"),
//!     })
//!     .build();
//! # let _ = session;
//! ```
//!
//! With the feature `tracing`, `TracingObserver` does this. How many calls of an authority there are, how long they take and
//! what they come to is counted where they are made, around the source:
//!
//! ```
//! use std::time::Instant;
//!
//! use tower_token_refresh::{FetchContext, FetchError, Token, TokenSource, source::Verification};
//!
//! # fn count(_: &str, _: &[(&str, &str)]) {}
//! # fn record(_: &str, _: f64) {}
//! struct Counted<S>(S);
//!
//! impl<S: TokenSource> TokenSource for Counted<S> {
//!     async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
//!         let began = Instant::now();
//!         let fetched = self.0.fetch(cx).await;
//!         let outcome = fetched.as_ref().map_or_else(|error| format!("{:?}", error.class()), |_| "Token".to_owned());
//!         count("token_refresh_fetches_total", &[("outcome", &outcome)]);
//!         record("token_refresh_fetch_seconds", began.elapsed().as_secs_f64());
//!         fetched
//!     }
//!
//!     async fn verify(&self, token: &Token) -> Verification {
//!         self.0.verify(token).await
//!     }
//! }
//! ```

#[cfg(feature = "tracing")]
mod tracing;

use std::sync::Arc;

#[cfg(feature = "tracing")]
pub use self::tracing::TracingObserver;
use crate::{error::Error, generation::Generation, panics::isolated};

/// Receives a session's events.
///
/// Called in the task that refreshes, in a task of the session that follows the store or writes to it, or in the task of
/// the caller who logs in, logs out, replaces the token, settles or sends an [`Unscoped`](Event::Unscoped) request; never
/// under a lock. It must not block: everybody who waits for the refresh also waits for the observer (at most
/// `refresh_timeout`). A panic in it is caught and ignored. Events from two tasks at the same time may arrive in either
/// order.
///
/// An `Arc` of an observer is itself an observer, so several sessions may share it:
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
///
/// use tower_token_refresh::{FetchError, Session, event::{Event, Observer}, source_fn};
///
/// #[derive(Default)]
/// struct Failures(AtomicU64);
///
/// impl Observer for Failures {
///     fn observe(&self, event: &Event<'_>) {
///         if let Event::RefreshFailed { .. } = event {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let failures = Arc::new(Failures::default());
/// for authority in ["one", "another"] {
///     let source = source_fn(move |_| async move { Err(FetchError::transient(authority)) });
///     let session = Session::builder(source).observer(failures.clone()).build();
///     assert!(session.token().await.is_err());
/// }
/// assert_eq!(failures.0.load(Ordering::Relaxed), 2);
/// # }
/// ```
pub trait Observer: Send + Sync + 'static {
    /// One event.
    fn observe(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync + 'static> Observer for F {
    fn observe(&self, event: &Event<'_>) {
        self(event);
    }
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn observe(&self, event: &Event<'_>) {
        (**self).observe(event);
    }
}

/// Those of a session.
#[derive(Default)]
pub(crate) struct Observers(pub(crate) Vec<Box<dyn Observer>>);

impl Observers {
    /// Tells them all; a panic in one of them is its own affair.
    pub(crate) fn announce(&self, event: &Event<'_>) {
        for observer in &self.0 {
            isolated(|| observer.observe(event));
        }
    }
}

/// One thing that happened in a session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Another token is in use: one that was fetched, that came from the store, or that the caller supplied (even if it
    /// was only a refresh token).
    #[non_exhaustive]
    Issued {
        /// The token of the same identity before it; none after a login.
        old: Option<Generation>,
        /// The new token.
        new: Generation,
    },
    /// A refresh brought no token, or none before `refresh_timeout` (then it still goes on), and will be tried again.
    #[non_exhaustive]
    RefreshFailed {
        /// Why.
        error: &'a Error,
    },
    /// A refresh ended the session: somebody has to log in.
    #[non_exhaustive]
    LoginRequired {
        /// Why.
        error: &'a Error,
    },
    /// The session was logged out.
    LoggedOut,
    /// A request whose URI names no origin went out without a token, because the layer assumes no origin, or one outside
    /// of its scope (see [`assume_origin`](crate::TokenRefreshLayer::assume_origin)).
    Unscoped,
    /// The store failed; the session goes on in memory. A record that gives way to what others have saved is no failure.
    #[non_exhaustive]
    StoreFailed {
        /// Why.
        error: &'a Error,
    },
}
