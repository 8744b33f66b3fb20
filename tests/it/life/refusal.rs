//! An hour of an endpoint that refuses every token, under load.

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::future::{BoxFuture, Either, FutureExt};
use http::{Request, Response, StatusCode, header};
use tokio::{task::JoinSet, time::Instant};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit, service_fn};
use tower_token_refresh::{
    BoxError, FetchContext, FetchError, NotResent, Outcome, ReplayBody, Session, Token, TokenRefreshLayer,
    TokenSource,
    session::RenewalMode,
    source_fn,
    test_util::{Gate, ModelAuthority, ModelBody, TestClock},
};

use crate::{
    script::outcome,
    world::{get, origin},
};

/// All 3.6 million take most of a minute without optimisation.
const REQUESTS_A_SECOND: usize = if cfg!(debug_assertions) { 250 } else { 1000 };
/// Of these, to an endpoint that accepts every good token.
const HEALTHY: usize = 10;
const HOUR: Duration = Duration::from_secs(3600);

/// Refuses whatever goes to `/sick`, and answers the rest when the gate is open, to good tokens only. It keeps no
/// record, because there are millions of requests.
#[derive(Clone)]
struct Api {
    authority: ModelAuthority,
    refusal: Response<ModelBody>,
    gate: Arc<Mutex<Gate>>,
}

type Answer = Result<Response<ModelBody>, BoxError>;

impl Service<Request<ReplayBody<ModelBody>>> for Api {
    type Response = Response<ModelBody>;
    type Error = BoxError;
    type Future = Either<Ready<Answer>, BoxFuture<'static, Answer>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody<ModelBody>>) -> Self::Future {
        if request.uri().path() == "/sick" {
            return Either::Left(ready(Ok(self.refusal.clone())));
        }
        let (authority, gate) = (self.authority.clone(), self.gate.lock().unwrap().clone());
        let answer = async move {
            gate.pass().await;
            let credential = request.headers()[header::AUTHORIZATION].to_str().unwrap();
            let is_good = authority.is_alive(credential.strip_prefix("Bearer ").unwrap());
            Ok(if is_good { Response::default() } else { invalid_token() })
        };
        Either::Right(answer.boxed())
    }
}

fn invalid_token() -> Response<ModelBody> {
    let mut response = Response::new(ModelBody::default());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, r#"Bearer error="invalid_token""#.parse().unwrap());
    response
}

