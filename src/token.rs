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
    refresh: Refresh,
    refresh_lifetime: Option<Duration>,
    refresh_expires_at: Option<SystemTime>,
    refresh_received_at: Option<SystemTime>,
    lifetime: Option<Duration>,
    expires_at: Option<SystemTime>,
    kind: Option<Box<str>>,
}

/// What is known of the refresh token.
#[derive(Clone)]
enum Refresh {
    /// The answer did not speak of one: the one before is still good.
    Unsaid,
    /// There is none, whatever there was before.
    Absent,
    Present(Secret),
}

impl Token {
    /// A token of unknown lifetime, without a refresh token.
    ///
    /// Whether it can be shown to a server (not empty, no line break …) depends on the
    /// [`Placement`](crate::Placement) and is checked when the session takes it.
    pub fn new(access: impl Into<Secret>) -> Self {
        Token(Arc::new(Parts {
            access: access.into(),
            refresh: Refresh::Unsaid,
            refresh_lifetime: None,
            refresh_expires_at: None,
            refresh_received_at: None,
            lifetime: None,
            expires_at: None,
            kind: None,
        }))
    }

    /// A token for [`Session::login`](crate::Session::login) with nothing but a refresh token, from an environment variable
    /// or another program perhaps: the first request gets the access token for it. A token without an access token is
    /// accepted nowhere else.
    ///
    /// Do this once: at a later start the store may have the next refresh token, and a login would overwrite it with the
    /// spent one. Do it again when a login is required; a request may be the first to hear so, because
    /// [`Session::token`](crate::Session::token) returns a token that has not expired even if the server has refused it.
    ///
    /// ```
    /// # use http::Response;
    /// # use tower_token_refresh::{BoxError, Error, Session, Token};
    /// # async fn example(
    /// #     session: Session, result: Result<Response<String>, BoxError>, refresh_token: String,
    /// # ) -> Result<(), Error> {
    /// // What a request has come to:
    /// if Error::of(&result).is_some_and(Error::is_login_required) {
    ///     session.login(Token::from_refresh_token(refresh_token)).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_refresh_token(refresh: impl Into<Secret>) -> Self {
        Token::new("").refresh_token(refresh.into())
    }

    /// The lifetime, as in `expires_in` of RFC 6749 §5.1, counted from the moment at which a session takes the token:
    /// from its source, at a [`login`](crate::Session::login) or a [`replace`](crate::Session::replace). For a token that
    /// was kept meanwhile use [`expires_at`](Self::expires_at). `None` and zero mean *unknown*.
    ///
    /// There is one exception, for token hubs that count in whole seconds and say 0 in the last one: if a source that has
    /// not looked at the [refresh token](crate::FetchContext::refresh_token) brings the session's current token again, and
    /// says nothing of its end, the token ends when it was known to, or in a second if that has passed.
    #[must_use]
    pub fn expires_in(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.parts().lifetime = lifetime.into().filter(|lifetime| !lifetime.is_zero());
        self
    }

    /// The moment at which the token expires by the wall clock; if a lifetime is set as well, the earlier end counts. A
    /// moment in the past only means that the token is not renewed ahead of time: the server decides whether it is good.
    #[must_use]
    pub fn expires_at(mut self, moment: impl Into<Option<SystemTime>>) -> Self {
        self.parts().expires_at = moment.into();
        self
    }

    /// The refresh token, with which the next access token is fetched: a text, a [`Secret`], or an `Option` of one. If an
    /// answer brings no refresh token, or an empty one, the session keeps the old one (RFC 6749 §6).
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use tower_token_refresh::Token;
    ///
    /// let answer = HashMap::from([("access_token", "a".to_owned()), ("refresh_token", "r".to_owned())]);
    /// let token = Token::new(&answer["access_token"]).refresh_token(answer.get("refresh_token"));
    ///
    /// let same = Token::new(token.access()).refresh_token(token.refresh());
    /// assert_eq!(same.refresh().map(|refresh| refresh.expose()), Some("r"));
    /// ```
    #[must_use]
    pub fn refresh_token(mut self, refresh: impl OptionalSecret) -> Self {
        let parts = self.parts();
        parts.refresh = given(refresh).map_or(Refresh::Unsaid, Refresh::Present);
        parts.refresh_received_at = None;
        self
    }

    /// Says that there is no refresh token, and that an earlier one does not belong to this token, as after a new login.
    #[must_use]
    pub fn without_refresh_token(mut self) -> Self {
        self.parts().refresh = Refresh::Absent;
        self
    }

    /// The lifetime of the refresh token, counted as for [`expires_in`](Self::expires_in). A refresh token that has expired
    /// is not presented at first, and one that expires early is presented [in
    /// time](crate::session::SessionBuilder::renew_before). Do not set this for a `login` or `replace` if the session's
    /// source never presents a refresh token: the session would renew early for nothing. `None` and zero mean *unknown*.
    #[must_use]
    pub fn refresh_expires_in(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.parts().refresh_lifetime = lifetime.into().filter(|lifetime| !lifetime.is_zero());
        self
    }

    /// The moment at which the refresh token expires by the wall clock, instead of its
    /// [lifetime](Self::refresh_expires_in); if both are set, the earlier end counts.
    #[must_use]
    pub fn refresh_expires_at(mut self, moment: impl Into<Option<SystemTime>>) -> Self {
        self.parts().refresh_expires_at = moment.into();
        self
    }

    /// The moment at which the refresh token came, if that was not just now.
    pub(crate) fn refresh_received_at(mut self, moment: Option<SystemTime>) -> Self {
        self.parts().refresh_received_at = moment;
        self
    }

    /// The type of the token, as in `token_type` of RFC 6749 §7.1. `bearer` and `dpop` in any case are spelled as the
    /// schemes `Bearer` and `DPoP` are.
    #[must_use]
    pub fn token_type(mut self, kind: &str) -> Self {
        let known = ["Bearer", "DPoP"].into_iter().find(|known| known.eq_ignore_ascii_case(kind));
        self.parts().kind = Some(known.unwrap_or(kind).into());
        self
    }

    /// The access token. Empty in a token made by [`from_refresh_token`](Self::from_refresh_token).
    pub fn access(&self) -> &Secret {
        &self.0.access
    }

    /// The refresh token, if there is one.
    pub fn refresh(&self) -> Option<&Secret> {
        match &self.0.refresh {
            Refresh::Present(refresh) => Some(refresh),
            Refresh::Unsaid | Refresh::Absent => None,
        }
    }

    /// The type of the token, if it is known.
    pub fn kind(&self) -> Option<&str> {
        self.0.kind.as_deref()
    }

    /// Whether there is nothing to show to a server, and something to get it with.
    pub(crate) fn has_only_refresh(&self) -> bool {
        self.access().expose().is_empty() && self.refresh().is_some()
    }

    /// Whether the refresh token of before is still good: the answer did not speak of one.
    pub(crate) fn keeps_refresh_token(&self) -> bool {
        matches!(self.0.refresh, Refresh::Unsaid)
    }

    /// The lifetime given to [`expires_in`](Self::expires_in), counted from when the token was fetched, which may have
    /// been long ago: see [`expiry`](Self::expiry). `None`: unknown.
    pub fn lifetime(&self) -> Option<Duration> {
        self.0.lifetime
    }

    /// The moment given to [`expires_at`](Self::expires_at). A token that a session hands out has its end here, if that
    /// is known, so that its life does not begin anew in another session.
    pub fn expiry(&self) -> Option<SystemTime> {
        self.0.expires_at
    }

    /// The lifetime of the refresh token, as it was given to [`refresh_expires_in`](Self::refresh_expires_in). `None`:
    /// unknown.
    pub fn refresh_lifetime(&self) -> Option<Duration> {
        self.0.refresh_lifetime
    }

    /// The moment given to [`refresh_expires_at`](Self::refresh_expires_at). For a token that a session hands out: when
    /// its refresh token expires, if that is known.
    pub fn refresh_expiry(&self) -> Option<SystemTime> {
        self.0.refresh_expires_at
    }

    pub(crate) fn refresh_received(&self) -> Option<SystemTime> {
        self.0.refresh_received_at
    }

    fn parts(&mut self) -> &mut Parts {
        Arc::make_mut(&mut self.0)
    }
}

/// The argument of [`Token::refresh_token`]: a [`Secret`] or a text, owned or borrowed, or an `Option` of one, because an
/// authority may or may not hand out a refresh token. Sealed: no other type can implement it.
pub trait OptionalSecret: sealed::Sealed {
    /// The secret, if there is one.
    fn secret(self) -> Option<Secret>;
}

mod sealed {
    #[expect(unnameable_types, reason = "so nobody else can implement it")]
    pub trait Sealed {}
}

/// A refresh token as it was given: an empty one is none.
pub(crate) fn given(refresh: impl OptionalSecret) -> Option<Secret> {
    refresh.secret().filter(|secret| !secret.expose().is_empty())
}

macro_rules! optional_secret {
    ($($text:ty),*) => {$(
        impl sealed::Sealed for $text {}
        impl sealed::Sealed for Option<$text> {}

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

optional_secret!(Secret, &Secret, String, &String, &str);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("refresh_token", &self.refresh().is_some())
            .field("lifetime", &self.0.lifetime)
            .field("expires_at", &self.0.expires_at)
            .finish_non_exhaustive()
    }
}
