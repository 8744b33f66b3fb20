//! A resource server in memory.

mod refusal;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, Uri, header, request::Parts};
use http_body::Body;
use tower_service::Service;

pub use self::refusal::Refusal;
use super::{
    authority::ModelAuthority,
    body::{JSON, ModelBody, answer},
    form,
    gate::Gate,
    record::{InFlight, Log, ReceivedRequest},
};
use crate::error::BoxError;

/// An API that answers to the access tokens of a [`ModelAuthority`], as a tower service over HTTP messages.
///
/// A good token is answered with 200 and a JSON object: `method`, `path`, `account`, `length` and `checksum` of the
/// body ([`ModelApi::checksum`]); the path `/echo` answers with the body itself. Anything else meets the [`Refusal`],
/// and a credential that is there twice gets 400. The body is read to its end first, unless the path's [`Route`] says
/// otherwise.
///
/// Clones are the same API. See the [module docs](super) for an example.
#[derive(Clone)]
pub struct ModelApi {
    shared: Arc<Shared>,
}

struct Shared {
    authority: ModelAuthority,
    settings: Mutex<Settings>,
    log: Log,
    in_flight: InFlight,
}

struct Settings {
    credential: Credential,
    refusal: Refusal,
    routes: HashMap<String, Route>,
    gates: Vec<(Phase, Option<String>, Gate)>,
    answered: BTreeMap<StatusCode, usize>,
}

/// Where the API looks for the token.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Credential {
    /// In `Authorization`, as a bearer token or as the user name of basic authentication. This is the default.
    Authorization,
    /// In a header of its own.
    Header(HeaderName),
    /// In the query, under this name.
    Query(&'static str),
}

/// What is special about a path.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Route {
    /// No token is needed.
    Open,
    /// No token is good enough: everybody gets this answer.
    Always(Refusal),
    /// A bad token is refused before the body is read; the upload stays open and is read on meanwhile.
    RefuseEarly,
    /// A bad token is refused before the body is read, and the body is dropped.
    RefuseAndDrop,
}

/// Where a request can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Before its token is looked at.
    Judge,
    /// When the token has been looked at and before the answer goes out: a late refusal is made here.
    Answer,
}

enum Verdict {
    /// With the account, if one was asked for.
    Accept(Option<String>),
    Refuse(Refusal),
}

impl ModelApi {
    /// An API guarded by this authority.
    pub fn new(authority: ModelAuthority) -> Self {
        let settings = Mutex::new(Settings {
            credential: Credential::Authorization,
            refusal: Refusal::Unauthorized,
            routes: HashMap::new(),
            gates: Vec::new(),
            answered: BTreeMap::new(),
        });
        let (log, in_flight) = (Log::default(), InFlight::default());
        ModelApi { shared: Arc::new(Shared { authority, settings, log, in_flight }) }
    }

    /// Where the token is looked for.
    #[must_use]
    pub fn credential(self, credential: Credential) -> Self {
        self.settings().credential = credential;
        self
    }

    /// How a bad token is refused.
    #[must_use]
    pub fn refusal(self, refusal: Refusal) -> Self {
        self.settings().refusal = refusal;
        self
    }

    /// Treats a path differently.
    ///
    /// # Panics
    ///
    /// If no URI has this path: one without its slash, or with a query.
    #[must_use]
    pub fn route(self, path: &str, route: Route) -> Self {
        let path = path_of_a_uri(path);
        self.settings().routes.insert(path, route);
        self
    }

    /// Holds all requests at this phase, from now on.
    pub fn hold(&self, phase: Phase) -> Gate {
        self.add_gate(phase, None)
    }

    /// Holds the requests to one path at this phase, from now on.
    ///
    /// # Panics
    ///
    /// If no URI has this path, as in [`route`](Self::route).
    pub fn hold_path(&self, phase: Phase, path: &str) -> Gate {
        self.add_gate(phase, Some(path_of_a_uri(path)))
    }