fn forbidden() -> Response<ModelBody> {
    let mut response = Response::new(ModelBody::default());
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

/// How many fetches fit into an hour, if the n-th fruitless one in a row stops the next for 2ⁿ seconds, or for `most`.
fn bound(most: u64) -> usize {
    let waits = (1..).map(|fruitless| most.min(1 << fruitless.min(16)));
    let mut starts = waits.scan(0, |start, wait| {
        *start += wait;
        Some(*start)
    });
    1 + starts.position(|start| start >= HOUR.as_secs()).unwrap_or_default()
}

async fn refused_for_an_hour(refusal: Response<ModelBody>, most: usize) {
    let authority = ModelAuthority::new().newest_only();
    let session = Session::builder(authority.source()).build();
    session.token().await.unwrap();
    let status = refusal.status();
    let api = Api { authority: authority.clone(), refusal, gate: Arc::default() };
    let mut client = TokenRefreshLayer::new(session, origin()).layer(api.clone());
    let (sick, well) = (get("/sick"), get("/well"));
    let (start, mut late, mut accepted, mut refused) = (Instant::now(), 0, 0, 0);
    while start.elapsed() < HOUR {
        let (now, before) = (Instant::now(), authority.counts().refreshes);
        let gate = Gate::new();
        *api.gate.lock().unwrap() = gate.clone();
        let mut healthy: Vec<_> = (0..HEALTHY).map(|_| client.call(well.clone())).collect();
        for call in &mut healthy {
            assert!(poll(call).is_pending(), "sent, and not answered yet");
        }
        let mut check = |answer: Answer| {
            let response = answer.unwrap();
            let outcome = outcome(&response);
            assert_eq!(response.status(), status);
            assert!(outcome.attempts() == 2 || outcome.not_resent() == Some(NotResent::Damped));
            refused += 1;
        };
        let mut waiting = Vec::new();
        for _ in HEALTHY..REQUESTS_A_SECOND {
            let mut call = client.call(sick.clone());
            match poll(&mut call) {
                Poll::Ready(answer) => check(answer),
                Poll::Pending => waiting.push(call),
            }
        }
        for call in waiting {
            check(call.await);
        }
        gate.open();
        let attempts = if authority.counts().refreshes > before { Some(2) } else { None };
        for call in healthy {
            let response = call.await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.extensions().get::<Outcome>().map(Outcome::attempts), attempts);
            accepted += 1;
            late += usize::from(attempts.is_some());
        }
        assert_eq!(now.elapsed(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let counts = authority.counts();
    let fetches = counts.refreshes;
    assert!(fetches <= most, "{fetches} fetches");
    assert_eq!(refused + accepted, REQUESTS_A_SECOND * 3600);
    assert_eq!((counts.logins, counts.presented_again(), late), (1, 0, fetches * HEALTHY));
    println!(
        "{status} to everything for an hour, {REQUESTS_A_SECOND} requests/s (1000 with --release), newest token only: \
         {fetches} fetches (at most {most}), {accepted} of {accepted} healthy requests accepted, {late} of them refused late and resent"
    );
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_403_costs_a_bounded_number_of_fetches_and_no_healthy_request() {
    refused_for_an_hour(forbidden(), bound(60)).await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_invalid_token_costs_a_bounded_number_of_fetches_and_no_healthy_request() {
    refused_for_an_hour(invalid_token(), bound(5)).await;
}

/// A client of an API that refuses everything after a hundredth of a second.
fn refused<S: TokenSource>(
    source: S,
    refusal: Response<ModelBody>,
) -> impl Service<Request<ModelBody>, Response = Response<ModelBody>, Error = BoxError, Future: Send> + Clone
{
    let api = service_fn(move |_: Request<ReplayBody<ModelBody>>| {
        let refusal = refusal.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<_, BoxError>(refusal)
        }
    });
    let session = Session::builder(source).build();
    TokenRefreshLayer::new(session, origin()).layer(ConcurrencyLimit::new(api, 1))
}

/// Its clock is behind (`nbf`), or the news of a token comes to it late: each refresh would bring one that is too young again.
#[tokio::test(start_paused = true)]
async fn a_token_is_given_the_time_that_a_server_needs_to_accept_it() {
    for late in [6, 30, 60].map(Duration::from_secs) {
        let issued = Arc::new(Mutex::new(Vec::new()));
        let fetched = issued.clone();
        let source = source_fn(move |_: FetchContext| {
            let mut fetched = fetched.lock().unwrap();
            fetched.push(Instant::now());
            ready(Ok::<_, FetchError>(Token::new((fetched.len() - 1).to_string())))
        });
        let known = issued.clone();
        let api = service_fn(move |request: Request<ReplayBody<ModelBody>>| {
            let shown = request.headers()["authorization"].to_str().unwrap().strip_prefix("Bearer ");
            let age = known.lock().unwrap()[shown.unwrap().parse::<usize>().unwrap()].elapsed();
            let answer = if age < late { invalid_token() } else { Response::new(ModelBody::default()) };
            ready(Ok::<_, BoxError>(answer))
        });
        let client = TokenRefreshLayer::new(Session::builder(source).build(), origin()).layer(api);
        let start = Instant::now();
        let mut last_refused = start;
        while start.elapsed() < HOUR {
            if client.clone().oneshot(get("/")).await.unwrap().status() != StatusCode::OK {
                last_refused = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let outage = last_refused - start;
        assert!(outage < Duration::from_secs(200), "{late:?}: {outage:?}");
        let fetches = issued.lock().unwrap().len();
        assert!(fetches <= 10, "{late:?}: {fetches} fetches");
    }
}

/// Nobody is there to see how the resend ends.
#[tokio::test(start_paused = true)]
async fn callers_that_give_up_during_the_refresh_are_damped_as_others_are() {
    for (refusal, most) in [(forbidden(), 60), (invalid_token(), 5)] {
        let authority = ModelAuthority::new();
        let source = Arc::new(authority.source());
        let slow = source_fn(move |context| {
            let source = source.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                source.fetch(context).await
            }
        });
        let client = refused(slow, refusal);
        client.clone().oneshot(get("/")).await.unwrap();
        let start = Instant::now();
        while start.elapsed() < HOUR {
            let patience = Duration::from_millis(50);
            let _ = tokio::time::timeout(patience, client.clone().oneshot(get("/"))).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        let fetches = authority.counts().refreshes;
        assert!((2..=bound(most) + 1).contains(&fetches), "{fetches} fetches");
    }
}

/// The resend of the request that has started a refresh waits behind everybody else.
#[tokio::test(start_paused = true)]
async fn a_queue_of_requests_that_are_refused_costs_as_little_as_when_they_are_sent_at_once() {
    for refusal in [forbidden(), invalid_token()] {
        let authority = ModelAuthority::new();
        let client = refused(authority.source(), refusal);
        let mut callers = JoinSet::new();
        for _ in 0..500 {
            callers.spawn(client.clone().oneshot(get("/")));
        }
        callers.join_all().await.into_iter().for_each(|answer| _ = answer.unwrap());
        let fetches = authority.counts().refreshes;
        assert!(fetches <= 5, "{fetches} fetches in five seconds");
    }
}

/// Whoever comes next gets a new token anyhow.
#[tokio::test(start_paused = true)]
async fn a_token_that_expires_under_way_is_refreshed_although_refreshes_are_damped() {
    for (refusal, fruitless, lives, left) in [(forbidden(), 6, 50, 10), (invalid_token(), 2, 3, 3)] {
        let (clock, fetches) = (TestClock::new(), AtomicUsize::new(0));
        let source = source_fn(move |_| {
            let token = Token::new(format!("token-{}", fetches.fetch_add(1, Ordering::Relaxed)));
            ready(Ok::<_, FetchError>(token.expires_in(Duration::from_secs(lives))))
        });
        let session = Session::builder(source).clock(clock.clone()).renewal(RenewalMode::Off).build();
        let layer = TokenRefreshLayer::new(session, origin());
        let api = service_fn(|_: Request<ReplayBody<ModelBody>>| ready(Ok::<_, BoxError>(refusal.clone())));
        let sick = layer.layer(api);
        for before in 0..fruitless {
            clock.advance(Duration::from_secs(1 << before));
            let refused = sick.clone().oneshot(get("/")).await.unwrap();
            assert_eq!(outcome(&refused).attempts(), 2, "after {before} fruitless refreshes");
        }
        clock.advance(Duration::from_secs(lives - left));
        let answers = Mutex::new(vec![Response::default(), refusal.clone()]);
        // The first answer is on its way until the token has expired.
        let slow = service_fn(|_: Request<ReplayBody<ModelBody>>| {
            let answer = answers.lock().unwrap().pop().unwrap();
            if answer.status() != StatusCode::OK {
                clock.advance(Duration::from_secs(left));
            }
            ready(Ok::<_, BoxError>(answer))
        });
        let response = layer.layer(slow).oneshot(get("/")).await.unwrap();
        assert_eq!((response.status(), outcome(&response).attempts()), (StatusCode::OK, 2));
    }
}

/// They expire before they can be sent; the clock is a real one.
#[tokio::test]
async fn tokens_that_die_at_once_do_not_make_an_endpoint_dear_that_refuses_everything() {
    for refusal in [forbidden(), invalid_token()] {
        let fetches = Arc::new(AtomicUsize::new(0));
        let count = fetches.clone();
        let source = source_fn(move |_| {
            let token = Token::new(format!("token-{}", count.fetch_add(1, Ordering::Relaxed)));
            ready(Ok::<_, FetchError>(token.expires_in(Duration::from_nanos(1))))
        });
        let api = service_fn(|_: Request<ReplayBody<ModelBody>>| ready(Ok::<_, BoxError>(refusal.clone())));
        let client = TokenRefreshLayer::new(Session::builder(source).build(), origin()).layer(api);
        for _ in 0..10 {
            client.clone().oneshot(get("/")).await.unwrap();
        }
        let fetches = fetches.load(Ordering::Relaxed);
        assert!(fetches <= 30, "{fetches} fetches for ten requests");
    }
}
