//! No lock of ours is held while somebody else's code runs.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, SystemTime},
};

use http::{Request, StatusCode};
use tokio_test::task;
use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    BoxError, FetchContext, FetchError, Placement, ReplayBody, Session, Standard, Token, TokenRefreshLayer,
    classify::{Answer, Classify},
    event::Event,
    source_fn,
    store::{Lease, MemoryStore, Record, TokenStore},
    test_util::{ModelApi, ModelAuthority, ModelBody},
    time::{Clock, SystemClock},
};

use crate::world::{get, origin};

/// Looks at the session from wherever it is called, in a thread of its own. The first look at its state takes the slot:
/// were it held further up on the stack of whoever calls, there would be no answer.
#[derive(Clone, Default)]
struct Probe {
    session: Arc<OnceLock<Session>>,
    looks: Arc<AtomicUsize>,
}

impl Probe {
    fn look(&self) {
        let Some(session) = self.session.get() else { return };
        let mut changes = session.subscribe();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || tell.send(task::spawn(changes.next()).poll().is_ready()));
        let told = told.recv_timeout(Duration::from_secs(10));
        assert_eq!(told, Ok(true), "foreign code runs under our lock");
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    fn looks(&self) -> usize {
        self.looks.swap(0, Ordering::Relaxed)
    }
}

struct ProbingStore(MemoryStore, Probe);

impl TokenStore for ProbingStore {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        self.1.look();
        self.0.load().await
    }

    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        self.1.look();
        self.0.save(record, fence).await
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        self.1.look();
        self.0.lock().await
    }
}

struct ProbingClock(SystemClock, Probe);

impl Clock for ProbingClock {
    fn monotonic(&self) -> Duration {
        // The probe reads no clock, so this does not go round in circles.
        self.1.look();
        self.0.monotonic()
    }

    fn wall(&self) -> SystemTime {
        self.1.look();
        self.0.wall()
    }
}

#[tokio::test(start_paused = true)]
async fn no_lock_is_held_while_foreign_code_runs() {
    let probes: [Probe; 7] = Default::default();
    let [source, store, observer, clock, placement, classifier, predicate] = probes.clone();
    let authority = ModelAuthority::new();
    let tokens = authority.source();
    let session = Session::builder(source_fn(move |cx: FetchContext| {
        source.look();
        let tokens = tokens.clone();
        async move { tower_token_refresh::TokenSource::fetch(&tokens, cx).await }
    }))
    .store(ProbingStore(MemoryStore::new(), store))
    .observer(move |_: &Event<'_>| observer.look())
    .clock(ProbingClock(SystemClock::new(), clock))
    .placement(Placement::custom(move |request: &mut Request<()>, token: &Token| {
        placement.look();
        let value = format!("Bearer {}", token.access().expose());
        request.headers_mut().insert("authorization", value.parse()?);
        Ok(())
    }))
    .build();
    for probe in &probes {
        probe.session.set(session.clone()).unwrap();
    }
    let layer = TokenRefreshLayer::new(session.clone(), origin())
        .classifier(move |answer: &Answer<'_>| {
            classifier.look();
            Standard.classify(answer)
        })
        .resend_if(move |_, _, _| {
            predicate.look();
            true
        });
    let api = ModelApi::new(authority.clone());
    let client = layer.layer(api);

    assert_eq!(client.clone().oneshot(get("/")).await.unwrap().status(), StatusCode::OK);
    authority.revoke_access();
    assert_eq!(client.clone().oneshot(get("/")).await.unwrap().status(), StatusCode::OK);
    let looks: Vec<_> = probes.iter().map(Probe::looks).collect();
    assert!(looks.iter().all(|looks| *looks > 0), "every hook was used: {looks:?}");

    authority.revoke_all();
    client.clone().oneshot(get("/")).await.unwrap();
    session.replace(Token::new("replaced")).await.unwrap();
    session.login(Token::new("logged-in")).await.unwrap();
    session.logout().await.unwrap();
    assert!(probes[2].looks() >= 4, "the observer was told of each change");
}

#[tokio::test(start_paused = true)]
async fn a_service_may_use_the_session_while_it_is_called() {
    let probe = Probe::default();
    let session =
        Session::builder(source_fn(|_: FetchContext| async { Ok::<_, FetchError>(Token::new("token")) }))
            .build();
    probe.session.set(session.clone()).unwrap();
    let seen = probe.clone();
    let inner = tower::service_fn(move |_: Request<ReplayBody<ModelBody>>| {
        seen.look();
        async { Ok::<_, BoxError>(http::Response::builder().status(401).body(ModelBody::from("")).unwrap()) }
    });
    TokenRefreshLayer::new(session, origin()).layer(inner).oneshot(get("/")).await.unwrap();
    assert_eq!(probe.looks(), 2);
}
