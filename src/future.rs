//! The way of one request: at most two attempts, and a wait before either of them.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    body::{Replay, ReplayBody},
    classify::{Answer, Verdict},
    error::{BoxError, Error},
    extension::{NotResent, Outcome, RefreshFailure},
    policy::{Held, Policy},
    session::{Acquire, Ask, Denied, Engine, Issued},
};

pin_project! {
    /// The response future of [`TokenRefresh`](crate::TokenRefresh).
    ///
    /// # Cancel safety
    ///
    /// Dropping it in any state drops what it was doing and ends the request's body; a refresh that it has started
    /// goes on for the others.
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        #[pin]
        way: Way<S, B>,
    }
}

pin_project! {
    #[project = WayProj]
    enum Way<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        Pass { #[pin] future: S::Future },
        Fail { error: Option<Error> },
        Guarded { #[pin] state: State<S::Future>, call: Call<S, B> },
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        // For a token: before the first attempt, or after a refusal.
        Wait { acquire: Acquire },
        // For the service to send with, having waited for this token.
        Ready { token: Arc<Issued> },
        // For the answer.
        Send { #[pin] future: F },
        // For the refresh to be asked for, by a request that is not sent again.
        Tell { acquire: Acquire, reason: NotResent },
        Over,
    }
}

/// What is known of a request besides where it stands.
pub(crate) struct Call<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    policy: Arc<Policy>,
    engine: Arc<Engine>,
    /// As the caller wrote it, so that each attempt gets the credential of its own moment.
    head: Parts,
    body: Option<ReplayBody<B>>,
    /// `None` when a refusal is returned at once.
    replay: Option<Replay<B>>,
    /// Never holds readiness while waiting.
    spare: S,
    attempts: u8,
    /// The token of the latest attempt.
    sent: Option<Arc<Issued>>,
    refused: Option<S::Response>,
    held: Option<Held>,
    /// This request's refusal started the refresh, and its resend judges it.
    judges: bool,
    has_waited_again: bool,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    pub(crate) fn pass(future: S::Future) -> Self {
        ResponseFuture { way: Way::Pass { future } }
    }

    pub(crate) fn fail(error: Error) -> Self {
        ResponseFuture { way: Way::Fail { error: Some(error) } }
    }

    pub(crate) fn send(future: S::Future, call: Call<S, B>) -> Self {
        ResponseFuture { way: Way::Guarded { state: State::Send { future }, call } }
    }

    pub(crate) fn wait(call: Call<S, B>) -> Self {
        let acquire = Acquire::new(call.engine.clone(), call.engine.first_ask());
        ResponseFuture { way: Way::Guarded { state: State::Wait { acquire }, call } }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data: Buf, Error: Into<BoxError>> + 'static,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().way.project() {
            WayProj::Pass { future } => future.poll(cx).map_err(Into::into),
            WayProj::Fail { error } => Poll::Ready(Err(error.take().map_or_else(polled_again, Into::into))),
            WayProj::Guarded { mut state, call } => {
                let result = ready!(call.poll(state.as_mut(), cx));
                state.set(State::Over);
                // Its end, not its drop, makes room for another waiter: a combinator may keep what has ended.
                call.held = None;
                if result.is_err() {
                    // Ends the body of whatever attempt is still under way.
                    call.replay = None;
                }
                Poll::Ready(result)
            }
        }
    }
}

impl<S, B, R> Call<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data: Buf, Error: Into<BoxError>> + 'static,
{
    pub(crate) fn new(
        policy: Arc<Policy>,
        engine: Arc<Engine>,
        head: Parts,
        body: ReplayBody<B>,
        replay: Option<Replay<B>>,
        spare: S,
    ) -> Self {
        Call {
            policy,
            engine,
            head,
            body: Some(body),
            replay,
            spare,
            attempts: 0,
            sent: None,
            refused: None,
            held: None,
            judges: false,
            has_waited_again: false,
        }
    }

    /// The request of the next attempt, with this token.
    pub(crate) fn request(&mut self, token: Arc<Issued>) -> Result<Request<ReplayBody<B>>, Error> {
        self.attempts += 1;
        let body = self.body.take().or_else(|| self.replay.as_mut().map(Replay::take_over));
        let mut request = Request::from_parts(self.head.clone(), body.unwrap_or_default());
        token.credential().attach(&mut request)?;
        self.sent = Some(token);
        Ok(request)
    }

