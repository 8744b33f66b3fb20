use std::time::Duration;

use super::world::{Findings, World, settle};
use crate::{
    api::{LATE, ORDERS},
    authority::Conduct,
    contest::Client,
    runtime::one_thread,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Many requests are refused at once.
    Burst,
    /// One of them is refused only after the others have been sent again.
    LateRefusal,
    /// A burst, and another one soon afterwards.
    SecondRevocation,
    /// Whoever began the refresh leaves while the authority's answer is on its way.
    LeaderDropped,
    /// The same, and the authority takes each refresh token once.
    Rotating,
    /// The authority fails, slowly.
    AuthorityFailing,
}

const REQUESTS: usize = 100;

impl Scenario {
    pub const ALL: [Scenario; 6] = [
        Scenario::Burst,
        Scenario::LateRefusal,
        Scenario::SecondRevocation,
        Scenario::LeaderDropped,
        Scenario::Rotating,
        Scenario::AuthorityFailing,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Scenario::Burst => "burst",
            Scenario::LateRefusal => "late-refusal",
            Scenario::SecondRevocation => "second-revocation",
            Scenario::LeaderDropped => "leader-dropped",
            Scenario::Rotating => "rotating",
            Scenario::AuthorityFailing => "authority-failing",
        }
    }
}

pub fn run<C: Client>(scenario: Scenario) -> Findings {
    one_thread().block_on(async {
        match scenario {
            Scenario::Burst => burst::<C>().await,
            Scenario::LateRefusal => late_refusal::<C>().await,
            Scenario::SecondRevocation => second_revocation::<C>().await,
            Scenario::LeaderDropped => leader_dropped::<C>(Conduct::Generous).await,
            Scenario::Rotating => leader_dropped::<C>(Conduct::Rotating).await,
            Scenario::AuthorityFailing => authority_failing::<C>().await,
        }
    })
}

async fn burst<C: Client>() -> Findings {
    let world = World::<C>::new(Conduct::Generous).await;
    let requests = world.under_way(ORDERS, REQUESTS).await;
    world.refuse_and_refresh().await;
    world.findings(requests).await
}

async fn late_refusal<C: Client>() -> Findings {
    let world = World::<C>::new(Conduct::Generous).await;
    let late = world.under_way(LATE, 1).await;
    let others = world.under_way(ORDERS, REQUESTS - 1).await;
    world.refuse_and_refresh().await;
    let others = world.findings(others).await;
    world.guard.late_gate.open();
    others.and(world.findings(late).await)
}

async fn second_revocation<C: Client>() -> Findings {
    let world = World::<C>::new(Conduct::Generous).await;
    let first = world.under_way(ORDERS, REQUESTS).await;
    world.refuse_and_refresh().await;
    let first = world.findings(first).await;
    world.guard.gate.close();
    let second = world.under_way(ORDERS, REQUESTS).await;
    world.refuse_and_refresh().await;
    first.and(world.findings(second).await)
}

async fn leader_dropped<C: Client>(conduct: Conduct) -> Findings {
    let world = World::<C>::new(conduct).await;
    let leader = world.under_way(LATE, 1).await;
    let others = world.under_way(ORDERS, REQUESTS - 1).await;
    world.refuse(&world.guard.late_gate).await;
    world.guard.gate.open();
    settle().await;
    for leader in leader {
        leader.abort();
        leader.await.expect_err("the leader was waiting");
    }
    world.authority.answers().open();
    world.findings(others).await
}

async fn authority_failing<C: Client>() -> Findings {
    const LATENCY: Duration = Duration::from_millis(50);
    let world = World::<C>::new(Conduct::FailingAfterTheFirst(LATENCY)).await;
    let requests = world.under_way(ORDERS, REQUESTS / 10).await;
    world.authority.revoke();
    world.guard.gate.open();
    world.findings(requests).await
}
