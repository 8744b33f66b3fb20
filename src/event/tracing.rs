//! Events as those of `tracing`.

use std::{fmt, io};

use ::tracing::{debug, error, info, warn};

use super::{Event, Observer};
#[cfg(feature = "json")]
use crate::source::{AuthorityError, OwnWords};
use crate::{
    error::{Error, causes},
    generation::Generation,
    store::Damaged,
};

/// Writes a session's events to [`tracing`](https://docs.rs/tracing), under the target `tower_token_refresh`.
///
/// | event | level | fields |
/// |---|---|---|
/// | [`Issued`](Event::Issued) | `DEBUG` | `old`, `new` |
/// | [`RefreshFailed`](Event::RefreshFailed) | `WARN` | `error`, `kind`, `cause` |
/// | [`LoginRequired`](Event::LoginRequired), [`StoreFailed`](Event::StoreFailed) | `ERROR` | `error`, `kind`, `cause` |
/// | [`LoggedOut`](Event::LoggedOut) | `INFO` | |
/// | [`Unscoped`](Event::Unscoped) | `DEBUG` | |
///
/// and `session` in each, if that has a [name](Self::named).
///
/// The `cause` is as much of the chain of causes as cannot hold a secret: this crate's own words, the status and code of an
/// [`AuthorityError`](../source/struct.AuthorityError.html), the kind of an `io::Error`, what a store says of
/// [`Damaged`](crate::store::Damaged) data. The texts of a client, a source or a store of
/// yours are left out, because they may hold anything, a URL with a secret in its query for one: write them where you make
/// them.
///
/// ```
/// use tower_token_refresh::{Session, Token, event::TracingObserver, source_fn};
///
/// # let source = source_fn(|_| async { Ok(Token::new("t")) });
/// let session = Session::builder(source).observer(TracingObserver::named("crm")).build();
/// # let _ = session;
/// ```
#[derive(Clone, Debug, Default)]
pub struct TracingObserver {
    session: Option<String>,
}

impl TracingObserver {
    /// With a name for the session, to tell several apart in one log.
    pub fn named(session: impl Into<String>) -> Self {
        TracingObserver { session: Some(session.into()) }
    }
}

impl Observer for TracingObserver {
    fn observe(&self, event: &Event<'_>) {
        const TARGET: &str = "tower_token_refresh";
        let session = self.session.as_deref();
        match event {
            Event::Issued { old, new } => {
                let (old, new) = (old.map(Generation::as_u64), new.as_u64());
                debug!(target: TARGET, session, old, new, "another token is in use");
            }
            Event::RefreshFailed { error } => {
                let (kind, cause) = (error.kind(), cause(error));
                warn!(target: TARGET, session, %error, ?kind, cause, "a refresh has failed");
            }
            Event::LoginRequired { error } => {
                let (kind, cause) = (error.kind(), cause(error));
                error!(target: TARGET, session, %error, ?kind, cause, "somebody has to log in");
            }
            Event::LoggedOut => info!(target: TARGET, session, "the session was logged out"),
            Event::Unscoped => {
                debug!(target: TARGET, session, "a request of unknown origin went out without a token");
            }
            Event::StoreFailed { error } => {
                let (kind, cause) = (error.kind(), cause(error));
                error!(target: TARGET, session, %error, ?kind, cause, "the token store has failed");
            }
        }
    }
}

/// What is behind an error, as far as it cannot hold a secret.
fn cause(error: &Error) -> Option<String> {
    let harmless: Vec<_> = causes(error).skip(1).filter_map(harmless).collect();
    (!harmless.is_empty()).then(|| harmless.join(": "))
}

fn harmless(link: &(dyn std::error::Error + 'static)) -> Option<String> {
    let shown = |text: &dyn fmt::Display| Some(text.to_string());
    if let Some(error) = link.downcast_ref::<Error>() {
        return shown(error);
    }
    if let Some(damaged) = link.downcast_ref::<Damaged>() {
        return shown(damaged);
    }
    #[cfg(feature = "json")]
    if let Some(answer) = link.downcast_ref::<AuthorityError>() {
        return shown(answer);
    }
    #[cfg(feature = "json")]
    if let Some(words) = link.downcast_ref::<OwnWords>() {
        return shown(words);
    }
    shown(&link.downcast_ref::<io::Error>()?.kind())
}
