use std::{fmt, sync::Arc};

use http::{HeaderMap, Method, Uri};
use tower_layer::Layer;

use crate::{
    classify::Classify,
    error::Error,
    policy::Policy,
    scope::{Origin, Scope},
    service::TokenRefresh,
    session::Session,
};

/// Wraps a client service so that refused tokens are refreshed silently.
///
/// Cloning is cheap, and all layers and services made from one [`Session`] share its token. The [crate
/// documentation](crate#where-it-goes) says where the layer goes among others.
///
/// ```
/// use tower_layer::Layer;
/// use tower_token_refresh::{Origin, Session, Token, TokenRefreshLayer, source_fn};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let http_client = ();
/// let session = Session::builder(source_fn(|_| async {
///     Ok(Token::new("from-the-authority"))
/// }))
/// .build();
/// let layer = TokenRefreshLayer::new(session, "https://api.example.com".parse::<Origin>()?);
/// let client = layer.layer(http_client);
/// # let _ = client;
/// # Ok(())
/// # }
/// ```
///
/// With options:
///
/// ```
/// use http::{Method, StatusCode};
/// use tower_token_refresh::{
///     Origin, Session, Token, TokenRefreshLayer,
///     classify::{Answer, Verdict},
///     source_fn,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let session = Session::builder(source_fn(|_| async { Ok(Token::new("t")) })).build();
/// let layer = TokenRefreshLayer::new(session, "https://api.example.com".parse::<Origin>()?)
///     .classifier(|answer: &Answer<'_>| match answer.status() {
///         StatusCode::FORBIDDEN => Verdict::Reject,
///         _ => Verdict::Accept,
///     })
///     .resend_if(|method, _, _| method != Method::POST)
///     .replay_limit(1024 * 1024)?;
/// # let _ = layer;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct TokenRefreshLayer {
    policy: Arc<Policy>,
}

impl TokenRefreshLayer {
    /// A layer that shows the session's token to `scope` only, with the [`Standard`](crate::Standard) classifier, and
    /// keeps up to 64 KiB of a request's body for the resend.
    pub fn new(session: Session, scope: impl Into<Scope>) -> Self {
        TokenRefreshLayer { policy: Arc::new(Policy::new(session, scope.into())) }
    }

    /// Which answers refuse the token. Replaces the current classifier; combine with [`or`](Classify::or) and
    /// [`and`](Classify::and).
    pub fn classifier(mut self, classifier: impl Classify) -> Self {
        self.policy().classifier = Some(Arc::new(classifier));
        self
    }

    /// How many bytes of a request's body are kept for the resend, trailers included; 64 KiB by default. Once more than
    /// that has been sent, nothing is kept, and a refusal that comes then is returned as it is. What counts is how much has
    /// been sent, not how long the whole body is.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for 0; [`without_replay`](Self::without_replay) turns the replay off.
    pub fn replay_limit(mut self, bytes: usize) -> Result<Self, Error> {
        Error::require(bytes > 0, "a replay limit must be at least 1 byte; `without_replay` keeps none")?;
        self.policy().replay_limit = bytes;
        Ok(self)
    }

    /// Keeps nothing of a request's body. Requests without a body are still sent again, and so are those with a
    /// [`Rebuild`](crate::body::Rebuild) extension.
    pub fn without_replay(mut self) -> Self {
        self.policy().replay_limit = 0;
        self
    }

    /// Which requests may be sent a second time; all, by default, because a refused request was not processed. Where
    /// redirects are followed *inside* the layer, it may have been processed: see "The neighbours" in
    /// [`composition`](crate::composition).
    pub fn resend_if(
        mut self,
        allows: impl Fn(&Method, &Uri, &HeaderMap) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.policy().resend = Some(Arc::new(allows));
        self
    }

    /// The origin of requests whose URI names none, for a service that is bound to one origin (one around hyper's
    /// `SendRequest` of HTTP/1, tonic's `Channel`). Without it, or with an origin outside of the scope, such requests go
    /// out as they are, and each is reported as an [`Unscoped`](crate::event::Event::Unscoped) event. A `Host` header
    /// decides nothing.
    pub fn assume_origin(mut self, origin: Origin) -> Self {
        self.policy().assumed = Some(origin);
        self
    }

    /// How many refused requests may wait for a refresh at once, with their responses held; no limit by default. All
    /// services of this layer are counted together, and so are all users of a gateway. Above it a refusal is returned at once
    /// while the refresh goes on, unless there is a newer token already: then the request is sent again with that. A suspected
    /// refusal of a request that cannot be sent again is held, too, but only without a limit.
    ///
    /// A waiting request keeps its part of a connection: over HTTP/2, unread answers use up the window of all requests on
    /// that connection, and paused uploads its streams. Requests that have sent nothing yet are not counted; limits outside
    /// of the layer bound those.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for 0.
    pub fn max_held(mut self, requests: usize) -> Result<Self, Error> {
        Error::require(requests > 0, "at least 1 refused request must be allowed to wait")?;
        self.policy().max_held = Some(requests);
        Ok(self)
    }

    /// The options of this layer alone.
    fn policy(&mut self) -> &mut Policy {
        let policy = Arc::make_mut(&mut self.policy);
        policy.held = Arc::default();
        policy
    }
}

impl<S: Clone> Layer<S> for TokenRefreshLayer {
    type Service = TokenRefresh<S>;

    fn layer(&self, inner: S) -> TokenRefresh<S> {
        TokenRefresh::new(inner, Policy::clone(&self.policy))
    }
}

impl fmt::Debug for TokenRefreshLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRefreshLayer").field("scope", &self.policy.scope).finish_non_exhaustive()
    }
}
