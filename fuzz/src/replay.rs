//! Request bodies that are sent twice, whoever is polled when.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use tokio::{sync::oneshot, task::yield_now};
use tower::{Layer, Service};
use tower_token_refresh::{
    BoxError, FetchContext, FetchError, NotResent, Origin, Outcome, ReplayBody, ResponseFuture, Session,
    Token, TokenRefreshLayer,
    body::{NotReplayable, Rebuild},
    source_fn,
};

use crate::{
    feed::{Fed, Feed, Poller},
    runtime::run,
    steps::Broken,
};

/// Bytes at the beginning choose the body and the layer's options, the rest are a program: what happens next.
///
/// 1. A body that ends has been handed on byte for byte, trailers included, on whichever attempt.
/// 2. It fails only if the caller's own body does, or if nobody needs it any more.
/// 3. The request is sent twice at most, the second time after a refusal that came before the body outran the limit; one
///    that is refused and was sent once says why.
/// 4. Who can go on is woken, and everything comes to an end.
pub fn replay(input: &[u8]) {
    let mut bytes = input.iter().copied();
    let plan = Plan::read(&mut bytes);
    run(async {
        let mut world = World::start(plan).await;
        for byte in bytes {
            world.step(OPS[usize::from(byte) % OPS.len()]).await;
        }
        world.end().await;
    });
}

/// What the body is, and what the layer may keep of it.
struct Plan {
    limit: Option<usize>,
    rebuilds: bool,
    tells_length: bool,
    announces_end: bool,
    fails: bool,
    frames: Vec<Frame<Bytes>>,
    whole: Whole,
    /// Frames that are there before the request is sent.
    ready: usize,
}

/// All of a body, or as much of it as has been seen.
#[derive(Clone, Debug, Default, PartialEq)]
struct Whole {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
}

impl Plan {
    fn read(bytes: &mut impl Iterator<Item = u8>) -> Self {
        const SIZES: [usize; 11] = [0, 1, 2, 63, 64, 65, 1000, 1023, 1024, 1025, 5000];
        const LIMITS: [Option<usize>; 6] = [None, Some(1), Some(64), Some(1024), Some(4096), Some(1 << 16)];
        let mut next = || bytes.next().unwrap_or_default();
        let flags = next();
        let is = |bit: usize| flags & (1 << bit) != 0;
        let limit = LIMITS[usize::from(next()) % LIMITS.len()];
        let count = next() % 9;
        let ready = usize::from(next()) % 10;
        let mut whole = Whole::default();
        let mut frames = Vec::new();
        for _ in 0..count {
            let size = SIZES[usize::from(next()) % SIZES.len()];
            let from = whole.data.len();
            // 251 is a prime, so that no piece looks like the one before it.
            whole.data.extend((from..from + size).map(|at| (at % 251) as u8));
            frames.push(Frame::data(Bytes::copy_from_slice(&whole.data[from..])));
        }
        if is(0) {
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]);
            whole.trailers = Some(trailers.clone());
            frames.push(Frame::trailers(trailers));
        }
        Plan {
            limit,
            rebuilds: is(1),
            tells_length: is(2),
            announces_end: is(3),
            fails: is(4),
            frames,
            whole,
            ready,
        }
    }

    fn body(&self) -> (Feed, Fed) {
        Feed::new(self.tells_length.then_some(self.whole.data.len() as u64), self.announces_end)
    }
}

#[derive(Clone, Copy)]
enum Op {
    Feed,
    PollBody(usize),
    PollCall,
    Run,
    Answer(u16),
    Break,
    Fetched,
    FetchFails,
    DropBody(usize),
    DropCall,
    Replace,
    Logout,
}

/// Each as often as it should come.
const OPS: [Op; 32] = [
    Op::Feed,
    Op::PollBody(0),
    Op::PollCall,
    Op::Run,
    Op::Answer(401),
    Op::Fetched,
    Op::PollBody(1),
    Op::PollCall,
    Op::Feed,
    Op::PollBody(0),
    Op::Answer(200),
    Op::Run,
    Op::PollBody(1),
    Op::PollCall,
    Op::Feed,
    Op::PollBody(0),
    Op::Answer(401),
    Op::Fetched,
    Op::PollBody(1),
    Op::PollCall,
    Op::Feed,
    Op::PollBody(0),
    Op::Answer(403),
    Op::Run,
    Op::PollBody(1),
    Op::FetchFails,
    Op::Break,
    Op::DropBody(0),
    Op::DropBody(1),
    Op::DropCall,
    Op::Replace,
    Op::Logout,
];

type Answers = Result<Response<()>, BoxError>;

/// A service that is answered by the program.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Vec<Attempt>>>);

