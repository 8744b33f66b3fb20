//! One variant in the storm, moved on by gates, so that luck decides nothing.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tower::ServiceExt;
use tower_token_refresh::{
    BoxError,
    test_util::{Endpoint, Phase},
};

use crate::{
    connector::Connector,
    mutex,
    options::Options,
    original, ours,
    phone::{Client, Phone},
    report::grouped,
    server::Server,
    wire::{Exchange, Flight, Progress, Record, Wire},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Original,
    Mutex,
    Ours,
}

impl Variant {
    pub(crate) const ALL: [Variant; 3] = [Variant::Original, Variant::Mutex, Variant::Ours];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Variant::Original => "the original",
            Variant::Mutex => "a mutex around it",
            Variant::Ours => "tower-token-refresh",
        }
    }

    fn client(self, phone: Phone) -> Result<Client, BoxError> {
        match self {
            Variant::Original => Ok(original::client(phone)),
            Variant::Mutex => Ok(mutex::client(phone)),
            Variant::Ours => ours::client(phone),
        }
    }

    /// How many token calls come before one of them is answered. The gate waits for that many.
    fn token_calls_at_once(self, requests: usize) -> usize {
        match self {
            Variant::Original => requests,
            Variant::Mutex | Variant::Ours => 1,
        }
    }
}

/// What became of a variant.
pub(crate) struct Outcome {
    pub(crate) variant: Variant,
    pub(crate) token_calls: usize,
    /// How long each answered call took.
    pub(crate) latencies: Vec<Duration>,
    /// Calls that came back with a 403.
    pub(crate) refused: usize,
    /// Calls that came back with an error, and one of the errors.
    pub(crate) failed: Option<(usize, BoxError)>,
    pub(crate) never: usize,
    pub(crate) connections: usize,
    pub(crate) first_launch_was_anonymous: bool,
    pub(crate) exchanges: Vec<Exchange>,
    /// When the storm began, by the clock of `exchanges`.
    pub(crate) began: Duration,
    /// When the server revoked the token.
    pub(crate) revoked: Duration,
}

impl Outcome {
    pub(crate) fn answered(&self) -> usize {
        self.latencies.len()
    }
}

pub(crate) async fn run(variant: Variant, options: &Options) -> Result<Outcome, BoxError> {
    let requests = options.requests;
    let http2 = options.needs_http2();
    let server = Server::start(http2).await?;
    let connector = Connector::new(server.address, options.connection_limit());
    let record = Arc::new(Record::new());
    let wire = Wire::new(&connector, http2.then_some(options.connection_limit()), record.clone());
    let base = format!("http://{}", server.address);
    let authority = server.authority.clone();
    let client = variant.client(Phone { wire, base: base.clone(), authority: authority.clone() })?;

    // The first launch. Whatever it costs, everybody has a good token afterwards.
    let launch = Request::get(format!("{base}/launch")).body(Full::default())?;
    client.clone().oneshot(launch).await?.into_body().collect().await?;
    let credentials = server.api.requests().into_iter().map(|request| request.head.headers);
    let first_launch_was_anonymous = credentials
        .filter_map(|headers| headers.get(header::AUTHORIZATION).cloned())
        .any(|credential| credential == "Basic Og==");
    let before = (authority.counts().token_calls(), *record.progress().borrow());

    let judge = server.api.hold(Phase::Judge);
    let tokens = authority.hold(Endpoint::Exchange);
    let stage = Stage { record: &record, before: before.1 };
    println!("\n{}", variant.name());
    let began = record.elapsed();

    let mut calls = JoinSet::new();
    for number in 0..requests {
        let request = Request::get(format!("{base}/orders/{number}"))
            .extension(Flight(number))
            .body(Full::<Bytes>::default())?;
        calls.spawn(call(client.clone(), request, record.clone()));
    }

    stage.until(judge.waiting(requests)).await;
    stage
        .says(&format!("{} have reached the server, and their token is revoked", count(requests, "request")));
    authority.revoke_access();
    let revoked = record.elapsed();
    judge.let_through(requests);

    let at_once = variant.token_calls_at_once(requests);
    stage
        .until(async {
            stage.reaches(|progress| progress.refused >= requests).await;
            tokens.waiting(at_once).await;
        })
        .await;
    let refused = count(stage.progress().refused, "refusal");
    stage.says(&format!("{refused} read, {} at the authority's gate", count(at_once, "token call")));
    tokens.open();

    stage.until(judge.waiting(requests)).await;
    let token_calls = authority.counts().token_calls() - before.0;
    stage.says(&format!("{} answered, all resends at the server", count(token_calls, "token call")));
    judge.open();

    stage.until(stage.reaches(|progress| progress.refused + progress.accepted >= 2 * requests)).await;
    judge.waiting(0).await;
    tokens.waiting(0).await;
    stage.falls_silent().await;

    // Whoever is pending now waits for nothing that could still come.
    let mut outcome = Outcome {
        variant,
        token_calls: authority.counts().token_calls() - before.0,
        latencies: Vec::new(),
        refused: 0,
        failed: None,
        never: 0,
        connections: connector.peak(),
        first_launch_was_anonymous,
        exchanges: record.exchanges(),
        began,
        revoked,
    };
    while let Some(call) = calls.try_join_next() {
        match call? {
            Ok((_, StatusCode::FORBIDDEN)) => outcome.refused += 1,
            Ok((latency, _)) => outcome.latencies.push(latency),
            Err(error) => {
                let failed = outcome.failed.map_or(0, |(count, _)| count);
                outcome.failed = Some((failed + 1, error));
            }
        }
    }
    outcome.latencies.sort_unstable();
    outcome.never = calls.len();
    stage.says(&format!(
        "nothing moves any more: {} answered, {} never",
        grouped(outcome.answered()),
        grouped(outcome.never)
    ));
    calls.shutdown().await;
    Ok(outcome)
}