    fn poll(
        &mut self,
        mut state: Pin<&mut State<S::Future>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<R>, BoxError>> {
        loop {
            let next = match state.as_mut().project() {
                StateProj::Wait { acquire } => {
                    let token = ready!(Pin::new(&mut *acquire).poll(cx));
                    self.judges |= acquire.has_started_a_refresh();
                    match token {
                        Ok(token) => {
                            // Before the service is asked for readiness: the response may hold what that waits for.
                            self.refused = None;
                            self.held = None;
                            State::Ready { token }
                        }
                        Err(denied) => return Poll::Ready(self.denied(denied)),
                    }
                }
                StateProj::Ready { token } => {
                    ready!(self.spare.poll_ready(cx)).map_err(Into::into)?;
                    match self.look_again(token) {
                        Some(token) => match self.request(token) {
                            Ok(request) => State::Send { future: self.spare.call(request) },
                            Err(error) => {
                                // Nothing is sent: its permit goes back, however long this future is kept.
                                self.spare = self.spare.clone();
                                return Poll::Ready(Err(error.into()));
                            }
                        },
                        None => {
                            self.has_waited_again = true;
                            self.spare = self.spare.clone();
                            State::Wait { acquire: Acquire::new(self.engine.clone(), self.ask()) }
                        }
                    }
                }
                StateProj::Send { future } => {
                    let result = ready!(future.poll(cx));
                    // A permit that the future holds is free as soon as it is dropped.
                    state.set(State::Over);
                    match self.read(result.map_err(Into::into)?) {
                        Read::Return(response) => return Poll::Ready(Ok(response)),
                        Read::Go(state) => state,
                    }
                }
                StateProj::Tell { acquire, reason } => {
                    let _ = ready!(acquire.poll_step(cx));
                    if let (true, Some(sent)) = (acquire.has_started_a_refresh(), &self.sent) {
                        // No resend will judge what this refresh brings. It counts as fruitless, else an endpoint
                        // that always refuses would cost one fetch for each request that cannot be resent.
                        sent.judge(false);
                    }
                    let reason = *reason;
                    let response = self.refused.take().ok_or_else(polled_again)?;
                    return Poll::Ready(Ok(self.deliver(response, true, Some(reason))));
                }
                StateProj::Over => return Poll::Ready(Err(polled_again())),
            };
            state.set(next);
        }
    }

    /// What to ask for: a token to begin with, or a better one than that of the refused attempt.
    fn ask(&self) -> Ask {
        match &self.sent {
            Some(sent) => Ask::Refuse { stamp: sent.stamp(), verdict: Verdict::Suspect },
            None => self.engine.first_ask(),
        }
    }

    /// The token to send with, now that the service is ready: the present one, unless the identity is another one
    /// now, or it was condemned or has expired meanwhile and this request has not waited again yet.
    fn look_again(&self, acquired: &Issued) -> Option<Arc<Issued>> {
        let token = self.engine.present()?;
        let is_same_identity =
            self.sent.as_ref().is_none_or(|sent| sent.stamp().epoch == token.stamp().epoch);
        let is_fresh = token.stamp() == acquired.stamp() || !token.is_expired(self.engine.now());
        let is_good = self.has_waited_again || (is_fresh && !token.is_condemned());
        (is_same_identity && is_good).then_some(token)
    }

    /// Reads the answer of an attempt.
    fn read(&mut self, response: Response<R>) -> Read<S::Future, R> {
        let (Some(replay), Some(sent)) = (&self.replay, &self.sent) else { return Read::Return(response) };
        let answer = Answer::new(&self.head.method, &self.head.uri, self.attempts, &response);
        let verdict = self.policy.classifier.classify(&answer);
        if self.attempts > 1 {
            if self.judges {
                sent.judge(verdict == Verdict::Accept);
            }
            return Read::Return(self.deliver(response, verdict != Verdict::Accept, None));
        }
        if verdict == Verdict::Accept {
            self.release();
            return Read::Return(response);
        }
        let acquire = Acquire::new(self.engine.clone(), Ask::Refuse { stamp: sent.stamp(), verdict });
        let reason = if !self.policy.allows_resend(&self.head.method, &self.head.uri, &self.head.headers) {
            Some(NotResent::Forbidden)
        } else if let Err(reason) = replay.pause() {
            Some(NotResent::Body(reason))
        } else {
            self.held = Held::one_more(&self.policy);
            self.held.is_none().then_some(NotResent::TooManyWaiting)
        };
        self.refused = Some(response);
        Read::Go(match reason {
            Some(reason) => State::Tell { acquire, reason },
            None => State::Wait { acquire },
        })
    }

    /// There is no token to send with: the refused response stands, or, where nothing was sent, the error.
    fn denied(&mut self, denied: Denied) -> Result<Response<R>, BoxError> {
        let Some(mut response) = self.refused.take() else { return Err(Error::from(denied).into()) };
        let reason = match denied {
            Denied::Damped => NotResent::Damped,
            Denied::Failed(error) => {
                response.extensions_mut().insert(RefreshFailure(error));
                NotResent::RefreshFailed
            }
        };
        Ok(self.deliver(response, true, Some(reason)))
    }

    /// The response as it came, with what happened beside it.
    fn deliver(
        &mut self,
        mut response: Response<R>,
        refused: bool,
        not_resent: Option<NotResent>,
    ) -> Response<R> {
        self.release();
        if let Some(sent) = &self.sent {
            let generation = sent.stamp().generation;
            response.extensions_mut().insert(Outcome {
                generation,
                attempts: self.attempts,
                refused,
                not_resent,
            });
        }
        response
    }

    /// The body's present attempt goes on by itself; nothing of it is kept any more.
    fn release(&mut self) {
        if let Some(replay) = self.replay.take() {
            replay.release();
        }
    }
}

/// What the answer of an attempt leads to.
enum Read<F, R> {
    Return(Response<R>),
    Go(State<F>),
}

fn polled_again() -> BoxError {
    "the response future was polled after its end".into()
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
