//! One request: refused, refreshed, resent.

use http::StatusCode;
use tower_token_refresh::Outcome;

use crate::world::{World, post};

#[tokio::test(start_paused = true)]
async fn a_refused_request_is_sent_again_with_a_new_token() {
    let world = World::revoked().await;
    let response = world.send(post("/echo", "hello")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.body().bytes(), "hello");
    assert_eq!(response.extensions().get::<Outcome>().unwrap().attempts(), 2);
    assert_eq!(world.authority.counts().refreshes, 1);
    assert_eq!(world.api.requests().len(), 2);
}
