//! Redirects to another host, with the layer inside and outside of what follows them.

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::follow_redirect::{FollowRedirectLayer, RequestUri, policy::Limited};
use tower_token_refresh::{
    Outcome, Placement, ReplayBody, Session, Token, TokenRefreshLayer, source_fn,
    test_util::{ModelApi, ModelAuthority, ReceivedRequest, Refusal, Route},
};

use crate::kit::{Http, Payload, Server, World, full, get, pool, post, within};

/// The session's own API, and another one that it redirects to, with other users.
struct Neighbours {
    home: World,
    other: ModelApi,
    other_server: Server,
}

impl Neighbours {
    async fn start(http: Http) -> Self {
        let other = ModelApi::new(ModelAuthority::new()).route("/open", Route::Open);
        let other_server = Server::start(http, other.clone()).await;
        let home = World::with(http, |api| {
            let api = ["/open", "/guarded"].into_iter().fold(api, |api, path| {
                api.route(&format!("/to{path}"), Route::Always(redirect(&other_server.url(path))))
            });
            api.route("/to/here", Route::Always(redirect("/here"))).route(
                "/orders",
                Route::Always(redirect_by(StatusCode::SEE_OTHER, &other_server.url("/guarded"))),
            )
        })
        .await;
        Neighbours { home, other, other_server }
    }
}

fn redirect(location: &str) -> Refusal {
    redirect_by(StatusCode::TEMPORARY_REDIRECT, location)
}

fn redirect_by(status: StatusCode, location: &str) -> Refusal {
    let response = Response::builder().status(status);
    Refusal::Custom(response.header(header::LOCATION, location).body(Bytes::new()).unwrap())
}

fn shows_a_credential(request: &ReceivedRequest) -> bool {
    request.head.headers.contains_key(header::AUTHORIZATION)
}

async fn layer_inside(http: Http) {
    let Neighbours { home, other, .. } = Neighbours::start(http).await;
    let client = ServiceBuilder::new().layer(FollowRedirectLayer::new()).layer(home.layer()).service(pool::<
        ReplayBody<Payload>,
    >(
        http
    ));

    let open = client.clone().oneshot(get(home.url("/to/open"))).await.unwrap();
    assert_eq!(open.status(), StatusCode::OK);
    let guarded = client.clone().oneshot(get(home.url("/to/guarded"))).await.unwrap();
    assert_eq!(guarded.status(), StatusCode::UNAUTHORIZED);
    assert!(guarded.extensions().get::<Outcome>().is_none());
    assert!(home.api.requests().iter().all(shows_a_credential));
    assert_eq!(other.requests().len(), 2);
    assert!(!other.requests().iter().any(shows_a_credential));
    assert_eq!(home.authority.counts().refreshes, 0, "a stranger's refusal says nothing of our token");

    // Each hop is a request of its own: the one that is refused is refreshed.
    home.authority.revoke_access();
    let here = client.oneshot(get(home.url("/to/here"))).await.unwrap();
    assert_eq!(here.status(), StatusCode::OK);
    assert_eq!(
        here.extensions().get::<RequestUri>().unwrap().0,
        home.url("/here").parse::<http::Uri>().unwrap()
    );
    assert_eq!(home.authority.counts().refreshes, 1);
}

#[tokio::test]
async fn a_redirect_over_http1_to_another_host_takes_no_credential_along() {
    within(layer_inside(Http::One)).await;
}

#[tokio::test]
async fn a_redirect_over_http2_to_another_host_takes_no_credential_along() {
    within(layer_inside(Http::Two)).await;
}

/// With the follower inside, the layer sees one request and its last answer, whoever gave it.
async fn layer_outside(http: Http) {
    let Neighbours { home, other, other_server } = Neighbours::start(http).await;
    let careful = home.layer().layer(FollowRedirectLayer::new().layer(pool::<ReplayBody<Payload>>(http)));
    let open = careful.clone().oneshot(get(home.url("/to/open"))).await.unwrap();
    assert_eq!(open.status(), StatusCode::OK);
    assert!(!other.requests().iter().any(shows_a_credential), "the follower's own filter took it off");

    // The stranger's refusal is taken for one of our token: the price is a refresh, and what was accepted is sent again.
    let guarded = careful.oneshot(post(home.url("/orders"), full("an order"))).await.unwrap();
    assert_eq!(guarded.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(guarded.extensions().get::<Outcome>().unwrap().attempts(), 2);
    assert_eq!(home.authority.counts().refreshes, 1);
    let orders = home.api.requests().into_iter().filter(|request| request.head.method == Method::POST);
    assert_eq!(orders.map(|order| order.body).collect::<Vec<_>>(), ["an order", "an order"]);
    assert_eq!(other.requests().len(), 3);
    assert!(!other.requests().iter().any(shows_a_credential));

    // The filter knows nothing of a header of its own.
    let source = source_fn(|_| async { Ok(Token::new("of-home")) });
    let session = Session::builder(source).placement(Placement::header("x-api-key").unwrap()).build();
    let keyed = TokenRefreshLayer::new(session, home.origin());
    let keyed = keyed.layer(FollowRedirectLayer::new().layer(pool::<ReplayBody<Payload>>(http)));
    keyed.oneshot(get(home.url("/to/open"))).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(other.requests().last().unwrap().head.headers["x-api-key"], "of-home");

    // A follower without that filter carries the credential along, and nothing above it can help.
    let follower = FollowRedirectLayer::with_policy(Limited::new(5));
    let careless = home.layer().layer(follower.layer(pool::<ReplayBody<Payload>>(http)));
    let open = careless.oneshot(get(home.url("/to/open"))).await.unwrap();
    open.into_body().collect().await.unwrap();
    assert!(shows_a_credential(other.requests().last().unwrap()));
    other_server.idle().await;
}

#[tokio::test]
async fn a_layer_over_http1_outside_of_a_redirect_follower_relies_on_its_filter() {
    within(layer_outside(Http::One)).await;
}

#[tokio::test]
async fn a_layer_over_http2_outside_of_a_redirect_follower_relies_on_its_filter() {
    within(layer_outside(Http::Two)).await;
}
