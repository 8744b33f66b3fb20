//! A process ends, and the next one goes on with the file that it left.

use tower_token_refresh::store::FileStore;

use crate::{
    authority::{Authority, DJANGO, Kind, OIDC_PROVIDER},
    world::{World, within},
};

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
