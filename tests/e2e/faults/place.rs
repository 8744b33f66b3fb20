//! A session between a token endpoint and a resource server that can both be made to fail.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;
use tower::{Layer, ServiceExt, timeout::Timeout};
use tower_token_refresh::{
    BoxError, Error, ErrorKind, FetchContext, FetchError, Origin, Outcome, Session, Token, TokenRefreshLayer,
    TokenSource,
    source::{
        AuthorityClient, Content,
        oauth2::{RefreshTokenGrant, TokenEndpoint},
    },
    test_util::{ModelAuthority, TestClock},
};

use crate::kit::{Http, Pool, get, pool};

/// Far more than any answer takes, and far less than for ever.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// How long something is waited for that does not come.
pub(super) const IN_VAIN: Duration = Duration::from_secs(1);

pub(super) struct Place {
    pub(super) authority: ModelAuthority,
    pub(super) session: Session,
    clock: TestClock,
    is_impatient: Arc<AtomicBool>,
    layer: TokenRefreshLayer,
    pool: Pool,
    url: String,
}

impl Place {
    /// The authority has grace, as it must have where answers can be lost: a refresh token that comes again brings the
    /// same pair again.
    pub(super) fn authority() -> ModelAuthority {
        ModelAuthority::new().grace(Duration::from_secs(3600))
    }

    /// With a token that is good.
    pub(super) async fn new(
        http: Http,
        authority: ModelAuthority,
        issuer: SocketAddr,
        api: SocketAddr,
        refresh_timeout: Duration,
    ) -> Self {
        let is_impatient = Arc::<AtomicBool>::default();
        let grant = |limit| {
            let client = AuthorityClient::new(pool::<Content>(http)).timeout(limit).unwrap();
            let url = format!("http://{issuer}/oauth/token").parse().unwrap();
            RefreshTokenGrant::new(TokenEndpoint::new(client, url))
        };
        let source =
            Source { patient: grant(SOON), impatient: grant(IN_VAIN), is_impatient: is_impatient.clone() };
        let clock = TestClock::new();
        // Far longer than any test takes, so that only a moved clock ends it.
        let cooling = Duration::from_secs(600);
        let session = Session::builder(source).clock(clock.clone()).cooling(cooling, cooling).unwrap();
        let session = session.refresh_timeout(refresh_timeout).unwrap().build();
        session.login(authority.login().await.unwrap()).await.unwrap();
        let origin: Origin = format!("http://{api}").parse().unwrap();
        let layer = TokenRefreshLayer::new(session.clone(), origin);
        Place {
            authority,
            session,
            clock,
            is_impatient,
            layer,
            pool: pool(http),
            url: format!("http://{api}/"),
        }
    }

    pub(super) fn with_new_connections(self, http: Http) -> Self {
        Place { pool: pool(http), ..self }
    }

    /// The next fetch is not waited for for long; those after it are, however busy the machine is.
    pub(super) fn fetch_in_vain(&self) {
        self.is_impatient.store(true, Ordering::Relaxed);
    }

    /// A request, which gets an answer.
    pub(super) async fn get(&self) -> Result<Response<Incoming>, BoxError> {
        self.attempt(SOON).await
    }

    /// The same, with little patience for each attempt.
    pub(super) async fn get_in_vain(&self) -> Result<Response<Incoming>, BoxError> {
        self.attempt(IN_VAIN).await
    }

    async fn attempt(&self, limit: Duration) -> Result<Response<Incoming>, BoxError> {
        let client = self.layer.layer(Timeout::new(self.pool.clone(), limit));
        let call = client.oneshot(get(self.url.clone()));
        timeout(3 * SOON, call).await.expect("every caller gets an answer")
    }

    /// A request that is refused, and whose refresh fails.
    pub(super) async fn failure(&self) -> Error {
        let result = self.get().await;
        let failure = Error::of(&result).expect("the refresh failed").clone();
        let response = result.expect("the refused response");
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(response.into_body().collect().await.is_ok());
        failure
    }

    /// A request that is answered, after so many attempts, and how many refresh tokens that has cost.
    pub(super) async fn success(&self, attempts: u8) -> usize {
        let before = self.refreshes();
        let response = self.get().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.extensions().get().map_or(1, Outcome::attempts), attempts);
        response.into_body().collect().await.expect("all of it");
        self.refreshes() - before
    }

    /// The refresh has failed, and no more than that: when it has cooled down, the next request gets its token.
    pub(super) async fn recovers(&self, failure: &Error) {
        assert_eq!(failure.kind(), ErrorKind::Transient);
        let before = self.refreshes();
        self.failure().await;
        assert_eq!(self.refreshes(), before, "it is left alone for a while");
        self.cool_down();
        assert_eq!(self.success(2).await, 1);
        assert_eq!(self.success(1).await, 0);
        let counts = self.authority.counts();
        assert_eq!((counts.logins, counts.family_deaths), (1, 0));
    }

    /// The session may ask again.
    pub(super) fn cool_down(&self) {
        self.clock.advance(Duration::from_secs(3600));
    }

    /// How many refresh tokens have been presented.
    pub(super) fn refreshes(&self) -> usize {
        self.authority.counts().refreshes
    }
}

/// Presents the refresh token, with more or less patience.
struct Source {
    patient: RefreshTokenGrant,
    impatient: RefreshTokenGrant,
    is_impatient: Arc<AtomicBool>,
}

impl TokenSource for Source {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        let grant =
            if self.is_impatient.swap(false, Ordering::Relaxed) { &self.impatient } else { &self.patient };
        grant.fetch(cx).await
    }
}
