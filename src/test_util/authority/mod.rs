//! An authority in memory.

mod client;
mod ledger;
mod script;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use self::{ledger::Ledger, script::Script};
pub use self::{
    ledger::Rotation,
    script::{Endpoint, Failure},
};
use super::{
    clock::TestClock,
    gate::Gate,
    record::{InFlight, Log, ReceivedRequest},
};
use crate::time::Clock;

/// An authority that hands out tokens, as a tower service over HTTP messages and by direct methods.
///
/// | request | answer |
/// |---|---|
/// | `POST /login` `{"account", "password"}` | `{"access_token", "refresh_token", "expires_in", "token_type"}` |
/// | `POST /refresh` `{"refresh_token"}` | the same |
/// | `POST /oauth/token` `grant_type=password`, `refresh_token` or `authorization_code`, as a form | the same |
/// | `POST /oauth/token` `grant_type=client_credentials`, as a form | the same, without a refresh token |
/// | `POST /code` | `{"code"}`, good for one exchange |
/// | `POST /token` `{"account": <code>, "type": 100}` | `{"token"}` |
/// | `POST /token/verify` `{"token"}` | `{"isValid"}` |
///
/// A credential, code or refresh token that is not good (any more) is answered with 400 `{"error":"invalid_grant"}`. A body
/// without its content type, `application/json` or that of a form, is an `invalid_request`.
///
/// It does not ask which client it is: its secret, the redirect URI, the verifier of PKCE, OAuth scopes, resources and
/// audiences are not looked at, and a client's token is the first account's. Codes are [issued](Self::issue_code) for
/// either exchange. There are no other grants, and there is no endpoint for authorization, revocation or introspection.
///
/// Clones are the same authority, and its options can be changed while it is used. By default there is one account,
/// access tokens live for two hours, refresh tokens for ever, and [`Rotation::ReuseKillsFamily`] holds. Calls are
/// answered concurrently. See the [module docs](super) for an example.
#[derive(Clone)]
pub struct ModelAuthority {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    log: Log,
    in_flight: InFlight,
}

struct State {
    clock: Box<dyn Clock>,
    /// Both clocks at the authority's beginning.
    began: (Duration, SystemTime),
    /// How far the wall has been ahead of the monotonic clock since then.
    ahead: Duration,
    ledger: Ledger,
    script: Script,
    counts: Counts,
}

/// What the authority has been asked for, failed and lost answers included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Logins with a password, or of a client (`client_credentials`).
    pub logins: usize,
    /// Login codes asked for over HTTP.
    pub codes: usize,
    /// Codes exchanged for a token.
    pub exchanges: usize,
    /// Tokens verified.
    pub verifies: usize,
    /// Refresh tokens presented.
    pub refreshes: usize,
    /// How often each refresh token was presented, by its number; zero stands for texts of somebody else.
    pub presented: BTreeMap<usize, usize>,
    /// Families ended because a spent refresh token came back.
    pub family_deaths: usize,
    /// How many calls for a token were under way at once, at most.
    pub max_in_flight: usize,
}

impl Counts {
    /// Calls for a token: logins, exchanges and refreshes.
    pub fn token_calls(&self) -> usize {
        self.logins + self.exchanges + self.refreshes
    }

    /// How many refresh tokens of this authority were presented more than once.
    pub fn presented_again(&self) -> usize {
        self.presented.range(1..).filter(|&(_, &times)| times > 1).count()
    }
}

/// Options.
impl ModelAuthority {
    /// An authority with the account `alice` and the password `wonderland`.
    pub fn new() -> Self {
        let clock = TestClock::new();
        let state = Mutex::new(State {
            began: (clock.monotonic(), clock.wall()),
            clock: Box::new(clock),
            ahead: Duration::ZERO,
            ledger: Ledger::new(),
            script: Script::default(),
            counts: Counts::default(),
        });
        ModelAuthority {
            shared: Arc::new(Shared { state, log: Log::default(), in_flight: InFlight::default() }),
        }
    }

