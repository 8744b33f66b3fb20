//! Where the credential goes, and where it does not.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::{
    HeaderValue, Request, Response, StatusCode, Uri, header::AUTHORIZATION, header::HOST, header::LOCATION,
};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_token_refresh::{
    Error, FetchContext, FetchError, NoToken, Origin, Placement, Scope, Session, Token, TokenRefreshLayer,
    event::Event, session::SessionBuilder, source_fn, test_util::ModelBody,
};

use crate::{
    script::{Answer, Lab, Reset, status},
    world::{get, origin},
};

fn request(uri: &str) -> Request<ModelBody> {
    Request::get(uri).body(ModelBody::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn other_origins_get_no_credential_and_their_refusal_starts_nothing() {
    for uri in [
        "https://other.test/",
        "https://api.test:8443/",
        "https://api.test:80/",
        "http://api.test/",
        "http://api.test:443/",
        "https://sub.api.test/",
        "https://api.test.evil.test/",
        "https://api.test@evil.test/",
        "https://evil.test/?https://api.test/",
        "https://evil.test/https://api.test/",
        "https://api.test./",
    ] {
        for placement in [Placement::bearer(), Placement::query("access_token").unwrap()] {
            for code in [401, 403] {
                let lab =
                    Lab::with([status(code)], |session| session.placement(placement.clone()), |layer| layer);
                lab.session.token().await.unwrap();
                let response = lab.send(request(uri)).await.unwrap();
                assert_eq!((response.status().as_u16(), response.extensions().len()), (code, 0));
                let sent = lab.sent();
                assert_eq!(sent[0].head.uri, uri.parse::<Uri>().unwrap());
                assert!(sent[0].head.headers.is_empty());
                assert_eq!((sent.len(), lab.fetches()), (1, 1), "{uri}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_to_another_origin_needs_no_token_and_no_session() {
    let lab = Lab::new([status(200)]);
    lab.session.logout().await.unwrap();
    assert_eq!(lab.send(request("https://other.test/")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(lab.fetches(), 0);
}

#[tokio::test(start_paused = true)]
async fn each_origin_of_a_scope_gets_the_credential_and_a_predicate_narrows_it() {
    let files = Scope::from("https://cdn.test".parse::<Origin>().unwrap())
        .only(|uri| uri.path().starts_with("/private/"));
    let scope = files.and(origin()).and(Origin::danger_plain_http("http://mesh.test:8080").unwrap());
    let uris = [
        ("https://api.test/", true),
        ("https://API.test:443/p", true),
        ("https://cdn.test/private/1", true),
        ("https://cdn.test/logo", false),
        ("http://mesh.test:8080/", true),
        ("https://mesh.test:8080/", false),
        ("http://mesh.test/", false),
    ];
    let lab = Lab::new([]);
    let client = TokenRefreshLayer::new(lab.session.clone(), scope);
    for (uri, is_inside) in uris {
        lab.answers([status(200)]);
        tower::Layer::layer(&client, lab.script()).oneshot(request(uri)).await.unwrap();
        let sent = lab.sent().pop().unwrap();
        assert_eq!(!sent.authorization().is_empty(), is_inside, "{uri}");
    }
}

/// Follows redirects, copying the caller's headers, as clients do.
#[derive(Clone)]
struct Follow<S>(S);

impl<S> Service<Request<ModelBody>> for Follow<S>
where
    S: Service<Request<ModelBody>, Response = Response<ModelBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<ModelBody>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ModelBody>) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move {
            let mut next = request.clone();
            loop {
                let response = inner.clone().oneshot(next).await?;
                let Some(location) = response.headers().get(LOCATION) else { return Ok(response) };
                next = request.clone();
                *next.uri_mut() = location.to_str().unwrap().parse().unwrap();
            }
        })
    }
}

fn redirect(to: &'static str) -> Answer {
    let mut response = status(302)?;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
    Ok(response)
}

#[tokio::test(start_paused = true)]
async fn a_redirect_to_another_host_takes_no_credential_along() {
    for placement in [Placement::bearer(), Placement::query("access_token").unwrap()] {
        let lab = Lab::with(
            [redirect("https://other.test/p"), status(401)],
            |session| session.placement(placement),
            |layer| layer,
        );
        let response = Follow(lab.client.clone()).oneshot(get("/start")).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "the other host's refusal is its own");
        let sent = lab.sent();
        assert_eq!(sent[1].head.uri, "https://other.test/p");
        assert!(sent[1].head.headers.is_empty());
        assert_eq!((sent.len(), lab.fetches()), (2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_redirect_back_home_and_one_after_a_resend_are_followed_with_the_present_token() {
    let lab = Lab::new([
        status(401),
        redirect("https://other.test/"),
        redirect("https://api.test/home"),
        status(200),
    ]);
    let response = Follow(lab.client.clone()).oneshot(get("/start")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let credentials: Vec<_> = lab.sent().iter().map(|sent| sent.authorization().join(",")).collect();
    assert_eq!(credentials, ["Bearer token-1", "Bearer token-2", "", "Bearer token-2"]);
}

/// A follower drops all extensions on the way to another origin. The request must not go out as somebody else there.
#[tokio::test(start_paused = true)]
async fn a_request_that_a_redirect_robs_of_its_session_fails_where_the_layers_own_has_nothing() {
    let lab = Lab::new([redirect("https://other.test/")]);
    let nobody = Session::builder(source_fn(|_: FetchContext| async {
        Err::<Token, _>(FetchError::login_required("each request brings its session"))
    }))
    .build();
    let scope = Scope::from(origin()).and("https://other.test".parse::<Origin>().unwrap());
    let client = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .layer(TokenRefreshLayer::new(nobody, scope))
        .service(lab.script());
    let mut request = get("/start");
    request.extensions_mut().insert(lab.session.clone());
    let error = client.oneshot(request).await.unwrap_err();
    assert!(Error::find(&*error).unwrap().is_login_required());
    assert_eq!(lab.sent().len(), 1);
    assert_eq!(lab.sent()[0].authorization(), ["Bearer token-1"]);
}

/// Follows redirects below the layer, dropping what a client must drop on the way to another host.
#[derive(Clone)]
struct FollowBelow<S>(S);

impl<S, B> Service<Request<B>> for FollowBelow<S>
where
    S: Service<Request<ModelBody>, Response = Response<ModelBody>, Error = Reset> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<ModelBody>;
    type Error = Reset;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Reset>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = self.0.clone();
        let first = request.map(|_| ModelBody::default());
        Box::pin(async move {
            let response = inner.clone().oneshot(first.clone()).await?;
            let Some(location) = response.headers().get(LOCATION) else { return Ok(response) };
            let mut second = first;
            *second.uri_mut() = location.to_str().unwrap().parse().unwrap();
            second.headers_mut().remove(AUTHORIZATION);
            inner.oneshot(second).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn below_the_layer_a_redirect_gets_no_credential_again() {
    let lab = Lab::new([redirect("https://other.test/p"), status(200)]);
    let layer = TokenRefreshLayer::new(lab.session.clone(), origin());
    let client = tower::Layer::layer(&layer, FollowBelow(lab.script()));
    assert_eq!(client.oneshot(get("/start")).await.unwrap().status(), StatusCode::OK);
    let sent = lab.sent();
    assert_eq!([sent[0].authorization().len(), sent[1].authorization().len()], [1, 0]);
}

/// Counts [`Event::Unscoped`].
fn counting_unscoped(session: SessionBuilder) -> (SessionBuilder, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let heard = count.clone();
    let session = session.observer(move |event: &Event<'_>| {
        if matches!(event, Event::Unscoped) {
            heard.fetch_add(1, Ordering::Relaxed);
        }
    });
    (session, count)
}

#[tokio::test(start_paused = true)]
async fn a_uri_without_an_authority_goes_out_as_it_is_and_is_told_of() {
    for uri in ["/orders?page=2", "*"] {
        let mut unscoped = None;
        let lab = Lab::with(
            [status(401)],
            |session| {
                let (session, count) = counting_unscoped(session);
                unscoped = Some(count);
                session
            },
            |layer| layer,
        );
        let mut request = request(uri);
        // What a header says decides nothing.
        request.headers_mut().insert(HOST, HeaderValue::from_static("api.test"));
        assert_eq!(lab.send(request).await.unwrap().status(), StatusCode::UNAUTHORIZED);
        assert_eq!(lab.sent()[0].head.uri, uri);
        assert_eq!(lab.sent()[0].authorization(), [""; 0]);
        assert_eq!((lab.sent().len(), lab.fetches()), (1, 0));
        assert_eq!(unscoped.unwrap().load(Ordering::Relaxed), 1, "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_uri_without_an_authority_that_misses_its_token_is_told_of() {
    type Mark = fn(&mut Request<ModelBody>);
    let nothing: Mark = |_| ();
    let no_token: Mark = |request| {
        request.extensions_mut().insert(NoToken);
    };
    let own: Mark = |request| {
        request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Own"));
    };
    for (uri, mark) in [
        ("https://api.test/", nothing),
        ("https://other.test/", nothing),
        ("api.test:443", nothing),
        ("/login", no_token),
        ("/orders", own),
    ] {
        let mut unscoped = None;
        let lab = Lab::with(
            [status(200)],
            |session| {
                let (session, count) = counting_unscoped(session);
                unscoped = Some(count);
                session
            },
            |layer| layer,
        );
        let mut request = request(uri);
        mark(&mut request);
        lab.send(request).await.unwrap();
        assert_eq!(unscoped.unwrap().load(Ordering::Relaxed), 0, "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_assumed_origin_is_that_of_uris_without_an_authority_only() {
    let other: Origin = "https://other.test".parse().unwrap();
    for (assumed, uri, is_inside, told) in [
        (origin(), "/orders?page=2", true, 0),
        (origin(), "https://api.test/", true, 0),
        (origin(), "https://other.test/", false, 0),
        (origin(), "api.test:443", false, 0),
        // Nobody means to send all requests without a token.
        (other.clone(), "/orders", false, 1),
        (other, "https://api.test/", true, 0),
    ] {
        let mut unscoped = None;
        let lab = Lab::with(
            [status(401), status(200)],
            |session| {
                let (session, count) = counting_unscoped(session);
                unscoped = Some(count);
                session
            },
            |layer| layer.assume_origin(assumed.clone()),
        );
        let response = lab.send(request(uri)).await.unwrap();
        let sent = lab.sent();
        assert!(sent.iter().all(|sent| sent.head.uri == *uri), "the URI stays as it was");
        if is_inside {
            assert_eq!((response.status(), sent.len(), lab.fetches()), (StatusCode::OK, 2, 2));
            assert_eq!(sent[1].authorization(), ["Bearer token-2"]);
        } else {
            assert_eq!((response.status(), sent.len(), lab.fetches()), (StatusCode::UNAUTHORIZED, 1, 0));
            assert_eq!(sent[0].authorization(), [""; 0], "{assumed} {uri}");
        }
        assert_eq!(unscoped.unwrap().load(Ordering::Relaxed), told, "{assumed} {uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_an_assumed_origin_a_relative_uri_takes_the_query_parameter_and_stays_relative() {
    let query = Placement::query("access_token").unwrap();
    let lab = Lab::with(
        [status(401), status(200)],
        |session| session.placement(query),
        |layer| layer.assume_origin(origin()),
    );
    lab.send(request("/p?a=1")).await.unwrap();
    let uris: Vec<_> = lab.sent().iter().map(|sent| sent.head.uri.to_string()).collect();
    assert_eq!(uris, ["/p?a=1&access_token=token-1", "/p?a=1&access_token=token-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_path_that_the_scope_leaves_out_at_the_assumed_origin_is_no_mistake() {
    let mut unscoped = None;
    let session = |session| {
        let (session, count) = counting_unscoped(session);
        unscoped = Some(count);
        session
    };
    let lab = Lab::with([status(200), status(200)], session, |layer| layer);
    let scope = Scope::from(origin()).only(|uri| uri.path().starts_with("/private/"));
    let layer = TokenRefreshLayer::new(lab.session.clone(), scope).assume_origin(origin());
    for uri in ["/logo", "/private/invoice"] {
        tower::Layer::layer(&layer, lab.script()).oneshot(request(uri)).await.unwrap();
    }
    let sent = lab.sent();
    assert_eq!((sent[0].authorization(), sent[1].authorization()), (vec![], vec!["Bearer token-1"]));
    assert_eq!(unscoped.unwrap().load(Ordering::Relaxed), 0);
}

/// As a channel of gRPC does in a mesh that encrypts below HTTP.
#[tokio::test(start_paused = true)]
async fn an_assumed_origin_may_be_plain_http_where_somebody_says_so() {
    let lab = Lab::new([status(200)]);
    let mesh = Origin::danger_plain_http("http://orders.test:50051").unwrap();
    let layer = TokenRefreshLayer::new(lab.session.clone(), mesh.clone()).assume_origin(mesh);
    tower::Layer::layer(&layer, lab.script()).oneshot(request("/orders.Orders/Get")).await.unwrap();
    assert_eq!(lab.sent()[0].authorization(), ["Bearer token-1"]);
}
