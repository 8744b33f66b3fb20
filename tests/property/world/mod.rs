//! Two processes, an authority, an API and a store, and a day in their life.

mod api;
mod authority;
mod holding;
mod process;
mod store;

use std::{
    future::Future,
    pin::pin,
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::poll;
use http::{Request, StatusCode, header};
use tokio::{
    runtime,
    task::{JoinHandle, yield_now},
    time::{sleep, timeout},
};
use tower::Service;
use tower_token_refresh::{
    Error, ErrorKind, NoToken, SkipRefresh, Token, TokenRefresh,
    test_util::{ModelApi, ModelAuthority, ModelBody, Refusal, Route, TestClock, repeat_random_numbers},
};

use self::{
    api::{Door, Hosts, Network, Plan},
    authority::{Line, Office},
    holding::Holding,
    process::{ALICE, Process, REPLAY_LIMIT},
    store::{Handle, Shelf},
};
use crate::{
    checks::{Book, OWN, Pair, Pid},
    steps::{Account, Asked, Config, Hold, Jump, Kind, Revoked, Step},
};

/// Takes the steps and tells which rule was broken first, and by which step.
pub(crate) fn run(config: Config, steps: &[Step]) -> Result<(), String> {
    repeat_random_numbers(config.seed);
    // One task at a time, so that steps come between any two of them.
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .event_interval(1)
        .build()
        .expect("a runtime without I/O");
    runtime.block_on(async {
        let mut world = World::new(config);
        for (number, &step) in steps.iter().enumerate() {
            world.take(step).await;
            world.reap().await;
            world.book.verdict().map_err(|broken| format!("{broken}, at step {number}: {step:?}"))?;
        }
        world.end().await;
        world.book.verdict().map_err(|broken| format!("{broken}, at the end"))
    })
}

struct World {
    config: Config,
    /// The clock of the machine that all processes run on, and that of the authority.
    clock: TestClock,
    true_clock: TestClock,
    book: Book,
    office: Office,
    hosts: Hosts,
    shelf: Shelf,
    processes: Vec<Process>,
    requests: Vec<Running>,
    asks: Vec<Running>,
    requests_made: usize,
}

/// What somebody waits for.
struct Running {
    pid: Pid,
    /// The number of a request.
    id: Option<usize>,
    what: String,
    task: JoinHandle<()>,
}

const BOB: (&str, &str) = ("bob", "builder");
/// Longer than the longest of all limits, and than several refreshes in a row.
const LONG_ENOUGH: Duration = Duration::from_secs(600);

impl World {
    fn new(config: Config) -> Self {
        let (clock, true_clock) = (TestClock::new(), TestClock::new());
        let model = ModelAuthority::new()
            .clock(true_clock.clone())
            .account(BOB.0, BOB.1)
            .access_lifetime(config.lifetime.map(Duration::from_secs))
            .rotation(config.rotation);
        let model = if config.newest_only { model.newest_only() } else { model };
        let refusal =
            if config.certain { Refusal::Unauthorized } else { Refusal::Status(StatusCode::FORBIDDEN) };
        let api = ModelApi::new(model.clone())
            .refusal(refusal.clone())
            .route("/sick", Route::Always(refusal))
            .route("/open", Route::Open);
        let mut world = World {
            config,
            book: Book::new(config, clock.clone()),
            clock,
            true_clock,
            office: Office::new(model, &config),
            hosts: Hosts { model: api, holding: Holding::default(), door: Door::default() },
            shelf: Shelf::default(),
            processes: Vec::new(),
            requests: Vec::new(),
            asks: Vec::new(),
            requests_made: 0,
        };
        for _ in 0..if config.sibling { 2 } else { 1 } {
            let process = world.process();
            world.processes.push(process);
        }
        world
    }

    fn process(&self) -> Process {
        let (pid, book) = (self.book.process_started(), self.book.clone());
        Process::new(
            &self.config,
            &self.clock,
            Line { pid, office: self.office.clone(), book: book.clone() },
            Handle { pid, shelf: self.shelf.clone(), book: book.clone(), tells: self.config.tells },
            Network { pid, hosts: self.hosts.clone(), book },
        )
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Request(at, kind, hold) => self.request(at, kind, hold),
            Step::Answer(which) => self.hosts.holding.release(which),
            Step::Shut(is_shut) => {
                self.book.waiters_may_wait_again();
                self.hosts.door.set_shut(is_shut);
            }
            Step::Drop(which) => {
                let waiting = self.requests.len() + self.asks.len();
                if let Some(which) = which.checked_rem(waiting) {
                    let others = which.checked_sub(self.requests.len());
                    let running = match others {
                        None => self.requests.remove(which),
                        Some(which) => self.asks.remove(which),
                    };
                    running.task.abort();
                }
            }
            Step::Ask(at, asked) => self.ask(at, asked),
            Step::Login(at, who) => self.login(at, who, true).await,
            Step::LoginByRefresh(at, who) => self.login(at, who, false).await,
            Step::Replace(at, whole) => self.replace(at, whole).await,
            Step::Logout(at) => {
                let process = self.at(at);
                let (pid, session) = (process.pid, process.session.clone());
                self.book.logout(pid);
                self.change(pid, "a logout", async move { drop(session.logout().await) }).await;
            }
            Step::CredentialsChanged(at) => {
                let process = self.at(at);
                self.book.forgiven(process.pid);
                process.session.credentials_changed();
            }
            Step::Next(outcome) => self.office.next(outcome),
            Step::Release(which) => self.office.holding.release(which),
            Step::Revoke(Revoked::Access) => self.office.model.revoke_access(),
            Step::Revoke(Revoked::Refresh) => self.office.model.revoke_refresh(),
            Step::Revoke(Revoked::Family) => self.office.model.revoke_family(),
            Step::Fault(at, call, fault) => self.shelf.fail(self.at(at).pid, call, fault),
            Step::Heal(at) => self.shelf.heal(self.at(at).pid),
            Step::Restart(at) => self.restart(at),
            Step::Run(turns) => {
                for _ in 0..turns {
                    yield_now().await;
                }
            }
            Step::Pass(time) => {
                sleep(time).await;
                self.check_waiters().await;
            }
            Step::Clock(jump, time) => self.jump(jump, time),
            Step::Hammer(at, kind) => self.hammer(at, kind).await,
        }
    }

    fn at(&self, at: usize) -> &Process {
        &self.processes[at % self.processes.len()]
    }

    fn request(&mut self, at: usize, kind: Kind, hold: Hold) {
        let pid = self.at(at).pid;
        let id = self.requests_made;
        let Some(response) = self.call(at, kind, hold) else { return };
        let task = tokio::spawn(async move { drop(response.await) });
        self.requests.push(Running { pid, id: Some(id), what: format!("{kind:?}"), task });
    }

    /// Sends a request, if the client is ready.
    fn call(&mut self, at: usize, kind: Kind, hold: Hold) -> Option<Response> {
        let mut client = self.at(at).client.clone();
        if client.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending() {
            return None;
        }
        let id = self.requests_made;
        self.requests_made += 1;
        let process = self.at(at);
        self.book.request_made(process.pid, id, kind);
        let uri = match kind {
            Kind::Sick | Kind::SickUpload => "https://api.test/sick",
            Kind::NoToken => "https://api.test/open",
            Kind::Foreign(which) => FOREIGN[which % FOREIGN.len()],
            _ => "https://api.test/",
        };
        let body = match kind {
            Kind::Post => "a body".to_owned(),
            Kind::Upload | Kind::SickUpload => "a body".repeat(REPLAY_LIMIT),
            _ => String::new(),
        };
        let request = Request::post(uri).extension(Plan { id, kind, hold });
        let request = match kind {
            Kind::SkipRefresh => request.extension(SkipRefresh),
            Kind::NoToken => request.extension(NoToken),
            Kind::Own => request.header(header::AUTHORIZATION, OWN),
            _ => request,
        };
        let request = request.body(ModelBody::from(body)).expect("a request");
        Some(client.call(request))
    }

    fn ask(&mut self, at: usize, asked: Asked) {
        let process = self.at(at);
        let (pid, session) = (process.pid, process.session.clone());
        let keeping = session.keep_fresh();
        let book = self.book.clone();
        let task = tokio::spawn(async move {
            if matches!(asked, Asked::ValidFor(_) | Asked::Refresh) {
                book.forced(pid);
            }
            let shown = |token: Result<Token, Error>| {
                if token.is_ok_and(|token| token.access().expose().is_empty()) {
                    book.broken("a caller gets a token without an access token");
                }
            };
            match asked {
                Asked::Token => shown(session.token().await),
                Asked::ValidFor(time) => shown(session.token_valid_for(time).await),
                Asked::Refresh => shown(session.refresh().await),
                Asked::Start => drop(session.start().await),
                Asked::Settle => drop(session.settle().await),
                Asked::KeepFresh => {
                    drop(session);
                    keeping.await;
                }
            }
        });
        // That one ends with its session.
        if !matches!(asked, Asked::KeepFresh) {
            self.asks.push(Running { pid, id: None, what: format!("{asked:?}"), task });
        }
    }

    /// With an access token, or with nothing but a refresh token.
    async fn login(&mut self, at: usize, who: Account, whole: bool) {
        let (account, password) = match who {
            // The password of the source is Alice's.
            Account::Bob if !self.config.password => BOB,
            _ => ALICE,
        };
        let (mut token, mut pair) = self.pair(account, password).await;
        if let (false, Some(refresh)) = (whole, &pair.refresh) {
            token = Token::from_refresh_token(refresh.as_str());
            pair.access.clone_from(refresh);
        }
        let process = self.at(at);
        let (pid, session) = (process.pid, process.session.clone());
        self.book.login(pid, account, &pair);
        let what = if whole { "a login" } else { "a login with a refresh token alone" };
        self.change(pid, what, async move { drop(session.login(token).await) }).await;
        if !whole {
            // For what the refresh token gets.
            self.book.waiters_may_wait_again();
        }
    }

    async fn replace(&mut self, at: usize, whole: bool) {
        let pid = self.at(at).pid;
        let Some(account) = self.book.account(pid) else { return };
        let (account, password) = if account == BOB.0 { BOB } else { ALICE };
        let (token, mut pair) = self.pair(account, password).await;
        // A session without a token looks into the store first, and does not say when the replacement holds.
        let whole = whole || !self.at(at).has_token.load(Ordering::Relaxed);
        let token = if whole { token } else { Token::new(token.access().clone()) };
        if !whole {
            pair.refresh = None;
        }
        let session = self.at(at).session.clone();
        let book = self.book.clone();
        let replacing = async move {
            let mut replacing = pin!(session.replace(token));
            let first = poll!(&mut replacing);
            let is_over = |error: &Error| error.kind() == ErrorKind::SessionEnded;
            match &first {
                // Nothing has changed: whoever waits goes on waiting.
                Poll::Ready(Err(error)) if is_over(error) => book.waiters_may_wait_again(),
                _ => book.replace(pid, account, &pair),
            }
            if first.is_pending() {
                drop(replacing.await);
            }
        };
        self.change(pid, "a replacement", replacing).await;
    }

    /// The change itself is made at once; what comes after it, in a task.
    async fn change(&mut self, pid: Pid, what: &str, change: impl Future<Output = ()> + Send + 'static) {
        if !self.hosts.door.is_shut() {
            self.book.waiters_can_go_on(pid);
        }
        let mut change = Box::pin(change);
        if poll!(&mut change).is_pending() {
            self.asks.push(Running { pid, id: None, what: what.to_owned(), task: tokio::spawn(change) });
        }
    }

    async fn pair(&self, account: &str, password: &str) -> (Token, Pair) {
        let token = self.office.model.login_as(account, password).await.expect("the password is right");
        let pair = Pair {
            access: token.access().expose().to_owned(),
            refresh: token.refresh().map(|refresh| refresh.expose().to_owned()),
        };
        (token, pair)
    }

    fn restart(&mut self, at: usize) {
        let at = at % self.processes.len();
        let pid = self.processes[at].pid;
        self.book.process_killed(pid);
        for waiting in [&mut self.requests, &mut self.asks] {
            waiting.retain(|running| {
                if running.pid == pid {
                    running.task.abort();
                }
                running.pid != pid
            });
        }
        self.shelf.process_killed(pid);
        self.processes[at] = self.process();
    }

    fn jump(&mut self, jump: Jump, time: Duration) {
        self.book.clock_jumps();
        self.book.waiters_may_wait_again();
        match jump {
            Jump::Both => {
                self.clock.advance(time);
                self.true_clock.advance(time);
            }
            Jump::Suspend => {
                self.clock.suspend(time);
                self.true_clock.advance(time);
            }
            Jump::WallForward => self.clock.suspend(time),
            Jump::WallBack => self.clock.set_wall_back(time),
            Jump::MonotonicOnly => {
                self.clock.advance(time);
                self.clock.set_wall_back(time);
            }
        }
    }

    /// However often an endpoint refuses, the authority is asked a bounded number of times.
    async fn hammer(&mut self, at: usize, kind: Kind) {
        const SECONDS: usize = 120;
        let pid = self.at(at).pid;
        let before = self.book.calls_of(pid);
        // Each of these may bring a token that is accepted, or fail, and so begin the doubling anew.
        let others = self.requests.len() + self.asks.len() + self.office.planned();
        for _ in 0..SECONDS {
            for _ in 0..2 {
                self.request(at, kind, Hold::Nowhere);
            }
            sleep(Duration::from_secs(1)).await;
            self.check_waiters().await;
        }
        let calls = self.book.calls_of(pid) - before;
        let most = if self.config.certain { 5 } else { 60 };
        let renewals = self.config.lifetime.map_or(0, |lifetime| 2 * SECONDS / lifetime as usize + 2);
        // The seventh, because the first refusal of a token that nobody has judged yet starts a refresh all the same.
        // A login that a sibling still owed begins the doubling anew.
        let doublings = 1 + self.book.logins_taken_over(pid, before);
        let most = SECONDS / most + 7 * doublings + renewals + 2 * others;
        if calls > most {
            self.book
                .broken(format!("{calls} calls for an endpoint that always refuses, and {most} at most"));
        }
    }

    /// Time has passed, so that nobody who can go on waits.
    async fn check_waiters(&mut self) {
        self.reap().await;
        self.requests
            .iter()
            .filter_map(|running| running.id)
            .for_each(|id| self.book.check_waits_for_something(id));
    }

    /// Lets go of what has come to its end.
    async fn reap(&mut self) {
        for waiting in [&mut self.requests, &mut self.asks] {
            let (ended, on): (Vec<_>, Vec<_>) =
                waiting.drain(..).partition(|running| running.task.is_finished());
            *waiting = on;
            for Running { what, task, .. } in ended {
                if task.await.is_err_and(|error| error.is_panic()) {
                    self.book.broken(format!("a panic: {what}"));
                }
            }
        }
    }

    /// Nobody may wait for ever: not for an authority or a store that does not answer, and not when they do again.
    async fn end(&mut self) {
        self.hosts.door.set_shut(false);
        self.hosts.holding.open();
        sleep(LONG_ENOUGH).await;
        self.reap().await;
        if let Some(waiting) = self.requests.iter().chain(&self.asks).next() {
            return self.book.broken(format!("a future that does not end: {}", waiting.what));
        }
        self.office.open();
        for process in &self.processes {
            self.shelf.heal(process.pid);
        }
        sleep(LONG_ENOUGH).await;
        for at in 0..self.processes.len() {
            if let Err(error) = self.processes[at].session.settle().await {
                self.book.broken(format!("a session does not settle although all is well: {error}"));
            }
        }
        self.book.check_last_logout();
        for at in 0..self.processes.len() {
            self.login(at, Account::Alice, true).await;
            self.recovers(at).await;
        }
    }

    /// After a login all is well.
    async fn recovers(&mut self, at: usize) {
        let response = self.call(at, Kind::Get, Hold::Nowhere).expect("the door is open");
        match timeout(LONG_ENOUGH, response).await {
            Ok(Ok(response)) if response.status() == StatusCode::OK => {}
            Ok(Ok(response)) => self.book.broken(format!("{} after a login", response.status())),
            Ok(Err(error)) => self.book.broken(format!("after a login: {error}")),
            Err(_elapsed) => self.book.broken("no answer after a login"),
        }
    }
}

type Response = <TokenRefresh<Network> as Service<Request<ModelBody>>>::Future;

const FOREIGN: [&str; 6] = [
    "https://other.test/",
    "https://api.test:8443/",
    "http://api.test/",
    "https://api.test.other.test/",
    "https://api.test@other.test/",
    "/no-origin",
];