/// One call as its caller sees it, to the last byte of the answer.
async fn call(
    client: Client,
    request: Request<Full<Bytes>>,
    record: Arc<Record>,
) -> Result<(Duration, StatusCode), BoxError> {
    let start = record.elapsed();
    let answer = async {
        let response = client.oneshot(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        Ok(status)
    };
    let answer = answer.await.map(|status| (record.elapsed() - start, status));
    record.returned();
    answer
}

/// How far the storm is.
struct Stage<'a> {
    record: &'a Arc<Record>,
    before: Progress,
}

/// Nothing has been sent or answered for so long: then whoever has not come does not come, and the storm goes on.
const GIVE_UP: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_millis(200);

impl Stage<'_> {
    /// Waits for the condition. A client that never meets it shows up in the table, and does not stop the storm.
    async fn until(&self, condition: impl Future<Output = ()>) {
        let mut progress = self.record.progress();
        let rest = async { while timeout(GIVE_UP, progress.changed()).await.is_ok() {} };
        tokio::select! {
            () = condition => {}
            () = rest => self.says("nothing moves; going on without those who have not come"),
            () = self.ticks() => {}
        }
    }

    /// Waits until no exchange is on the wire, and then for a silence.
    async fn falls_silent(&self) {
        let mut progress = self.record.progress();
        loop {
            self.reaches(|progress| progress.in_flight == 0).await;
            progress.mark_unchanged();
            if progress.borrow().in_flight == 0 && timeout(SILENCE, progress.changed()).await.is_err() {
                return;
            }
        }
    }

    async fn reaches(&self, condition: impl Fn(Progress) -> bool) {
        let mut progress: watch::Receiver<Progress> = self.record.progress();
        let reached = progress.wait_for(|progress| condition(self.since(progress))).await;
        reached.map(drop).expect("the sender lives in the record");
    }

    fn progress(&self) -> Progress {
        self.since(&self.record.progress().borrow())
    }

    /// Without the first launch.
    fn since(&self, now: &Progress) -> Progress {
        Progress {
            sent: now.sent - self.before.sent,
            refused: now.refused - self.before.refused,
            accepted: now.accepted - self.before.accepted,
            ..*now
        }
    }

    /// Long stages say where they are, once a second.
    async fn ticks(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let Progress { sent, refused, returned, .. } = self.progress();
            let (sent, refused, returned) = (grouped(sent), grouped(refused), grouped(returned));
            self.says(&format!("… {sent} sent, {refused} refused, {returned} returned"));
        }
    }

    fn says(&self, text: &str) {
        println!("{:8.3} s  {text}", self.record.elapsed().as_secs_f64());
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}
