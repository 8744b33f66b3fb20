//! The measure of all other cases: a client whose refused requests each refresh by themselves is logged out. So the
//! authorities do notice when a refresh token is presented twice.

use http::{StatusCode, header};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    authority::Authority,
    burst::REQUESTS,
    kind::{DJANGO, Kind, OIDC_PROVIDER},
    world::within,
};

#[derive(Clone)]
struct Naive {
    authority: Authority,
    access: String,
    refresh: String,
}

impl Naive {
    async fn get(&self) -> StatusCode {
        let mut request = self.authority.request();
        let bearer = format!("Bearer {}", self.access).parse().expect("a header");
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        self.authority.send(request).await.0
    }

    /// The tokens that come, or the authority's answer.
    async fn refreshed(&self) -> Result<Self, (StatusCode, Value)> {
        let form = format!("grant_type=refresh_token&refresh_token={}", self.refresh);
        let (status, answer) = self.authority.post("/token", &form).await;
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        match (answer["access_token"].as_str(), answer["refresh_token"].as_str()) {
            (Some(access), Some(refresh)) => Ok(Naive {
                authority: self.authority.clone(),
                access: access.to_owned(),
                refresh: refresh.to_owned(),
            }),
            _ => Err((status, answer["error"].clone())),
        }
    }
}

async fn logged_out(kind: Kind) {
    let authority = Authority::new(kind).await;
    let token = authority.login().await;
    let refresh = token.refresh().unwrap().expose().to_owned();
    let client = Naive { authority, access: token.access().expose().to_owned(), refresh };
    assert_eq!(client.get().await, StatusCode::OK);
    client.authority.expire().await;

    let mut calls = JoinSet::new();
    for _ in 0..REQUESTS {
        let client = client.clone();
        calls.spawn(async move { client.get().await });
    }
    while let Some(status) = calls.join_next().await {
        assert_eq!(status.unwrap(), kind.refusal);
    }
    // One after the other, so that luck decides nothing.
    let winner = client.refreshed().await.expect("the first one wins");
    assert_eq!(winner.get().await, StatusCode::OK);
    let dead = (StatusCode::BAD_REQUEST, Value::from("invalid_grant"));
    for _ in 1..REQUESTS {
        assert_eq!(client.refreshed().await.err().as_ref(), Some(&dead));
    }
    assert_eq!(winner.get().await, kind.refusal, "its access token has died with the family");
    assert_eq!(winner.refreshed().await.err(), Some(dead), "and so has its refresh token");
}

#[tokio::test]
async fn a_naive_client_is_logged_out_by_oidc_provider() {
    within(logged_out(OIDC_PROVIDER)).await;
}

#[tokio::test]
async fn a_naive_client_is_logged_out_by_django() {
    within(logged_out(DJANGO)).await;
}
