use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::Uri;
use tokio::time::Instant;

use super::apps::stable_token;
use crate::{
    secret::Secret,
    source::{AppToken, AuthorityClient, Cause, FetchContext, FetchError, TokenSource, wire::json::Scalar},
    token::Token,
};

/// Tokens for WeChat's server API by `stable_token`, which any number of processes may ask for the same one.
///
/// Normally that is what it does, and a token in its last five minutes is replaced. Where a token that was asked for in
/// this way is refused again, a new one is *forced*: at most every 30 s, and 20 times in any 24 hours, because WeChat
/// grants no more.
#[must_use]
pub struct StableToken {
    app: AppToken,
    forced: Mutex<VecDeque<Instant>>,
}

const FORCED_A_DAY: usize = 20;
const DAY: Duration = Duration::from_secs(24 * 3600);
const BETWEEN_FORCED: Duration = Duration::from_secs(30);

impl StableToken {
    /// For this application.
    pub fn new(
        client: impl Into<AuthorityClient>,
        app_id: impl Into<Secret>,
        secret: impl Into<Secret>,
    ) -> Self {
        StableToken {
            app: stable_token(client.into(), app_id.into(), secret.into()),
            forced: Mutex::default(),
        }
    }

    /// Another URL, for a proxy.
    pub fn url(mut self, url: Uri) -> Self {
        self.app = self.app.url(url);
        self
    }

    /// Whether another token may be forced now; if so, that is counted.
    fn may_force(&self) -> bool {
        let now = Instant::now();
        let mut forced = self.forced.lock().unwrap_or_else(PoisonError::into_inner);
        forced.retain(|&moment| now.duration_since(moment) < DAY);
        let is_soon = forced.back().is_some_and(|&last| now.duration_since(last) < BETWEEN_FORCED);
        let may = !is_soon && forced.len() < FORCED_A_DAY;
        if may {
            forced.push_back(now);
        }
        may
    }
}

impl TokenSource for StableToken {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        let was_refused_again = cx.cause() == Cause::Refused && cx.fruitless() > 0;
        let force = was_refused_again && self.may_force();
        self.app.ask(&cx, Some(("force_refresh", Scalar::Bool(force)))).await
    }
}

impl fmt::Debug for StableToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StableToken").field("app", &self.app).finish_non_exhaustive()
    }
}
