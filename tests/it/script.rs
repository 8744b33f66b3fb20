//! An inner service that answers from a list, remembers what it was sent, and has a client in front of it whose tokens
//! are `token-1`, `token-2` …

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, StreamBody};
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt};
use tower_token_refresh::{
    BoxError, FetchContext, FetchError, Outcome, ReplayBody, Session, Token, TokenRefresh, TokenRefreshLayer,
    session::SessionBuilder, source_fn, test_util::ModelBody,
};

use crate::world::origin;

/// The far side of the connection is gone.
#[derive(Debug, PartialEq)]
pub(crate) struct Reset;

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection reset")
    }
}

impl std::error::Error for Reset {}

pub(crate) type Answer = Result<Response<ModelBody>, Reset>;

/// Answers request after request from its list, each of them read to its end first. One request more than there are
/// answers is a panic.
#[derive(Clone, Default)]
pub(crate) struct Script(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    answers: VecDeque<Answer>,
    sent: Vec<Sent>,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) head: Parts,
    /// Of the body when it came.
    pub(crate) hint: SizeHint,
    pub(crate) ended_at_once: bool,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Sent {
    /// All values of `Authorization`.
    pub(crate) fn authorization(&self) -> Vec<&str> {
        self.values(header::AUTHORIZATION.as_str())
    }

    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.head.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }
}

impl<B> Service<Request<B>> for Script
where
    B: Body<Data: Send, Error: fmt::Debug> + Send + 'static,
{
    type Response = Response<ModelBody>;
    type Error = Reset;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Reset>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let script = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let (hint, ended_at_once) = (body.size_hint(), body.is_end_stream());
            let body = body.collect().await.expect("the body is whole");
            let trailers = body.trailers().cloned();
            let mut script = script.lock().unwrap();
            script.sent.push(Sent { head, hint, ended_at_once, body: body.to_bytes(), trailers });
            script.answers.pop_front().expect("no more requests than answers")
        })
    }
}

/// A client with the layer in front of a [`Script`], and a source that counts.
pub(crate) struct Lab {
    pub(crate) session: Session,
    pub(crate) client: TokenRefresh<Script>,
    script: Script,
    fetches: Arc<AtomicUsize>,
}

impl Lab {
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::with(answers, |session| session, |layer| layer)
    }

    pub(crate) fn with(
        answers: impl IntoIterator<Item = Answer>,
        session: impl FnOnce(SessionBuilder) -> SessionBuilder,
        layer: impl FnOnce(TokenRefreshLayer) -> TokenRefreshLayer,
    ) -> Self {
        let (builder, fetches) = numbered();
        let session = session(builder).build();
        let script = Script::default();
        script.0.lock().unwrap().answers.extend(answers);
        let client = layer(TokenRefreshLayer::new(session.clone(), origin())).layer(script.clone());
        Lab { session, client, script, fetches }
    }

    pub(crate) async fn send<B>(&self, request: Request<B>) -> Result<Response<ModelBody>, BoxError>
    where
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        within(self.client.clone().oneshot(request)).await
    }

    /// The service under the client, for other stacks on it.
    pub(crate) fn script(&self) -> Script {
        self.script.clone()
    }

    /// More answers, after those that are left.
    pub(crate) fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        self.script.0.lock().unwrap().answers.extend(answers);
    }

    /// The requests so far, in order.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.script.0.lock().unwrap().sent.clone()
    }

    pub(crate) fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }
}

/// A session whose tokens are `token-1`, `token-2` …, and how many there were.
pub(crate) fn numbered() -> (SessionBuilder, Arc<AtomicUsize>) {
    let fetches = Arc::new(AtomicUsize::new(0));
    let count = fetches.clone();
    let source = source_fn(move |_: FetchContext| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        async move { Ok::<_, FetchError>(Token::new(format!("token-{number}"))) }
    });
    (Session::builder(source), fetches)
}

/// Fails instead of waiting for ever; with paused time it does so at once.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(24 * 3600), future).await.expect("it comes to an end")
}

/// Lets the other tasks run until this holds, and fails if it never does.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never happens");
}

/// Gives every other task its turn, many times over.
pub(crate) async fn idle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// An answer with this status and nothing else.
pub(crate) fn status(code: u16) -> Answer {
    let mut response = Response::new(ModelBody::default());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    Ok(response)
}

/// A request with as many header fields as there is room for, some 24,000.
pub(crate) fn filled<B>(mut request: Request<B>) -> Request<B> {
    let mut names = (0..).map(|n| HeaderName::try_from(format!("x-{n}")).unwrap());
    let one = HeaderValue::from_static("1");
    while names.next().is_some_and(|name| request.headers_mut().try_insert(name, one.clone()).is_ok()) {}
    request
}

pub(crate) fn outcome<B>(response: &Response<B>) -> Outcome {
    *response.extensions().get().expect("the layer says what it did")
}

/// A body of unknown length in these chunks, with these trailers.
pub(crate) fn chunked(
    chunks: impl IntoIterator<Item = &'static [u8]>,
    trailers: Option<HeaderMap>,
) -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static {
    let data = chunks.into_iter().map(|chunk| Frame::data(Bytes::from_static(chunk)));
    let frames: Vec<_> = data.chain(trailers.map(Frame::trailers)).map(Ok).collect();
    StreamBody::new(stream::iter(frames))
}

/// What a mock under the layer is sent, for tests that go step by step.
pub(crate) type ToMock = Request<ReplayBody<ModelBody>>;
