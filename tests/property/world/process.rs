//! A process: a session on the shared store, and a client with the layer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tower::Layer;
use tower_token_refresh::{
    FetchError, Origin, Session, TokenRefresh, TokenRefreshLayer, TokenSource,
    event::Event,
    source::{
        AuthorityClient, Credentials, Password,
        oauth2::{RefreshTokenGrant, TokenEndpoint},
    },
    test_util::TestClock,
};

use super::{api::Network, authority::Line, store::Handle};
use crate::{checks::Pid, steps::Config};

pub(super) const ALICE: (&str, &str) = ("alice", "wonderland");
/// Bodies above it are not sent again.
pub(super) const REPLAY_LIMIT: usize = 32;

pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) session: Session,
    pub(super) client: TokenRefresh<Network>,
    /// It has a token in use.
    pub(super) has_token: Arc<AtomicBool>,
}

impl Process {
    pub(super) fn new(
        config: &Config,
        clock: &TestClock,
        line: Line,
        store: Handle,
        network: Network,
    ) -> Self {
        let pid = line.pid;
        let limit = Duration::from_secs(if config.impatient { 10 } else { 600 });
        let authority = AuthorityClient::new(line).timeout(limit).expect("longer than zero");
        let endpoint = TokenEndpoint::new(authority.clone(), "https://id.test/oauth/token".parse().unwrap());
        let refresh = RefreshTokenGrant::new(endpoint);
        let session = if config.password {
            let alice = || async { Ok::<_, FetchError>(Credentials::new(ALICE.0, ALICE.1)) };
            let login = Password::new(authority, "https://id.test/login".parse().unwrap(), alice);
            Session::builder(refresh.or_else(login))
        } else {
            Session::builder(refresh)
        };
        let has_token = Arc::new(AtomicBool::new(false));
        let seen = has_token.clone();
        let follow = move |event: &Event<'_>| match event {
            Event::Issued { .. } => seen.store(true, Ordering::Relaxed),
            Event::LoggedOut => seen.store(false, Ordering::Relaxed),
            _ => {}
        };
        let session =
            session.store(store).clock(clock.clone()).renewal(config.renewal).observer(follow).build();
        let client = TokenRefreshLayer::new(session.clone(), "https://api.test".parse::<Origin>().unwrap())
            .replay_limit(REPLAY_LIMIT)
            .expect("larger than zero")
            .layer(network);
        Process { pid, session, client, has_token }
    }
}
