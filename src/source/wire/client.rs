use std::{error::Error as StdError, fmt, future::poll_fn, io, pin::pin, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, Either, select};
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body::Body;
use tower_service::Service;
use zeroize::Zeroizing;

use super::{
    answer::Answer,
    content::{Content, TAKEN, UNREAD},
    error::FailedCall,
    failure::Grant,
    form, json,
    reading::Reading,
};
use crate::{
    body::Rebuild,
    error::{BoxError, Error, causes},
    query, reentry,
    scope::is_in_the_clear,
    source::{FetchContext, FetchError, OwnWords},
    timer::limit,
    token::Token,
};

/// The client by which sources speak to an authority, with limits for its answers. Cloning is cheap.
///
/// Any HTTP client will do that is a tower service and `Clone + Send + Sync` (of tower's boxes that is
/// `BoxCloneSyncService`), except the one with the layer that the source serves. `From` makes an `AuthorityClient` of it
/// with the default limits. The URLs of the source have a scheme and a host, or neither, for a client that knows where to
/// go. Redirects are not followed: a 3xx is a failure, and a client that followed one would show credentials to somebody
/// else.
///
/// Requests ask for an answer without compression (`Accept-Encoding: identity`). A client that decompresses answers
/// does no harm, and need not do so.
///
/// A `Retry` in the client presents a refresh token or a code more than once, so it should repeat only attempts that found
/// no connection ("A source's own client" in [`composition`](crate::composition)). Where the client has a body type of its
/// own, such a `Retry` belongs *below* the conversion of the body: above it, a request counts as sent as soon as it is
/// repeated, even if no attempt found a connection. Repetitions that a client makes internally, behind a body type of its
/// own, cannot be noticed here.
///
/// An error of the client itself becomes the cause of ours as it came. Some clients name the whole URL in their errors, so
/// no secret should be part of the URL.
///
/// ```
/// use bytes::Bytes;
/// use http::Request;
/// use http_body_util::Full;
/// use hyper_util::{client::legacy::{Client, connect::HttpConnector}, rt::TokioExecutor};
/// use tower::ServiceExt;
/// use tower_token_refresh::source::{AuthorityClient, Content};
///
/// let http: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
/// let authority = AuthorityClient::new(http).response_limit(16 * 1024)?;
///
/// // A client with a body type of its own:
/// let http: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// let authority = AuthorityClient::new(http.map_request(|r: Request<Content>| r.map(|c| Full::from(Bytes::from(c)))));
/// # let _ = authority;
/// # Ok::<(), tower_token_refresh::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct AuthorityClient {
    send: Arc<Sending>,
    timeout: Option<Duration>,
    response_limit: usize,
    classify: Option<Arc<Classify>>,
    may_go_in_the_clear: bool,
}

/// How long is waited for an answer that is worth nothing by itself, or for a request to be sent.
const BRIEFLY: Duration = Duration::from_secs(10);
/// How long for one that nobody gets a second time. By default the session gives up at about that time.
const FOR_WHAT_MAY_BE_SPENT: Duration = Duration::from_secs(110);

/// With how much of the body is read, and how long it is waited for where the head says it all.
type Sending =
    dyn Fn(Request<Content>, usize, Duration) -> BoxFuture<'static, Result<Answer, BoxError>> + Send + Sync;

