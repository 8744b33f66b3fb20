use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Uri;
use tokio::time::Instant;

use super::apps::stable_token;
use crate::{
    secret::Secret,
    source::{AppToken, AuthorityClient, AuthorityError, Cause, FetchContext, FetchError, TokenSource},
    token::Token,
};

/// Tokens for WeChat's server API from `stable_token`, which gives the same token to any number of processes.
///
/// That is the normal mode, in which a token is replaced in its last five minutes. If a token that was fetched in this mode
/// is refused again, a new one is *forced*: 30 s after the end of the last such call at the earliest (after its start, if it was given up), and 20 times in any
/// 24 hours, because WeChat grants no more ([`getStableAccessToken`][limits]). A call that was not sent, or was refused,
/// counts only for the 30 s. Both times are measured by tokio's clock. Each `StableToken` counts its own calls only; WeChat
/// counts those of all processes of the application.
///
/// [limits]: https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken.html
#[must_use]
pub struct StableToken {
    app: AppToken,
    forced: Mutex<Forced>,
}

#[derive(Default)]
struct Forced {
    last: Option<Instant>,
    /// When WeChat has forced one, or may have.
    granted: Vec<Instant>,
}

const FORCED_A_DAY: usize = 20;
const DAY: Duration = Duration::from_secs(24 * 3600);
const BETWEEN_FORCED: Duration = Duration::from_secs(30);

impl StableToken {
    /// A source for this application.
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

    /// The moment as which another token that is forced now is counted; `None`: it may not be forced.
    fn force(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut forced = self.forced();
        forced.granted.retain(|&moment| now.duration_since(moment) < DAY);
        let is_soon = forced.last.is_some_and(|last| now.duration_since(last) < BETWEEN_FORCED);
        if is_soon || forced.granted.len() >= FORCED_A_DAY {
            return None;
        }
        forced.last = Some(now);
        forced.granted.push(now);
        Some(now)
    }

    fn forced(&self) -> MutexGuard<'_, Forced> {
        self.forced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a call has forced nothing: it was not sent, or refused. What a `Retry` has sent before is WeChat's to count.
fn is_without_effect(failure: &FetchError) -> bool {
    let is_refusal = |answer: &AuthorityError| answer.code().is_some() || answer.status().is_client_error();
    failure.was_not_processed || AuthorityError::find(failure.cause()).is_some_and(is_refusal)
}

impl TokenSource for StableToken {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        let was_refused_again = cx.cause() == Cause::Refused && cx.fruitless() > 0;
        let moment = if was_refused_again { self.force() } else { None };
        let outcome = self.app.ask(&cx, Some(("force_refresh", moment.is_some()))).await;
        if let Some(moment) = moment {
            let mut forced = self.forced();
            // WeChat has got the call after `moment`, and counts from there.
            forced.last = Some(Instant::now());
            if outcome.as_ref().is_err_and(is_without_effect) {
                forced.granted.retain(|&granted| granted != moment);
            }
        }
        outcome
    }
}

impl fmt::Debug for StableToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StableToken").field("app", &self.app).finish_non_exhaustive()
    }
}
