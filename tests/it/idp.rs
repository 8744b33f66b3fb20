//! An authority that answers from a list, and a session whose source asks it.

use std::{
    collections::VecDeque,
    future::{Future, pending},
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response, header, request::Parts};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use tower::Service;
use tower_token_refresh::{
    BoxError, Error, FetchContext, FetchError, Session, Token, TokenSource,
    source::{Content, Verification},
    store::{MemoryStore, StoredToken, TokenStore},
};

/// What the authority does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Say {
    /// Status, content type, body.
    Answer(u16, &'static str, Bytes),
    /// The same, with these headers.
    With(HeaderMap, u16, &'static str),
    /// A 200 that breaks off in its body.
    Truncated,
    /// The same, with these headers and this status.
    BreaksOff(HeaderMap, u16),
    /// The same, and it does not even break off.
    Stalls(HeaderMap, u16),
    /// The connection breaks when the request has been read.
    Reset,
    /// There is no connection.
    Unreachable,
    /// The request is read and never answered.
    Hang,
    /// The request is never even read.
    Stuck,
    /// The service is not ready and never will be.
    NotReady,
}

pub(crate) fn json(status: u16, body: impl Into<Bytes>) -> Say {
    Say::Answer(status, "application/json", body.into())
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) head: Parts,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

#[derive(Clone, Default)]
pub(crate) struct Idp(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    says: VecDeque<Say>,
    asked: Vec<Asked>,
}

impl Idp {
    pub(crate) fn new(says: impl IntoIterator<Item = Say>) -> Self {
        let idp = Idp::default();
        idp.says(says);
        idp
    }

    pub(crate) fn says(&self, says: impl IntoIterator<Item = Say>) {
        self.0.lock().unwrap().says.extend(says);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.0.lock().unwrap().asked.clone()
    }

    /// The bodies that came, in order.
    pub(crate) fn bodies(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.body).collect()
    }
}

impl Service<Request<Content>> for Idp {
    type Response = Response<BoxBody<Bytes, io::Error>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut inner = self.0.lock().unwrap();
        if matches!(inner.says.front(), Some(Say::NotReady)) {
            inner.says.pop_front();
            return Poll::Ready(Err("closed".into()));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Content>) -> Self::Future {
        let idp = self.0.clone();
        Box::pin(async move {
            let say = idp.lock().unwrap().says.pop_front().expect("no more requests than answers");
            match say {
                Say::Unreachable => return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
                Say::Stuck => {
                    let _held = request;
                    return pending().await;
                }
                _ => {}
            }
            let (head, body) = request.into_parts();
            assert_eq!(body.size_hint().exact().map(|length| length > 0), Some(true), "its length is known");
            let body = body.collect().await.expect("infallible").to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            idp.lock().unwrap().asked.push(Asked { head, body });
            let (mut response, status) = match say {
                Say::Answer(status, content_type, body) => {
                    let mut response =
                        Response::new(chunks(body.chunks(7).map(Bytes::copy_from_slice), None));
                    response.headers_mut().insert(header::CONTENT_TYPE, content_type.parse().unwrap());
                    (response, status)
                }
                Say::With(headers, status, body) => {
                    let mut response = Response::new(chunks([Bytes::from(body)], None));
                    *response.headers_mut() = headers;
                    (response, status)
                }
                Say::Truncated => (broken_off(), 200),
                Say::BreaksOff(headers, status) => {
                    let mut response = broken_off();
                    *response.headers_mut() = headers;
                    (response, status)
                }
                Say::Stalls(headers, status) => {
                    let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream::pending())));
                    *response.headers_mut() = headers;
                    (response, status)
                }
                Say::Reset => return Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
                Say::Hang | Say::Stuck | Say::Unreachable | Say::NotReady => return pending().await,
            };
            *response.status_mut() = status.try_into().unwrap();
            Ok(response)
        })
    }
}

fn broken_off() -> Response<BoxBody<Bytes, io::Error>> {
    let error = io::Error::from(io::ErrorKind::UnexpectedEof);
    Response::new(chunks([Bytes::from(r#"{"access_token":"#)], Some(error)))
}

fn chunks(data: impl IntoIterator<Item = Bytes>, error: Option<io::Error>) -> BoxBody<Bytes, io::Error> {
    let frames: Vec<_> = data.into_iter().map(|data| Ok(Frame::data(data))).chain(error.map(Err)).collect();
    BodyExt::boxed(StreamBody::new(stream::iter(frames)))
}

/// The class of a failure that is not the source's: the token cannot be sent.
pub(crate) const UNSENDABLE: &str = "unsendable";

/// A session whose source is watched.
pub(crate) struct Bench {
    pub(crate) session: Session,
    pub(crate) store: MemoryStore,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    pub(crate) fn new(source: impl TokenSource) -> Self {
        let seen = Arc::default();
        let store = MemoryStore::new();
        let watched = Watched { source, seen: Arc::clone(&seen) };
        // Longer than any source waits: what it says then is to be seen.
        let session = Session::builder(watched).refresh_timeout(Duration::from_secs(115)).unwrap();
        Bench { session: session.store(store.clone()).build(), store, seen }
    }

    /// With a token of before, whose refresh token is `old-refresh`.
    pub(crate) async fn logged_in(source: impl TokenSource) -> Self {
        let bench = Bench::new(source);
        bench.session.login(Token::new("old-access").refresh_token("old-refresh")).await.unwrap();
        bench
    }

    /// Fetches until it fails, and the class of that failure by its name.
    pub(crate) async fn failure(&self) -> (String, Error) {
        let error = self.session.refresh().await.expect_err("a failure");
        (self.seen.lock().unwrap().pop().expect("the source was asked"), error)
    }

    /// The same, or [`UNSENDABLE`].
    pub(crate) async fn failure_or_unsendable(&self) -> (String, Error) {
        let error = self.session.refresh().await.expect_err("a failure");
        (self.seen.lock().unwrap().pop().unwrap_or_else(|| UNSENDABLE.to_owned()), error)
    }

    pub(crate) async fn class(&self) -> String {
        self.failure().await.0
    }

    /// Access and refresh token in the store.
    pub(crate) async fn stored(&self) -> Option<(String, Option<String>)> {
        let StoredToken { access, refresh, .. } = self.store.load().await.unwrap()?.token?;
        Some((access.expose().to_owned(), refresh.map(|refresh| refresh.expose().to_owned())))
    }
}

/// Longer than any cooling.
pub(crate) async fn cool_down() {
    tokio::time::advance(Duration::from_secs(3600)).await;
}

/// Writes down how fetches fail.
struct Watched<S> {
    source: S,
    seen: Arc<Mutex<Vec<String>>>,
}

impl<S: TokenSource> TokenSource for Watched<S> {
    async fn fetch(&self, cx: FetchContext) -> Result<Token, FetchError> {
        let outcome = self.source.fetch(cx).await;
        if let Err(failure) = &outcome {
            self.seen.lock().unwrap().push(format!("{:?}", failure.class()));
        }
        outcome
    }

    async fn verify(&self, token: &Token) -> Verification {
        self.source.verify(token).await
    }
}