struct Attempt {
    body: Option<ReplayBody<Fed>>,
    poller: Poller,
    seen: Whole,
    failed: bool,
    answer: Option<oneshot::Sender<Answers>>,
    status: Option<u16>,
    /// Bytes that had been seen when it was answered.
    seen_before: usize,
}

impl Service<Request<ReplayBody<Fed>>> for Server {
    type Response = Response<()>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Answers>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody<Fed>>) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        self.0.lock().unwrap().push(Attempt {
            body: Some(request.into_body()),
            poller: Poller::default(),
            seen: Whole::default(),
            failed: false,
            answer: Some(answer),
            status: None,
            seen_before: 0,
        });
        Box::pin(async { answered.await.expect("the program answers whoever waits") })
    }
}

type Fetches = Arc<Mutex<Vec<oneshot::Sender<Result<Token, FetchError>>>>>;

struct World {
    plan: Plan,
    feed: Feed,
    /// Frames that have been fed.
    fed: usize,
    session: Session,
    server: Server,
    fetches: Fetches,
    call: Option<Pin<Box<ResponseFuture<Server, Fed>>>>,
    caller: Poller,
    result: Option<Answers>,
    /// The caller has given up.
    gave_up: bool,
}

impl World {
    async fn start(plan: Plan) -> Self {
        let fetches = Fetches::default();
        let source = {
            let fetches = fetches.clone();
            source_fn(move |_: FetchContext| {
                let (sender, fetched) = oneshot::channel();
                fetches.lock().unwrap().push(sender);
                async { fetched.await.unwrap_or_else(|gone| Err(gone.into())) }
            })
        };
        let session = Session::builder(source).build();
        session.login(Token::new("first")).await.unwrap();

        let (feed, body) = plan.body();
        let mut request = Request::new(body);
        *request.uri_mut() = "https://api.test/".parse().unwrap();
        if plan.rebuilds {
            let (frames, (length, end)) = (
                copies(&plan.frames),
                (plan.tells_length.then_some(plan.whole.data.len() as u64), plan.announces_end),
            );
            request.extensions_mut().insert(Rebuild::new(move || {
                let (feed, body) = Feed::new(length, end);
                copies(&frames).into_iter().for_each(|frame| feed.give(Some(Ok(frame))));
                feed.give(None);
                body
            }));
        }
        let layer = TokenRefreshLayer::new(session.clone(), "https://api.test".parse::<Origin>().unwrap());
        let layer = match plan.limit {
            Some(limit) => layer.replay_limit(limit).unwrap(),
            None => layer.without_replay(),
        };
        let server = Server::default();
        let mut world = World {
            feed,
            fed: 0,
            session,
            server: server.clone(),
            fetches,
            call: None,
            caller: Poller::default(),
            result: None,
            gave_up: false,
            plan,
        };
        for _ in 0..world.plan.ready {
            world.feed();
        }
        world.call = Some(Box::pin(layer.layer(server).call(request)));
        world
    }

    async fn step(&mut self, op: Op) {
        match op {
            Op::Feed => self.feed(),
            Op::PollBody(attempt) => self.poll_body(attempt),
            Op::PollCall => self.poll_call(),
            Op::Run => {
                for _ in 0..4 {
                    yield_now().await;
                }
            }
            Op::Answer(status) => {
                let mut response = Response::new(());
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                self.answer(Some(status), Ok(response));
            }
            Op::Break => self.answer(None, Err(Broken.into())),
            Op::Fetched => self.fetched(Ok(Token::new("next"))),
            Op::FetchFails => self.fetched(Err(FetchError::transient("no"))),
            Op::DropBody(number) => {
                if let Some(attempt) = self.server.0.lock().unwrap().get_mut(number) {
                    attempt.body = None;
                }
            }
            Op::DropCall => self.gave_up |= self.call.take().is_some(),
            Op::Replace => {
                // Refused after a logout.
                let _ = self.session.replace(Token::new("replaced")).await;
            }
            Op::Logout => self.session.logout().await.unwrap(),
        }
    }

    fn feed(&mut self) {
        let next = match self.plan.frames.get(self.fed) {
            Some(frame) => Some(Ok(copy(frame))),
            None if self.fed == self.plan.frames.len() && self.plan.fails => Some(Err(Broken)),
            None => None,
        };
        self.fed += 1;
        self.feed.give(next);
    }

