//! An authority whose answers can be held.

use std::time::Duration;

use tower_token_refresh::{FetchContext, FetchError, Session, source_fn};

use super::{clock::StillClock, gate::Gate};
use crate::kit::tokens::Tokens;

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Authority {
    pub(crate) tokens: Tokens,
    /// Where each fetch waits for its answer.
    pub(crate) fetches: Gate,
    clock: StillClock,
}

impl Authority {
    /// And a session that has its first token. The fetches that follow are held.
    pub(crate) async fn with_session() -> (Self, Session) {
        let authority =
            Authority { tokens: Tokens::default(), fetches: Gate::new(), clock: StillClock::default() };
        let (tokens, fetches) = (authority.tokens.clone(), authority.fetches.clone());
        let source = source_fn(move |_: FetchContext| {
            let (tokens, fetches) = (tokens.clone(), fetches.clone());
            async move {
                fetches.pass().await;
                Ok::<_, FetchError>(tokens.issue().expires_in(HOUR))
            }
        });
        let session = Session::builder(source).clock(authority.clock.clone()).build();
        authority.fetches.let_one_through();
        session.token().await.expect("a token");
        (authority, session)
    }

    /// Ends the lives of all tokens that are issued by now, without a word to anybody.
    pub(crate) fn expire(&self) {
        self.clock.advance(2 * HOUR);
    }
}
