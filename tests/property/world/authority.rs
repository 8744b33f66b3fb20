//! The line to the model authority: it notes what is asked and answered, and fails as it is told.

use std::{
    collections::VecDeque,
    future::pending,
    io,
    panic::resume_unwind,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::Service;
use tower_token_refresh::{
    BoxError,
    source::Content,
    test_util::{ModelAuthority, ModelBody, Rotation},
};

use super::holding::Holding;
use crate::{
    checks::{Answered, Asking, Book, CallId, Pair, Pid},
    steps::{Config, Outcome},
};

/// What all processes share.
#[derive(Clone)]
pub(super) struct Office {
    pub(super) model: ModelAuthority,
    pub(super) holding: Holding,
    script: Arc<Mutex<VecDeque<Outcome>>>,
    /// Of the next calls, the first bit first: whether a refresh brings the next refresh token (RFC 6749 §6). `None`: all do
    /// as the model does.
    rotates: Arc<Mutex<Option<u64>>>,
}

impl Office {
    pub(super) fn new(model: ModelAuthority, config: &Config) -> Self {
        let rotates = Arc::new(Mutex::new(config.at_times.then_some(config.seed)));
        Office { model, holding: Holding::default(), script: Arc::default(), rotates }
    }

    async fn works(&self, request: Request<ModelBody>) -> Answer {
        let mut model = self.model.clone();
        if let Some(rotates) = &mut *self.rotates.lock().unwrap() {
            let rotation = if *rotates & 1 == 1 { Rotation::ReuseKillsFamily } else { Rotation::Omitted };
            model = model.rotation(rotation);
            *rotates = rotates.rotate_right(1);
        }
        model.call(request).await
    }

    pub(super) fn next(&self, outcome: Outcome) {
        self.script.lock().unwrap().push_back(outcome);
    }

    /// How many failures are still to come.
    pub(super) fn planned(&self) -> usize {
        self.script.lock().unwrap().len()
    }

    /// Everything works from now on.
    pub(super) fn open(&self) {
        self.script.lock().unwrap().clear();
        self.holding.open();
    }

    fn outcome(&self) -> Outcome {
        self.script.lock().unwrap().pop_front().unwrap_or(Outcome::Works)
    }
}

/// The authority as one process reaches it.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) pid: Pid,
    pub(super) office: Office,
    pub(super) book: Book,
}

type Answer = Result<Response<ModelBody>, BoxError>;

impl Service<Request<Content>> for Line {
    type Response = Response<ModelBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Content>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

impl Line {
    async fn answer(self, request: Request<Content>) -> Answer {
        self.while_alive().await;
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let id = self.book.call_started(self.pid, &read(&body));
        let call = UnderWay { id, book: &self.book };
        let answer = self.work(Request::from_parts(head, ModelBody::from(body))).await;
        self.while_alive().await;
        call.ends(&meaning(&answer));
        answer
    }

    async fn work(&self, request: Request<ModelBody>) -> Answer {
        match self.office.outcome() {
            Outcome::Works => self.office.works(request).await,
            Outcome::Late => {
                self.office.holding.pass().await;
                self.while_alive().await;
                self.office.works(request).await
            }
            Outcome::LateAnswer => {
                let answer = self.office.works(request).await;
                self.office.holding.pass().await;
                answer
            }
            Outcome::InvalidGrant => Ok(refusal("invalid_grant")),
            Outcome::InvalidClient => Ok(refusal("invalid_client")),
            Outcome::Unavailable => Ok(answer(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "")),
            Outcome::RetryAfter(seconds) => {
                let mut response = answer(StatusCode::TOO_MANY_REQUESTS, "text/plain", "");
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                Ok(response)
            }
            Outcome::ServerError => Ok(answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "")),
            Outcome::Forbidden => Ok(answer(StatusCode::FORBIDDEN, "text/html", "<!doctype html>")),
            Outcome::Empty => Ok(answer(StatusCode::OK, "application/json", "{}")),
            Outcome::NoConnection => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            Outcome::Lost => {
                self.office.works(request).await?;
                Err(io::Error::from(io::ErrorKind::ConnectionReset).into())
            }
            Outcome::NeverAnswered => pending().await,
            // Without a word of the panic hook's.
            Outcome::Panics => resume_unwind(Box::new("the source panics")),
        }
    }

    async fn while_alive(&self) {
        if !self.book.is_alive(self.pid) {
            pending::<()>().await;
        }
    }
}

/// A call whose end is not known yet.
struct UnderWay<'a> {
    id: CallId,
    book: &'a Book,
}

impl UnderWay<'_> {
    fn ends(self, answered: &Answered) {
        self.book.call_answered(self.id, answered);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            // Nothing was sent.
            return self.book.call_answered(self.id, &failed(0));
        }
        self.book.call_dropped(self.id);
    }
}

fn read(body: &[u8]) -> Asking {
    let text = String::from_utf8_lossy(body);
    match text.split('&').find_map(|pair| pair.strip_prefix("refresh_token=")) {
        Some(token) => Asking::Refresh(token.to_owned()),
        None => {
            let login: Value = serde_json::from_slice(body).unwrap_or_default();
            Asking::Login(login["account"].as_str().unwrap_or_default().to_owned())
        }
    }
}

/// What an answer tells whoever asked.
fn meaning(answer: &Answer) -> Answered {
    let response = match answer {
        Ok(response) => response,
        Err(error) => {
            let error = error.downcast_ref::<io::Error>().map(io::Error::kind);
            let was_sent = error != Some(io::ErrorKind::ConnectionRefused);
            return if was_sent { Answered::Silence } else { failed(0) };
        }
    };
    let body: Value = serde_json::from_slice(response.body().bytes()).unwrap_or_default();
    match (body["access_token"].as_str(), body["error"].as_str()) {
        (Some(access), _) => Answered::Token(Pair {
            access: access.to_owned(),
            refresh: body["refresh_token"].as_str().map(str::to_owned),
        }),
        (None, Some("invalid_grant")) => Answered::Refused,
        _ if response.status() == StatusCode::INTERNAL_SERVER_ERROR => Answered::Silence,
        _ => {
            let wait =
                response.headers().get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
            failed(wait.unwrap_or_default())
        }
    }
}

fn failed(seconds: u64) -> Answered {
    Answered::Failed { retry_after: Duration::from_secs(seconds) }
}

fn refusal(code: &str) -> Response<ModelBody> {
    answer(StatusCode::BAD_REQUEST, "application/json", &format!(r#"{{"error":"{code}"}}"#))
}

fn answer(status: StatusCode, content_type: &'static str, text: &str) -> Response<ModelBody> {
    let mut response = Response::new(ModelBody::from(text.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
