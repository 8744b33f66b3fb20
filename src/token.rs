//! What an authority hands out.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::secret::Secret;

/// An access token with what is known about it. Cloning is cheap.
///
/// ```
/// use std::time::Duration;
/// use tower_token_refresh::Token;
///
/// let token = Token::new("an-access-token").expires_in(Duration::from_secs(7200)).refresh_token("a-refresh-token");
/// assert_eq!(token.access().expose(), "an-access-token");
/// ```
#[derive(Clone)]
pub struct Token(Arc<Parts>);

#[derive(Clone)]
struct Parts {
    access: Secret,
    refresh: Option<Secret>,
    lifetime: Option<Duration>,
    expires_at: Option<SystemTime>,
}

impl Token {
    /// A token of unknown lifetime, without a refresh token.
    ///
    /// Whether it can be shown to a server (not empty, no line break …) depends on the
    /// [`Placement`](crate::Placement) and is checked when the session takes it.
    pub fn new(access: impl Into<Secret>) -> Self {
        Token(Arc::new(Parts { access: access.into(), refresh: None, lifetime: None, expires_at: None }))
    }

    /// The lifetime counted from now on, as in `expires_in` of RFC 6749 §5.1. `None` and zero mean *unknown*.
    #[must_use]
    pub fn expires_in(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.parts().lifetime = lifetime.into().filter(|lifetime| !lifetime.is_zero());
        self
    }

    /// The moment at which the token dies by the wall clock. A moment that is past already only means that the
    /// token is not renewed ahead of time: the server decides whether it is good.
    #[must_use]
    pub fn expires_at(mut self, moment: impl Into<Option<SystemTime>>) -> Self {
        self.parts().expires_at = moment.into();
        self
    }

    /// The token that gets the next access token: a text, a [`Secret`], or an `Option` of one. An answer without one
    /// keeps the old one (RFC 6749 §6).
    #[must_use]
    pub fn refresh_token(mut self, refresh: impl OptionalSecret) -> Self {
        self.parts().refresh = refresh.secret();
        self
    }

    /// The access token.
    pub fn access(&self) -> &Secret {
        &self.0.access
    }

    /// The refresh token, if there is one.
    pub fn refresh(&self) -> Option<&Secret> {
        self.0.refresh.as_ref()
    }

    pub(crate) fn lifetime(&self) -> Option<Duration> {
        self.0.lifetime
    }

    pub(crate) fn moment_of_expiry(&self) -> Option<SystemTime> {
        self.0.expires_at
    }

    fn parts(&mut self) -> &mut Parts {
        Arc::make_mut(&mut self.0)
    }
}

/// What [`Token::refresh_token`] takes: authorities may or may not hand one out.
pub trait OptionalSecret {
    /// The secret, if there is one.
    fn secret(self) -> Option<Secret>;
}

macro_rules! optional_secret {
    ($($text:ty),*) => {$(
        impl OptionalSecret for $text {
            fn secret(self) -> Option<Secret> {
                Some(self.into())
            }
        }

        impl OptionalSecret for Option<$text> {
            fn secret(self) -> Option<Secret> {
                self.map(Into::into)
            }
        }
    )*};
}

optional_secret!(Secret, String, &str);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("refresh_token", &self.0.refresh.is_some())
            .field("lifetime", &self.0.lifetime)
            .field("expires_at", &self.0.expires_at)
            .finish_non_exhaustive()
    }
}
