use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    api::{Api, Guard, LATE, ORDERS, Shape},
    authority::{Authority, Conduct},
    contest::Client,
    gate::Gate,
};

/// A request that has no answer by then hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// A fetch that has not reached the authority by then does not come.
const FETCH_COMES_WITHIN: Duration = Duration::from_secs(1);

/// A client with a good token, its authority, and an API that holds requests at its gates.
pub struct World<C> {
    pub authority: Authority,
    pub guard: Arc<Guard>,
    client: C,
}

type Requests = Vec<JoinHandle<Option<StatusCode>>>;

/// What became of requests.
#[derive(Debug, Clone, Copy)]
pub struct Findings {
    /// Since the first token.
    pub fetches: usize,
    pub accepted: usize,
    /// Answered with the refusal.
    pub refused: usize,
    /// Answered with an error of the client's.
    pub errors: usize,
    pub hung: usize,
    /// Until the last answer.
    pub time: Duration,
    pub family_killed: bool,
}

impl<C: Client> World<C> {
    pub async fn new(conduct: Conduct) -> Self {
        let authority = Authority::new(conduct);
        let guard = Arc::new(Guard {
            authority: authority.clone(),
            gate: Gate::new(true),
            late_gate: Gate::new(false),
        });
        let mut client = C::new(&authority, &Api::guarded(guard.clone()));
        let first = client.send(Shape::Post.request(ORDERS)).await.expect("an answer");
        assert!(first.is_success(), "the first token is good");
        guard.gate.close();
        World { authority, guard, client }
    }

    /// So many requests that have reached the API with the present token and wait at the gate of their URI.
    pub async fn under_way(&self, uri: &'static str, requests: usize) -> Requests {
        let gate = if uri == LATE { &self.guard.late_gate } else { &self.guard.gate };
        let before = gate.arrivals();
        let mut tasks = Vec::with_capacity(requests);
        for _ in 0..requests {
            let mut client = self.client.clone();
            tasks.push(tokio::spawn(async move { client.send(Shape::Post.request(uri)).await }));
        }
        gate.reached(before + requests).await;
        tasks
    }

    /// Refuses what waits at a gate. Whoever fetches then has no answer yet, and everybody has begun to wait for it.
    pub async fn refuse(&self, gate: &Gate) {
        self.authority.revoke();
        self.authority.answers().close();
        let before = self.authority.fetches();
        gate.open();
        // That it does not come shows in the findings.
        let _ = timeout(FETCH_COMES_WITHIN, self.authority.answers().reached(before + 1)).await;
        settle().await;
    }

    pub async fn refuse_and_refresh(&self) {
        self.refuse(&self.guard.gate).await;
        self.authority.answers().open();
    }

    pub async fn findings(&self, requests: Requests) -> Findings {
        let start = Instant::now();
        let (mut accepted, mut refused, mut errors, mut hung) = (0, 0, 0, 0);
        for mut request in requests {
            match timeout_at(start + PATIENCE, &mut request).await {
                Ok(Ok(Some(StatusCode::OK))) => accepted += 1,
                Ok(Ok(Some(_))) => refused += 1,
                Ok(_) => errors += 1,
                Err(_) => {
                    request.abort();
                    hung += 1;
                }
            }
        }
        Findings {
            fetches: self.authority.fetches() - 1,
            accepted,
            refused,
            errors,
            hung,
            time: start.elapsed(),
            family_killed: self.authority.has_killed_the_family(),
        }
    }
}

impl Findings {
    /// These and later ones of the same world.
    pub fn and(self, later: Findings) -> Findings {
        Findings {
            accepted: self.accepted + later.accepted,
            refused: self.refused + later.refused,
            errors: self.errors + later.errors,
            hung: self.hung + later.hung,
            time: self.time + later.time,
            ..later
        }
    }
}

/// Lets all tasks run that can: there is one thread, and each yield lets it pass through them.
pub async fn settle() {
    for _ in 0..1_000 {
        yield_now().await;
    }
}