    /// The requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.log.requests()
    }

    /// How many requests were answered with this status.
    pub fn answered(&self, status: StatusCode) -> usize {
        self.settings().answered.get(&status).copied().unwrap_or_default()
    }

    /// How many requests were under way at once, at most.
    pub fn max_in_flight(&self) -> usize {
        self.shared.in_flight.max()
    }

    /// The checksum of a body (FNV-1a), as in the answer's `checksum`.
    pub fn checksum(body: &[u8]) -> String {
        let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        format!("{hash:016x}")
    }

    async fn answer<B>(self, request: Request<B>) -> Result<Response<ModelBody>, BoxError>
    where
        B: Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let _inside = self.shared.in_flight.enter();
        let (head, body) = request.into_parts();
        let incoming = self.shared.log.receive(head.clone(), body);
        let route = self.settings().routes.get(head.uri.path()).cloned();
        let early = matches!(route, Some(Route::RefuseEarly | Route::RefuseAndDrop));
        let body = if early { Err(incoming) } else { Ok(incoming.read().await?) };

        self.pass(Phase::Judge, &head).await;
        let verdict = self.judge(&head, route.as_ref());
        self.pass(Phase::Answer, &head).await;

        let response = match (verdict, body) {
            (Verdict::Accept(account), Ok(body)) => accept(&head, account, body),
            (Verdict::Accept(account), Err(incoming)) => accept(&head, account, incoming.read().await?),
            (Verdict::Refuse(refusal), Err(incoming)) if matches!(route, Some(Route::RefuseEarly)) => {
                tokio::spawn(incoming.read());
                refusal.answer()
            }
            (Verdict::Refuse(refusal), _) => refusal.answer(),
        };
        *self.settings().answered.entry(response.status()).or_default() += 1;
        Ok(response)
    }

    fn judge(&self, head: &Parts, route: Option<&Route>) -> Verdict {
        let (tokens, refusal) = {
            let settings = self.settings();
            (settings.credential.read(head), settings.refusal.clone())
        };
        match (route, &*tokens) {
            (Some(Route::Open), _) => Verdict::Accept(None),
            (Some(Route::Always(refusal)), _) => Verdict::Refuse(refusal.clone()),
            (_, [_, _, ..]) => Verdict::Refuse(Refusal::Status(StatusCode::BAD_REQUEST)),
            (_, [token]) => match self.shared.authority.holder(token) {
                Some(account) => Verdict::Accept(Some(account)),
                None => Verdict::Refuse(refusal),
            },
            (_, []) => Verdict::Refuse(refusal.of_nobody()),
        }
    }

    async fn pass(&self, phase: Phase, head: &Parts) {
        let is_here = |(at, path, _): &&(Phase, Option<String>, Gate)| {
            *at == phase && path.as_ref().is_none_or(|path| path == head.uri.path())
        };
        let gates: Vec<Gate> =
            self.settings().gates.iter().filter(is_here).map(|(.., gate)| gate.clone()).collect();
        for gate in gates {
            gate.pass().await;
        }
    }

    fn add_gate(&self, phase: Phase, path: Option<String>) -> Gate {
        let gate = Gate::new();
        self.settings().gates.push((phase, path, gate.clone()));
        gate
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.shared.settings.lock().expect("nothing panics while it holds the settings")
    }
}

fn path_of_a_uri(path: &str) -> String {
    let is_one = path.parse::<Uri>().is_ok_and(|uri| uri.path() == path);
    assert!(is_one, "a path begins with a slash and has no query: `{path}`");
    path.to_owned()
}

impl<B> Service<Request<B>> for ModelApi
where
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ModelBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ModelBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

impl fmt::Debug for ModelApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelApi").field("answered", &self.settings().answered).finish_non_exhaustive()
    }
}

impl Credential {
    /// Every text in the credential's place.
    fn read(&self, head: &Parts) -> Vec<String> {
        let texts = |name| head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        match self {
            Credential::Authorization => texts(&header::AUTHORIZATION).map(token_of_authorization).collect(),
            Credential::Header(name) => texts(name).map(str::to_owned).collect(),
            Credential::Query(name) => form::values(head.uri.query().unwrap_or_default(), name).collect(),
        }
    }
}

/// Empty, and so nobody's, if it is of another scheme. The case of that does not matter, nor how many spaces follow
/// (RFC 9110 §11).
fn token_of_authorization(value: &str) -> String {
    let (scheme, text) = value.split_once(' ').unwrap_or((value, ""));
    let text = text.trim_start_matches(' ');
    let basic = || Some(String::from_utf8(STANDARD.decode(text).ok()?).ok()?.strip_suffix(':')?.to_owned());
    match &*scheme.to_ascii_lowercase() {
        "basic" => basic().unwrap_or_default(),
        "bearer" => text.to_owned(),
        _ => String::new(),
    }
}

fn accept(head: &Parts, account: Option<String>, body: Bytes) -> Response<ModelBody> {
    if head.uri.path() == "/echo" {
        return Response::new(body.into());
    }
    let object = serde_json::json!({
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "account": account,
        "length": body.len(),
        "checksum": ModelApi::checksum(&body),
    });
    answer(StatusCode::OK, JSON, object.to_string())
}