    /// The clock that lifetimes are measured by, to be given before the first token. Time has passed when either of
    /// its clocks says so: an authority does not sleep when the client's machine does.
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        self.with(|state| {
            state.began = (clock.monotonic(), clock.wall());
            state.clock = Box::new(clock);
            state.ahead = Duration::ZERO;
        })
    }

    /// One more account.
    #[must_use]
    pub fn account(self, name: &str, password: &str) -> Self {
        self.with(|state| state.ledger.accounts.push((name.to_owned(), password.to_owned())))
    }

    /// How long access tokens live that are issued from now on. `None`: for ever, and answers have no `expires_in`.
    /// `expires_in` is in whole seconds, as RFC 6749 §5.1 has it: clients are not told of a lifetime below one second.
    #[must_use]
    pub fn access_lifetime(self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.with(|state| state.ledger.access_lifetime = lifetime.into())
    }

    /// How long refresh tokens live that are issued from now on. `None`: for ever.
    #[must_use]
    pub fn refresh_lifetime(self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.with(|state| state.ledger.refresh_lifetime = lifetime.into())
    }

    /// What a refresh does to the refresh token.
    #[must_use]
    pub fn rotation(self, rotation: Rotation) -> Self {
        self.with(|state| state.ledger.rotation = rotation)
    }

    /// For how long a spent refresh token is answered with the pair that it has brought already. Zero by default.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        self.with(|state| state.ledger.grace = grace)
    }

    /// Each new access token ends the older ones of its account.
    #[must_use]
    pub fn newest_only(self) -> Self {
        self.with(|state| state.ledger.newest_only = true)
    }

    fn with(self, change: impl FnOnce(&mut State)) -> Self {
        change(&mut self.state());
        self
    }
}

/// What happens outside the client's sight.
impl ModelAuthority {
    /// Ends every access token.
    pub fn revoke_access(&self) {
        self.state().ledger.revoke_access();
    }

    /// Ends every refresh token; access tokens live on.
    pub fn revoke_refresh(&self) {
        self.state().ledger.revoke_refresh();
    }

    /// Ends all tokens that came of the same login as the newest one.
    pub fn revoke_family(&self) {
        self.state().ledger.revoke_family();
    }

    /// Ends every token.
    pub fn revoke_all(&self) {
        let ledger = &mut self.state().ledger;
        ledger.revoke_access();
        ledger.revoke_refresh();
    }

    /// A login or authorization code for the first account, good for one exchange.
    pub fn issue_code(&self) -> String {
        self.state().ledger.issue_code()
    }

    /// Whether this access token is good now.
    pub fn is_alive(&self, access: &str) -> bool {
        self.holder(access).is_some()
    }

    /// The account of an access token that is good now.
    pub fn holder(&self, access: &str) -> Option<String> {
        let mut state = self.state();
        let now = state.now();
        state.ledger.holder(access, now).map(str::to_owned)
    }
}

/// Script and evidence.
impl ModelAuthority {
    /// Holds the calls of an endpoint from now on, after they were counted and before anything is done. This gate takes the
    /// place of an earlier one, which still holds the calls that have come to it by now.
    pub fn hold(&self, endpoint: Endpoint) -> Gate {
        self.state().script.lane(endpoint).gate.insert(Gate::new()).clone()
    }

    /// The next call of this endpoint fails; more failures queue up behind it.
    pub fn fail_next(&self, endpoint: Endpoint, failure: Failure) {
        self.state().script.lane(endpoint).next.push_back(failure);
    }

    /// Every call of this endpoint fails, after the queued ones, until [`heal`](Self::heal).
    pub fn fail_always(&self, endpoint: Endpoint, failure: Failure) {
        self.state().script.lane(endpoint).always = Some(failure);
    }

    /// Forgets all failures of this endpoint.
    pub fn heal(&self, endpoint: Endpoint) {
        let mut state = self.state();
        let lane = state.script.lane(endpoint);
        lane.next.clear();
        lane.always = None;
    }

    /// What has been asked for so far.
    pub fn counts(&self) -> Counts {
        let state = self.state();
        Counts {
            family_deaths: state.ledger.family_deaths,
            max_in_flight: self.shared.in_flight.max(),
            ..state.counts.clone()
        }
    }

    /// The requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.log.requests()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("nothing panics while it holds the state")
    }
}

impl State {
    /// Time since the authority's beginning. A wall that is put back takes nothing away: what was spent stays so.
    fn now(&mut self) -> Duration {
        let (monotonic, wall) = self.began;
        // The wall first: what goes on between the two is no leap.
        let by_the_wall = self.clock.wall().duration_since(wall).unwrap_or_default();
        let passed = self.clock.monotonic().saturating_sub(monotonic);
        self.ahead = self.ahead.max(by_the_wall.saturating_sub(passed));
        passed.saturating_add(self.ahead)
    }
}

impl Default for ModelAuthority {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ModelAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelAuthority").field("counts", &self.counts()).finish_non_exhaustive()
    }
}
