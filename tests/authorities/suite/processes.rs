//! Processes with one file, one after the other or at once. A process is a session of its own here.

use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_token_refresh::{store::FileStore, test_util::Gate};

use crate::{
    authority::Authority,
    kind::{DJANGO, Kind, OIDC_PROVIDER},
    world::{World, answered, within},
};

const REQUESTS: usize = 10;

async fn restarted(kind: Kind) {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(kind).await;
    let process = || World::resumed(authority.clone(), FileStore::new(directory.path().join("token.json")));

    let first = process().await;
    first.log_in().await;
    authority.expire().await;
    first.get_in(2).await;
    drop(first);

    let second = process().await;
    second.get_in(1).await;
    second.assert_token_calls(1, 1, 0).await;
    authority.expire().await;
    second.get_in(2).await;
    second.assert_token_calls(1, 2, 0).await;
}

#[tokio::test]
async fn the_next_process_goes_on_with_the_tokens_of_oidc_provider() {
    within(restarted(OIDC_PROVIDER)).await;
}

#[tokio::test]
async fn the_next_process_goes_on_with_the_tokens_of_django() {
    within(restarted(DJANGO)).await;
}

async fn at_once(kind: Kind) {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(kind).await;
    let process = || World::resumed(authority.clone(), FileStore::new(directory.path().join("token.json")));
    let (one, other) = (process().await, process().await);
    one.log_in().await;
    other.get_in(1).await;
    authority.expire().await;

    let answers = Gate::new();
    let mut calls = JoinSet::new();
    for process in [&one, &other] {
        for _ in 0..REQUESTS {
            calls.spawn(process.client_behind(&answers).oneshot(authority.request()));
        }
    }
    answers.waiting(2 * REQUESTS).await;
    answers.open();
    while let Some(answer) = calls.join_next().await {
        answered(answer.unwrap(), 2).await;
    }
    one.assert_token_calls(1, 1, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_oidc_provider_refuses_at_once_refresh_once_between_them() {
    within(at_once(OIDC_PROVIDER)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_django_refuses_at_once_refresh_once_between_them() {
    within(at_once(DJANGO)).await;
}