    fn poll_body(&mut self, number: usize) {
        let is_excused = self.plan.fails
            || self.gave_up
            || matches!(self.result, Some(Err(_)))
            || number + 1 < self.server.0.lock().unwrap().len();
        let mut attempts = self.server.0.lock().unwrap();
        let Some(attempt) = attempts.get_mut(number) else { return };
        let Some(body) = &mut attempt.body else { return };
        let (hint, announced) = (body.size_hint(), body.is_end_stream());
        let polled = attempt.poller.poll(|cx| Pin::new(body).poll_frame(cx));
        let left = (self.plan.whole.data.len() - attempt.seen.data.len()) as u64;
        if !attempt.failed && !matches!(polled, Poll::Ready(Some(Err(_)))) {
            assert!(hint.lower() <= left && hint.upper().is_none_or(|upper| left <= upper));
        }
        match polled {
            Poll::Pending => assert!(!announced),
            Poll::Ready(Some(Ok(frame))) => {
                assert!(!announced && !attempt.failed);
                match frame.into_data() {
                    Ok(data) => {
                        assert!(attempt.seen.trailers.is_none(), "trailers come last");
                        attempt.seen.data.extend_from_slice(&data);
                    }
                    Err(frame) => {
                        assert!(attempt.seen.trailers.is_none(), "trailers come once");
                        attempt.seen.trailers = frame.into_trailers().ok();
                    }
                }
                assert!(self.plan.whole.data.starts_with(&attempt.seen.data));
            }
            Poll::Ready(Some(Err(error))) => {
                assert!(is_excused, "{error}");
                attempt.failed = true;
            }
            Poll::Ready(None) => {
                assert!(attempt.failed || attempt.seen == self.plan.whole, "an end before the end");
                assert!(attempt.failed || !self.plan.fails || number > 0 && self.plan.rebuilds);
            }
        }
    }

    fn poll_call(&mut self) {
        let Some(call) = &mut self.call else { return };
        if let Poll::Ready(result) = self.caller.poll(|cx| call.as_mut().poll(cx)) {
            self.call = None;
            self.result = Some(result);
        }
    }

    fn answer(&mut self, status: Option<u16>, answer: Answers) {
        let mut attempts = self.server.0.lock().unwrap();
        let Some(attempt) = attempts.last_mut() else { return };
        if let Some(sender) = attempt.answer.take() {
            attempt.status = status;
            attempt.seen_before = attempt.seen.data.len();
            // Nobody waits for it if the caller has given up.
            let _ = sender.send(answer);
        }
    }

    fn fetched(&mut self, result: Result<Token, FetchError>) {
        if let Some(fetch) = self.fetches.lock().unwrap().pop() {
            // Nobody waits for it if the session has gone on without it.
            let _ = fetch.send(result);
        }
    }

    /// Lets everything come to its end, and looks at what has come of it.
    async fn end(mut self) {
        while self.fed <= self.plan.frames.len() + 1 {
            self.feed();
        }
        for _ in 0..8 {
            for op in [Op::PollCall, Op::Run, Op::Answer(200), Op::Fetched, Op::Run] {
                self.step(op).await;
            }
        }
        assert!(self.call.is_none(), "the caller gets an answer");
        for attempt in 0..2 {
            // Small frames may come together, but no frame comes in two.
            for _ in 0..=self.plan.frames.len() + 1 {
                self.poll_body(attempt);
            }
        }
        let attempts = self.server.0.lock().unwrap();
        assert!((1..=2).contains(&attempts.len()));
        if attempts.len() == 2 {
            assert!(matches!(attempts[0].status, Some(401 | 403)));
            assert!(self.plan.rebuilds || attempts[0].seen_before <= self.plan.limit.unwrap_or_default());
        }
        for (number, attempt) in attempts.iter().enumerate() {
            if attempt.body.is_some() && !attempt.failed {
                assert_eq!(attempt.seen, self.plan.whole, "attempt {number}");
            }
        }
        let Some(Ok(response)) = &self.result else { return };
        let refused = matches!(response.status().as_u16(), 401 | 403);
        let Some(outcome) = response.extensions().get::<Outcome>() else {
            return assert!(attempts.len() == 1 && !refused);
        };
        assert_eq!(usize::from(outcome.attempts()), attempts.len());
        assert_eq!(outcome.is_refused(), refused);
        assert_eq!(outcome.not_resent().is_some(), attempts.len() == 1);
        if let Some(NotResent::Body(reason)) = outcome.not_resent() {
            // 32 for the block, 32 for the field, name and value.
            let weight =
                attempts[0].seen.data.len() + if self.plan.whole.trailers.is_some() { 70 } else { 0 };
            match reason {
                NotReplayable::TooLarge => {
                    let is_kept = self.plan.rebuilds || self.plan.limit.is_some_and(|limit| weight <= limit);
                    assert!(!is_kept);
                }
                NotReplayable::Failed => assert!(self.plan.fails),
                reason => panic!("{reason:?}"),
            }
        }
    }
}

fn copies(frames: &[Frame<Bytes>]) -> Vec<Frame<Bytes>> {
    frames.iter().map(copy).collect()
}

fn copy(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match frame.data_ref() {
        Some(data) => Frame::data(data.clone()),
        None => Frame::trailers(frame.trailers_ref().cloned().unwrap_or_default()),
    }
}