type Classify = dyn Fn(&FailedCall<'_>) -> Option<FetchError> + Send + Sync;

impl AuthorityClient {
    /// A client with the default [`timeout`](Self::timeout) for each call, and 64 KiB for each answer.
    pub fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<Content>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        AuthorityClient {
            send: Arc::new(move |request, limit, patience| {
                Box::pin(send(service.clone(), request, limit, patience))
            }),
            timeout: None,
            response_limit: 64 * 1024,
            classify: None,
            may_go_in_the_clear: false,
        }
    }

    /// Lets credentials go to URLs of plain `http` on other machines, too. By default that is a
    /// [configuration](crate::ErrorKind::Configuration) failure, and nothing is sent.
    ///
    /// # Security
    ///
    /// Everybody on the way can read the credentials and the tokens. This is for a network that does the encryption
    /// itself.
    pub fn danger_plain_http(mut self) -> Self {
        self.may_go_in_the_clear = true;
        self
    }

    /// How long one call may take, from the wait for the service's readiness to the end of the answer.
    ///
    /// By default 10 s, and 110 s where the authority may already have used up, or counted, what the next call would present
    /// again (a refresh token, a code of OAuth 2, a password; a [`LoginCode`](crate::source::LoginCode) presents another):
    /// whoever does not wait for that answer has lost what it brings. Callers do not wait so long:
    /// [`refresh_timeout`](crate::session::SessionBuilder::refresh_timeout) is theirs. What a client takes for a body of its
    /// own counts as sent.
    ///
    /// A value of yours holds for all calls, so a short one brings back the risk. A connection that does not come about, or is
    /// dead, is better noticed by the client itself: by its time limit for connecting, and by HTTP/2's keep-alive. Until then
    /// there is no other refresh, by others who share the store either.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for zero.
    pub fn timeout(mut self, timeout: Duration) -> Result<Self, Error> {
        Error::require(!timeout.is_zero(), "a timeout must be longer than zero")?;
        self.timeout = Some(timeout);
        Ok(self)
    }

    /// How many bytes of an answer are read; 64 KiB by default. A longer one is no token.
    ///
    /// # Errors
    ///
    /// `InvalidValue` for zero and for more than 1 MiB.
    pub fn response_limit(mut self, bytes: usize) -> Result<Self, Error> {
        let is_fit = (1..=1024 * 1024).contains(&bytes);
        Error::require(is_fit, "a response limit is between 1 byte and 1 MiB")?;
        self.response_limit = bytes;
        Ok(self)
    }

    /// Decides by a closure what failures mean, for authorities with a language of their own. `None` leaves a failure as it
    /// is. If the closure returns a failure without a [`retry_after`](FetchError::retry_after), the authority's is kept;
    /// after an ambiguous failure of a password the session waits for five minutes at least. If the authority has answered,
    /// the [`AuthorityError`](super::AuthorityError) stays in the chain of causes, with the closure's cause behind it;
    /// otherwise the closure's cause replaces the error of the client.
    ///
    /// ```
    /// use tower_token_refresh::{FetchError, source::{AuthorityClient, FailedCall}};
    ///
    /// # fn authority(client: AuthorityClient) -> AuthorityClient {
    /// client.classify_failures(|failed: &FailedCall<'_>| {
    ///     let answer = failed.answer()?;
    ///     (answer.text("/reason")? == "expired").then(|| FetchError::login_required("the authority said `expired`"))
    /// })
    /// # }
    /// ```
    pub fn classify_failures(
        mut self,
        classify: impl Fn(&FailedCall<'_>) -> Option<FetchError> + Send + Sync + 'static,
    ) -> Self {
        self.classify = Some(Arc::new(classify));
        self
    }

    /// One call for a token.
    pub(in crate::source) async fn ask(
        &self,
        cx: &FetchContext,
        mut request: Request<Content>,
        reading: &Reading,
        grant: Grant,
    ) -> Result<Token, FetchError> {
        cx.mark(&mut request);
        match self.call(request, grant.may_be_spent()).await {
            Ok(answer) => {
                reading.token(grant, &answer).map_err(|failure| self.reclassified(failure, Some(&answer)))
            }
            Err(failure) => Err(self.reclassified(failure, None)),
        }
    }

    /// One call, within the limits. `spends`: without an answer, what it presents may be gone.
    pub(in crate::source) async fn call(
        &self,
        mut request: Request<Content>,
        spends: bool,
    ) -> Result<Answer, FetchError> {
        self.check(request.uri())?;
        reentry::mark(request.extensions_mut());
        let progress = request.body().progress();
        let most = self.timeout.unwrap_or(BRIEFLY);
        let brief = limit(most).map_err(|error| FetchError::from(error).not_processed())?;
        let late = pin!(async {
            brief.await;
            if spends && self.timeout.is_none() && !progress.is_unread() {
                if let Ok(rest) = limit(FOR_WHAT_MAY_BE_SPENT - BRIEFLY) {
                    rest.await;
                }
            }
        });
        let outcome = select((self.send)(request, self.response_limit, most / 2), late).await;
        // An attempt that lies in a queue is not sent any more, whatever has come of another.
        let step = progress.end();
        let is_repeated = progress.is_repeated();
        let cause = match outcome {
            Either::Left((Ok(answer), _)) => return Ok(Answer { is_repeated, ..answer }),
            Either::Left((Err(cause), _)) => cause,
            Either::Right(_) => OwnWords("the authority did not answer in time").into(),
        };
        // The grant is in the body. Whoever has taken it for a body of their own may not have been connected; what is polled
        // is sent, by whatever name the system calls the end of that connection.
        let was_not_sent = match step {
            UNREAD => true,
            TAKEN => !is_repeated && was_refused_a_connection(&*cause),
            _ => false,
        };
        Err(if was_not_sent {
            FetchError::transient(cause).not_processed()
        } else if spends {
            FetchError::unanswered(cause)
        } else {
            FetchError::transient(cause)
        })
    }

    /// Refuses a URL that cannot be asked, or must not be.
    fn check(&self, url: &Uri) -> Result<(), FetchError> {
        let unfit = if url.scheme().is_none() && url.authority().is_some() {
            // One with neither is for a client that knows where to go by itself.
            "the URL of the authority has a host and no scheme: write `https://` before it"
        } else if !self.may_go_in_the_clear && is_in_the_clear(url) {
            "credentials go by plain http to this machine only: write `https://`, or use \
             `AuthorityClient::danger_plain_http`"
        } else {
            return Ok(());
        };
        Err(FetchError::configuration(OwnWords(unfit)).not_processed())
    }

    /// What the user says of a failure, or else that.
    pub(in crate::source) fn reclassified(&self, failure: FetchError, answer: Option<&Answer>) -> FetchError {
        let failed = FailedCall { cause: failure.cause(), answer };
        match self.classify.as_ref().and_then(|classify| classify(&failed)) {
            Some(meaning) => failure.reclassified_as(meaning),
            None => failure,
        }
    }
}

impl<S, B> From<S> for AuthorityClient
where
    S: Service<Request<Content>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn from(service: S) -> Self {
        AuthorityClient::new(service)
    }
}

