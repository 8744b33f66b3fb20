//! Logout, login and replacement at the worst moments, and what a new process finds afterwards.

use std::time::Duration;

use http::{Response, StatusCode};
use tokio::time::Instant;
use tokio_test::{assert_pending, task};
use tower::{ServiceExt, util::Oneshot};
use tower_token_refresh::{
    BoxError, Error, ErrorKind, RefreshFailure, TokenRefresh,
    store::{MemoryStore, TokenStore},
    test_util::{Gate, ModelApi, ModelAuthority, ModelBody},
};

use crate::{
    script::within,
    watched::Watched,
    world::{World, get},
};

/// A session of Alice's on this store, on an authority that knows Bob as well.
fn alice(store: impl TokenStore) -> World {
    let authority = ModelAuthority::new().account("bob", "builder");
    World::with(authority, |session| session.store(store), |layer| layer)
}

/// Another process begins on the same store.
fn next_process(before: World, store: impl TokenStore) -> World {
    World::with(before.authority, |session| session.store(store), |layer| layer)
}

/// The account that the API has seen in an accepted request.
fn account(answer: Result<Response<ModelBody>, BoxError>) -> String {
    let response = answer.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body: serde_json::Value = serde_json::from_slice(response.body().bytes()).unwrap();
    body["account"].as_str().unwrap().to_owned()
}

/// Of a request whose refused response came back.
fn failure(answer: Result<Response<ModelBody>, BoxError>) -> ErrorKind {
    let response = answer.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    response.extensions().get::<RefreshFailure>().expect("a failed refresh").error().kind()
}

#[tokio::test(start_paused = true)]
async fn a_logout_while_the_lease_is_waited_for_ends_all_waiters_at_once_and_the_next_process_begins_anew() {
    let store = MemoryStore::new();
    let world = alice(store.clone());
    world.session.token().await.unwrap();
    world.authority.revoke_access();
    let start = Instant::now();
    let lease = store.lock().await.unwrap();
    let mut refused = task::spawn(world.get("/"));
    assert_pending!(refused.poll());
    let mut unsent = task::spawn(world.session.token());
    assert_pending!(unsent.poll());
    tokio::task::yield_now().await;

    within(world.session.logout()).await.unwrap();
    assert_eq!(failure(within(refused).await), ErrorKind::SessionEnded);
    assert_eq!(within(unsent).await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(start.elapsed(), Duration::ZERO, "nobody has waited for the lease");
    assert!(store.load().await.unwrap().unwrap().token.is_none());

    drop(lease);
    within(world.session.settle()).await.unwrap();
    assert_eq!(world.session.token().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert!(store.load().await.unwrap().unwrap().token.is_none());
    let next = next_process(world, store);
    assert_eq!(account(next.get("/").await), "alice");
    let counts = next.authority.counts();
    assert_eq!((counts.logins, counts.refreshes), (2, 0), "the refresh token was never presented");
}

/// Alice's refresh has its token and is about to save it. One of her requests was refused, one has sent nothing yet.
struct SlowSave {
    world: World,
    store: Watched,
    gate: Gate,
    refused: Request,
    unsent: Request,
    start: Instant,
}

type Request = task::Spawn<Oneshot<TokenRefresh<ModelApi>, http::Request<ModelBody>>>;

impl SlowSave {
    async fn new() -> Self {
        let (store, gate) = (Watched::default(), Gate::new());
        let world = alice(store.clone());
        world.session.token().await.unwrap();
        world.authority.revoke_access();
        store.set(|store| store.hold_save = Some(gate.clone()));
        let request = || task::spawn(world.client.clone().oneshot(get("/")));
        let mut refused = request();
        assert_pending!(refused.poll());
        within(gate.waiting(1)).await;
        let mut unsent = request();
        assert_pending!(unsent.poll());
        assert_eq!(world.api.requests().len(), 1);
        SlowSave { world, store, gate, refused, unsent, start: Instant::now() }
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_during_another_identitys_slow_save_is_what_memory_and_store_keep() {
    let SlowSave { world, store, gate, refused, unsent, start } = SlowSave::new().await;
    let bob = world.authority.login_as("bob", "builder").await.unwrap();
    let mut login = task::spawn(world.session.login(bob.clone()));
    assert_pending!(login.poll());
    assert_eq!(failure(within(refused).await), ErrorKind::SessionChanged, "it is not sent again as bob");
    assert_eq!(account(within(unsent).await), "bob", "it had sent nothing yet");
    assert_eq!(start.elapsed(), Duration::ZERO, "nobody waits for the save");
    gate.open();
    within(login).await.unwrap();
    within(world.session.settle()).await.unwrap();
    assert_eq!(account(world.get("/").await), "bob");
    assert_eq!(store.access().await.as_deref(), Some(bob.access().expose()));
    goes_on_in_the_next_process_as("bob", world, store).await;
}

#[tokio::test(start_paused = true)]
async fn a_replacement_during_a_slow_save_is_what_memory_and_store_keep() {
    let SlowSave { world, store, gate, refused, unsent, start } = SlowSave::new().await;
    let elsewhere = world.authority.login().await.unwrap();
    let mut replace = task::spawn(world.session.replace(elsewhere.clone()));
    assert_pending!(replace.poll());
    assert_eq!(account(within(refused).await), "alice", "it is sent again with the token from elsewhere");
    assert_eq!(account(within(unsent).await), "alice");
    assert_eq!(start.elapsed(), Duration::ZERO, "nobody waits for the save");
    gate.open();
    within(replace).await.unwrap();
    within(world.session.settle()).await.unwrap();
    let present = world.session.token().await.unwrap();
    assert_eq!(present.access().expose(), elsewhere.access().expose());
    assert_eq!(store.access().await.as_deref(), Some(elsewhere.access().expose()));
    goes_on_in_the_next_process_as("alice", world, store).await;
}

#[tokio::test(start_paused = true)]
async fn a_logout_during_a_slow_save_leaves_nothing_to_the_next_process() {
    let SlowSave { world, store, gate, refused, unsent, start } = SlowSave::new().await;
    let mut logout = task::spawn(world.session.logout());
    assert_pending!(logout.poll());
    assert_eq!(failure(within(refused).await), ErrorKind::SessionEnded);
    let error = within(unsent).await.unwrap_err();
    assert_eq!(Error::find(&*error).unwrap().kind(), ErrorKind::SessionEnded);
    assert_eq!(start.elapsed(), Duration::ZERO, "nobody waits for the save");
    gate.open();
    within(logout).await.unwrap();
    assert_eq!(store.saved().len(), 3, "a login, the refresh that was being saved, the mark of the logout");
    assert_eq!(store.saved()[2], None);
    assert_eq!(store.access().await, None);
    let next = next_process(world, store);
    assert_eq!(account(next.get("/").await), "alice");
    assert_eq!((next.authority.counts().logins, next.authority.counts().refreshes), (2, 1));
}

/// The next process uses the token, and then its refresh token, which is that of the same account.
async fn goes_on_in_the_next_process_as(name: &str, world: World, store: Watched) {
    let before = world.authority.counts();
    let next = next_process(world, store);
    assert_eq!(account(next.get("/").await), name);
    next.authority.revoke_access();
    assert_eq!(account(next.get("/").await), name);
    let counts = next.authority.counts();
    assert_eq!((counts.logins, counts.refreshes), (before.logins, before.refreshes + 1));
    assert_eq!((counts.presented_again(), counts.family_deaths), (0, 0));
}
