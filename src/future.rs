//! The way of one request: at most two attempts, and a wait before either of them.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    body::{Replay, ReplayBody},
    classify::Verdict,
    error::{BoxError, Error},
    extension::{NotResent, Outcome, RefreshFailure},
    generation::Stamp,
    head::Head,
    policy::{Common, Held},
    session::{Acquire, Ask, Denied, Engine, Issued, Session},
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
        Pass { #[pin] future: S::Future, replay: Replay<B> },
        // At its end, maybe with an error that nobody has been told yet.
        Over { error: Option<Error> },
        Guarded { #[pin] state: State<S, S::Future>, call: Call<S, B> },
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F> {
        // For a token: before the first attempt, or after a refusal.
        Wait,
        // For the service to send with, having waited for this token: in a box, because nearly every request is sent
        // without coming by here, and none while another thread is making one.
        Ready { token: Arc<Issued>, service: Option<Box<S>> },
        // For the answer.
        Send { #[pin] future: F },
        // For the refresh to be asked for, by a request that is not sent again.
        Tell { reason: NotResent },
    }
}

/// What is known of a request besides where it stands. Every request makes one and moves it a few times, so it is
/// small: what few need is in the [`Detour`].
pub(crate) struct Call<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    common: Arc<Common<S>>,
    /// The request's own, in the place of the layer's.
    session: Option<Session>,
    /// Kept when the first attempt is sent, unless nobody will ask for it.
    head: Option<Box<Head>>,
    replay: Replay<B>,
    /// Not when a refusal is returned at once.
    is_watched: bool,
    attempts: u8,
    /// The token of the latest attempt.
    sent: Option<Stamp>,
    detour: Option<Box<Detour<B, S::Response>>>,
}

/// What a request needs that waits for a token.
struct Detour<B, A> {
    acquire: Acquire,
    /// What the next attempt sends, while it is not on its way.
    unsent: Option<(Request<()>, ReplayBody<B>)>,
    refused: Option<A>,
    held: Option<Held>,
    /// The token whose refusal here has started a refresh. The resend tells what that refresh was good for.
    judged: Option<Arc<Issued>>,
    has_waited_again: bool,
}

impl<B, A> Detour<B, A> {
    fn new(acquire: Acquire) -> Self {
        Detour { acquire, unsent: None, refused: None, held: None, judged: None, has_waited_again: false }
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    /// A request that is none of our business, but for its body's end.
    pub(crate) fn pass(future: S::Future, replay: Replay<B>) -> Self {
        ResponseFuture { way: Way::Pass { future, replay } }
    }

    pub(crate) fn fail(error: Error) -> Self {
        ResponseFuture { way: Way::Over { error: Some(error) } }
    }

    /// A request that was sent with this token.
    pub(crate) fn send(future: S::Future, mut call: Call<S, B>, token: Stamp) -> Self {
        call.attempts = 1;
        call.sent = Some(token);
        ResponseFuture { way: Way::Guarded { state: State::Send { future }, call } }
    }

    /// A request that waits for a token.
    pub(crate) fn wait(head: Request<()>, body: ReplayBody<B>, mut call: Call<S, B>) -> Self {
        let mut detour = Detour::new(call.acquire(Verdict::Accept));
        detour.unsent = Some((head, body));
        call.detour = Some(Box::new(detour));
        ResponseFuture { way: Way::Guarded { state: State::Wait, call } }
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
        let mut way = self.project().way;
        let result = match way.as_mut().project() {
            WayProj::Pass { future, replay } => {
                let result = ready!(future.poll(cx));
                if result.is_ok() {
                    replay.release();
                }
                result.map_err(Into::into)
            }
            WayProj::Over { error } => {
                return Poll::Ready(Err(error.take().map_or_else(polled_again, Into::into)));
            }
            WayProj::Guarded { mut state, call } => loop {
                let step = match state.as_mut().project() {
                    StateProj::Wait => ready!(call.poll_wait(cx)),
                    StateProj::Ready { token, service } => ready!(call.poll_ready(token, service, cx)),
                    StateProj::Send { future } => match ready!(future.poll(cx)) {
                        Ok(response) => match call.verdict(&response) {
                            None => {
                                // As below, but on the way of nearly every request, which is spared a move.
                                way.set(Way::Over { error: None });
                                return Poll::Ready(Ok(response));
                            }
                            Some(verdict) => call.answered(response, verdict),
                        },
                        Err(error) => break Err(error.into()),
                    },
                    StateProj::Tell { reason } => ready!(call.poll_tell(*reason, cx)),
                };
                match step {
                    Step::Go(next) => state.set(next),
                    Step::End(result) => break result,
                }
            },
        };
        // Its end, not its drop, ends the body of whatever attempt is under way, forgets what was kept and makes room for
        // another waiter: a combinator may keep what has ended.
        way.set(Way::Over { error: None });
        Poll::Ready(result)
    }
}

/// What a state leads to.
enum Step<S, F, R> {
    Go(State<S, F>),
    End(Result<Response<R>, BoxError>),
}

impl<S, B> Call<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    pub(crate) fn new(
        common: Arc<Common<S>>,
        session: Option<Session>,
        head: Option<Box<Head>>,
        replay: Replay<B>,
        is_watched: bool,
    ) -> Self {
        Call { common, session, head, replay, is_watched, attempts: 0, sent: None, detour: None }
    }

    fn engine(&self) -> &Arc<Engine> {
        self.session.as_ref().unwrap_or(&self.common.policy.session).engine()
    }

    /// What to ask for: a token to begin with, or a better one than that of the refused attempt.
    fn acquire(&self, verdict: Verdict) -> Acquire {
        let engine = self.engine();
        let ask = match self.sent {
            Some(stamp) => Ask::Refuse { stamp, verdict },
            None => engine.first_ask(),
        };
        Acquire::new(engine.clone(), ask)
    }
}

impl<S, B, R> Call<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data: Buf, Error: Into<BoxError>> + 'static,
{
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Step<S, S::Future, R>> {
        let Some(detour) = &mut self.detour else { return Poll::Ready(Step::End(Err(polled_again()))) };
        let token = ready!(Pin::new(&mut detour.acquire).poll(cx));
        detour.judged = detour.acquire.refused().cloned().or(detour.judged.take());
        Poll::Ready(match token {
            Ok(token) => self.go_on(token),
            Err(denied) => Step::End(self.denied(denied)),
        })
    }

    /// On to the next attempt. What is left of the one before goes first: the service may be waiting for what its response
    /// or its upload holds until it says that it is ready.
    fn go_on(&mut self, token: Arc<Issued>) -> Step<S, S::Future, R> {
        if let Some(detour) = &mut self.detour {
            detour.refused = None;
            detour.held = None;
            if detour.unsent.is_none() {
                detour.unsent = self.head.as_ref().map(|head| (head.request(), self.replay.take_over()));
            }
        }
        Step::Go(State::Ready { token, service: None })
    }

    fn poll_ready(
        &mut self,
        token: &Issued,
        service: &mut Option<Box<S>>,
        cx: &mut Context<'_>,
    ) -> Poll<Step<S, S::Future, R>> {
        let service = match service {
            Some(service) => service,
            None => match self.common.service() {
                Some(made) => service.insert(Box::new(made)),
                None => {
                    // The other thread is at it this moment.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            },
        };
        if let Err(error) = ready!(service.poll_ready(cx)) {
            return Poll::Ready(Step::End(Err(error.into())));
        }
        let Some(token) = self.look_again(token) else {
            let acquire = self.acquire(Verdict::Suspect);
            if let Some(detour) = &mut self.detour {
                detour.has_waited_again = true;
                detour.acquire = acquire;
            }
            return Poll::Ready(Step::Go(State::Wait));
        };
        Poll::Ready(match self.request(&token) {
            Ok(request) => Step::Go(State::Send { future: service.call(request) }),
            Err(error) => Step::End(Err(error)),
        })
    }

    fn poll_tell(&mut self, reason: NotResent, cx: &mut Context<'_>) -> Poll<Step<S, S::Future, R>> {
        let Some(detour) = &mut self.detour else { return Poll::Ready(Step::End(Err(polled_again()))) };
        let told = match ready!(detour.acquire.poll_step(cx)) {
            // There is nothing to wait for, and so no need of a place.
            Ok(Some(token)) if reason == NotResent::TooManyWaiting => {
                return Poll::Ready(self.go_on(token));
            }
            told => told,
        };
        let Some(mut response) = detour.refused.take() else {
            return Poll::Ready(Step::End(Err(polled_again())));
        };
        if let Err(Denied::Failed(error)) = told {
            response.extensions_mut().insert(RefreshFailure(error));
        }
        Poll::Ready(Step::End(Ok(self.deliver(response, true, Some(reason)))))
    }

    /// The request of the next attempt, with this token.
    fn request(&mut self, token: &Issued) -> Result<Request<ReplayBody<B>>, BoxError> {
        let unsent = self.detour.as_mut().and_then(|detour| detour.unsent.take());
        let Some((mut head, body)) = unsent else { return Err(polled_again()) };
        if self.is_watched && self.sent.is_none() {
            self.head = self.common.policy.keep(&head, &self.replay);
        }
        token.credential().attach(&mut head)?;
        self.attempts += 1;
        self.sent = Some(token.stamp());
        Ok(head.map(|()| body))
    }

    /// The token to send with, now that the service is ready: the present one, unless the identity is another one
    /// now, or it was condemned or has expired meanwhile and this request has not waited again yet.
    fn look_again(&self, acquired: &Issued) -> Option<Arc<Issued>> {
        let token = self.engine().present()?;
        let has_waited_again = self.detour.as_ref().is_some_and(|detour| detour.has_waited_again);
        let is_same_identity = self.sent.is_none_or(|sent| sent.epoch == token.stamp().epoch);
        let is_fresh = token.stamp() == acquired.stamp() || !token.is_expired(self.engine().now());
        let is_good = has_waited_again || (is_fresh && !token.is_condemned());
        (is_same_identity && is_good).then_some(token)
    }

    /// Looks at the answer of an attempt. `None`: it is the caller's as it came, and the end.
    fn verdict(&mut self, response: &Response<R>) -> Option<Verdict> {
        if self.is_watched {
            let verdict = self.common.policy.verdict(self.head.as_deref(), self.attempts, response);
            if self.attempts > 1 || verdict != Verdict::Accept {
                return Some(verdict);
            }
        }
        self.release();
        None
    }

    /// An answer that there is something to say of.
    fn answered(&mut self, response: Response<R>, verdict: Verdict) -> Step<S, S::Future, R> {
        if self.attempts > 1 {
            if let Some(judged) = self.detour.as_ref().and_then(|detour| detour.judged.as_ref()) {
                judged.judge(verdict == Verdict::Accept);
            }
            return Step::End(Ok(self.deliver(response, verdict != Verdict::Accept, None)));
        }
        // Refused: on to a better token, and then to the second attempt if there may be one.
        let mut detour = Detour::new(self.acquire(verdict));
        detour.refused = Some(response);
        let next = match self.not_resent() {
            Some(reason) => State::Tell { reason },
            None => {
                detour.held = Held::one_more(&self.common.policy);
                match detour.held {
                    Some(_) => State::Wait,
                    None => State::Tell { reason: NotResent::TooManyWaiting },
                }
            }
        };
        self.detour = Some(Box::new(detour));
        Step::Go(next)
    }

    /// Why there is no second attempt. If there is one, the first one's upload waits from now on.
    fn not_resent(&self) -> Option<NotResent> {
        // The head of a request whose body is not kept is not whole: there is nothing to ask of it.
        if self.replay.is_kept()
            && self.head.as_ref().is_some_and(|head| !self.common.policy.allows_resend(head))
        {
            return Some(NotResent::Forbidden);
        }
        self.replay.pause().err().map(NotResent::Body)
    }

    /// There is no token to send with: the refused response stands, or, where nothing was sent, the error.
    fn denied(&mut self, denied: Denied) -> Result<Response<R>, BoxError> {
        let refused = self.detour.as_mut().and_then(|detour| detour.refused.take());
        let Some(mut response) = refused else { return Err(Error::from(denied).into()) };
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
        if let Some(Stamp { generation, .. }) = self.sent {
            let attempts = self.attempts;
            response.extensions_mut().insert(Outcome { generation, attempts, refused, not_resent });
        }
        response
    }

    /// The body's present attempt goes on by itself; nothing of the request is kept any more.
    fn release(&mut self) {
        self.replay.release();
        if let Some(head) = self.head.take() {
            head.put_back();
        }
        self.detour = None;
    }
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