impl fmt::Debug for AuthorityClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityClient")
            .field("timeout", &self.timeout)
            .field("response_limit", &self.response_limit)
            .finish_non_exhaustive()
    }
}

/// A request with this body.
pub(in crate::source) fn post(
    uri: &Uri,
    content_type: &'static str,
    body: Zeroizing<Vec<u8>>,
) -> Request<Content> {
    let mut request = request(uri.clone(), body);
    *request.method_mut() = Method::POST;
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    request
}

/// A request with these pairs in its query, behind those that the URL has (RFC 6749 §3.2). An authority that reads one has
/// nothing to spend: it may be repeated.
pub(in crate::source) fn get<'a>(
    uri: &Uri,
    pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> Result<Request<Content>, FetchError> {
    let unfit = |_| {
        let why = "the URL of the authority has a host and no scheme, or is too long with the parameters";
        FetchError::configuration(OwnWords(why)).not_processed()
    };
    let uri = query::with(uri, &form::encode(pairs)).map_err(unfit)?;
    Ok(request(uri, Zeroizing::default()))
}

/// What is asked for: JSON, as it is. Without a word of it any coding would be acceptable (RFC 9110 §12.5.3), and an
/// answer that cannot be read has spent what was presented.
///
/// A layer of another session in the client keeps nothing of what it can make once more. Else it would read the body in
/// its `call`, which counts as sending it, before there is a connection or a token of that session's.
fn request(uri: Uri, body: Zeroizing<Vec<u8>>) -> Request<Content> {
    let content = Content::new(body);
    let mut request = Request::new(content.handle());
    *request.uri_mut() = uri;
    request.extensions_mut().insert(Rebuild::new(move || content.again()));
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static(json::MEDIA_TYPE));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    request
}

async fn send<S, B>(
    mut service: S,
    request: Request<Content>,
    limit: usize,
    patience: Duration,
) -> Result<Answer, BoxError>
where
    S: Service<Request<Content>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
    let response = service.call(request).await.map_err(Into::into)?;
    Answer::read(response, limit, patience).await
}

/// Whether no connection came about. Other errors of connecting are told of connections that broke, too: Linux says
/// `EHOSTUNREACH` where an established one timed out while there was no route.
fn was_refused_a_connection(error: &(dyn StdError + 'static)) -> bool {
    let error = causes(error).find_map(|link| link.downcast_ref::<io::Error>());
    error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
