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
    head::{Head, Kept},
    policy::{Common, Held},
    session::{Acquire, Ask, Denied, Engine, Issued, Session, Target},
};

pin_project! {
    /// The response future of [`TokenRefresh`](crate::TokenRefresh).
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it has resolved drops what it was doing and ends the request's body; a refresh that it has
    /// started goes on for the others. Once it has resolved with a response, the body goes on by itself; with an error, it
    /// has ended.
    #[must_use = "futures do nothing unless they are polled"]
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        // The attempt under way: nearly every request waits for its answer, and for nothing else.
        #[pin]
        attempt: Option<S::Future>,
        // None at its end, so that whatever drops it then sees at once that there is nothing to drop.
        way: Option<Way<S, B>>,
    }
}

/// What becomes of the answer, or what to do where there is none to wait for.
// With a tag of its own, because each request reads it three times: one that is hidden in a field is dearer to read.
#[repr(usize)]
enum Way<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    Pass {
        replay: Replay<B>,
    },
    Guarded {
        call: Call<S, B>,
    },
    /// Nothing is sent.
    Failed {
        error: Error,
    },
}

/// What is known of a request besides its attempt. Every request makes one and moves it a few times, so it is
/// small: what few need is in the [`Detour`].
pub(crate) struct Call<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    common: Arc<Common<S>>,
    /// The request's own, in the place of the layer's.
    session: Rare<Session>,
    /// Kept when the first attempt is sent, unless nobody will ask for it.
    head: Kept,
    replay: Replay<B>,
    /// The token of the latest attempt.
    sent: Option<Stamp>,
    detour: Rare<Box<Detour<S, B>>>,
}

/// What a request needs that waits for a token.
struct Detour<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    /// While no attempt is under way.
    stage: Stage,
    /// What the next attempt is sent with, while it is not ready.
    service: Option<S>,
    /// Not when a refusal is returned at once.
    is_watched: bool,
    attempts: u8,
    acquire: Acquire,
    /// What the next attempt sends, while it is not on its way.
    unsent: Option<Request<ReplayBody<B>>>,
    refused: Option<S::Response>,
    held: Option<Held>,
    /// The token whose refusal here has started a refresh. The resend tells what that refresh was good for.
    judged: Option<Arc<Issued>>,
    has_waited_again: bool,
}

/// What few have. The code that drops it is kept out of the way of all others.
struct Rare<T>(Option<T>);

impl<T> Drop for Rare<T> {
    #[inline]
    fn drop(&mut self) {
        #[cold]
        #[inline(never)]
        fn out_of_line<T>(it: T) {
            drop(it);
        }
        if let Some(it) = self.0.take() {
            out_of_line(it);
        }
    }
}

/// What a request waits for while no attempt is under way.
#[derive(Clone, Copy)]
enum Stage {
    /// A token: before the first attempt, or after a refusal.
    Wait,
    /// The service to send with.
    Ready,
    /// The refresh to be asked for, or its end if the response is held, by a request that is not sent again.
    Tell { reason: NotResent },
}

impl<S, B> Detour<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn new(acquire: Acquire, attempts: u8) -> Self {
        Detour {
            stage: Stage::Wait,
            service: None,
            is_watched: true,
            attempts,
            acquire,
            unsent: None,
            refused: None,
            held: None,
            judged: None,
            has_waited_again: false,
        }
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    /// A request whose answer is none of our business, but for its body's end.
    pub(crate) fn pass(future: S::Future, replay: Replay<B>) -> Self {
        ResponseFuture { attempt: Some(future), way: Some(Way::Pass { replay }) }
    }

    pub(crate) fn fail(error: Error) -> Self {
        ResponseFuture { attempt: None, way: Some(Way::Failed { error }) }
    }

    /// A request that was sent with this token.
    #[inline]
    pub(crate) fn send(future: S::Future, mut call: Call<S, B>, token: Stamp) -> Self {
        call.sent = Some(token);
        ResponseFuture { attempt: Some(future), way: Some(Way::Guarded { call }) }
    }

    /// A request that waits for a token.
    pub(crate) fn wait(request: Request<ReplayBody<B>>, mut call: Call<S, B>, is_watched: bool) -> Self {
        let mut detour = Detour::new(call.acquire(Verdict::Accept), 0);
        detour.unsent = Some(request);
        detour.is_watched = is_watched;
        call.detour = Rare(Some(Box::new(detour)));
        ResponseFuture { attempt: None, way: Some(Way::Guarded { call }) }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data: Buf, Error: Into<BoxError>> + 'static,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.as_mut().project();
        let Some(future) = this.attempt.as_mut().as_pin_mut() else { return self.poll_on(Step::Stage, cx) };
        // Looked at where it lies: nearly every answer is the caller's as it came, and large to move.
        let answer = future.poll(cx);
        let verdict = match &answer {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(response)) => this.way.as_ref().and_then(|way| way.verdict(response)),
            Poll::Ready(Err(_)) => None,
        };
        // What has ended may hold a permit until it is dropped.
        this.attempt.set(None);
        let Some(verdict) = verdict else {
            *this.way = None;
            return answer.map_err(Into::into);
        };
        match ready!(answer) {
            Ok(response) => self.poll_on(Step::Weigh(response, verdict), cx),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl<S, B, R> ResponseFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data: Buf, Error: Into<BoxError>> + 'static,
{
    /// The way of those that do not end with their first answer. Out of line, so that the way of all others stays short.
    #[inline(never)]
    fn poll_on(
        mut self: Pin<&mut Self>,
        mut step: Step<S::Future, R>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<R>, BoxError>> {
        let mut this = self.as_mut().project();
        let result = loop {
            step = match (step, this.way.as_mut()) {
                (Step::Stage, Some(Way::Guarded { call })) => ready!(call.poll_stage(cx)),
                (Step::Stage, Some(Way::Failed { error })) => Step::End(Err(error.clone().into())),
                (Step::Stage, _) => Step::End(Err(polled_again())),
                (Step::Weigh(response, verdict), Some(Way::Guarded { call })) => {
                    call.answered(response, verdict)
                }
                (Step::Weigh(response, _), _) => Step::End(Ok(response)),
                (Step::Send(future), _) => {
                    this.attempt.set(Some(future));
                    return self.poll(cx);
                }
                (Step::End(result), _) => break result,
            };
        };
        // Its end, not its drop, ends the body of whatever attempt was under way, forgets what was kept and makes room for
        // another waiter: a combinator may keep what has ended.
        *this.way = None;
        Poll::Ready(result)
    }
}

/// What a request goes on to.
enum Step<F, R> {
    /// On to the stage of its detour.
    Stage,
    /// An answer that there is something to say of.
    Weigh(Response<R>, Verdict),
    Send(F),
    End(Result<Response<R>, BoxError>),
}

impl<S, B, R> Way<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data: Buf, Error: Into<BoxError>> + 'static,
{
    /// Looks at an answer. `None`: it is the caller's as it came, and the end.
    #[inline]
    fn verdict(&self, response: &Response<R>) -> Option<Verdict> {
        match self {
            Way::Guarded { call } => call.verdict(response),
            Way::Pass { replay } => {
                replay.release();
                None
            }
            Way::Failed { .. } => None,
        }
    }
}

impl<S, B> Call<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    #[inline]
    pub(crate) fn new(
        common: Arc<Common<S>>,
        session: Option<Session>,
        head: Kept,
        replay: Replay<B>,
    ) -> Self {
        Call { common, session: Rare(session), head, replay, sent: None, detour: Rare(None) }
    }

    fn engine(&self) -> &Arc<Engine> {
        self.session.0.as_ref().unwrap_or(&self.common.policy.session).engine()
    }

    /// What it is for, if so much of its head is kept.
    fn target(&self) -> Target {
        let line = self.head.get().and_then(Head::line);
        line.map(|line| Target::of(&line.method, &line.uri)).unwrap_or_default()
    }

    /// What to ask for: a token to begin with, or a better one than that of the refused attempt.
    fn acquire(&self, verdict: Verdict) -> Acquire {
        let engine = self.engine();
        let ask = match self.sent {
            Some(stamp) => Ask::Refuse { stamp, verdict, target: self.target() },
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
    fn poll_stage(&mut self, cx: &mut Context<'_>) -> Poll<Step<S::Future, R>> {
        let Some(mut detour) = self.detour.0.take() else {
            return Poll::Ready(Step::End(Err(polled_again())));
        };
        let step = match detour.stage {
            Stage::Wait => self.poll_wait(&mut detour, cx),
            Stage::Ready => self.poll_ready(&mut detour, cx),
            Stage::Tell { reason } => self.poll_tell(&mut detour, reason, cx),
        };
        self.detour.0 = Some(detour);
        step
    }

    fn poll_wait(&mut self, detour: &mut Detour<S, B>, cx: &mut Context<'_>) -> Poll<Step<S::Future, R>> {
        let token = ready!(Pin::new(&mut detour.acquire).poll(cx));
        detour.judged = detour.acquire.refused().cloned().or(detour.judged.take());
        Poll::Ready(match token {
            Ok(_) => self.go_on(detour),
            Err(denied) => Step::End(self.denied(detour, denied)),
        })
    }

    /// On to the next attempt. What is left of the one before goes first: the service may be waiting for what its response
    /// or its upload holds until it says that it is ready.
    fn go_on(&mut self, detour: &mut Detour<S, B>) -> Step<S::Future, R> {
        detour.refused = None;
        detour.held = None;
        if detour.unsent.is_none() {
            let head = self.head.get().map(Head::request);
            detour.unsent = head.map(|head| head.map(|()| self.replay.take_over()));
        }
        detour.stage = Stage::Ready;
        Step::Stage
    }

    fn poll_ready(&mut self, detour: &mut Detour<S, B>, cx: &mut Context<'_>) -> Poll<Step<S::Future, R>> {
        // It was made at an earlier poll, and time has passed since the token was found.
        let has_waited = detour.service.is_some();
        let mut service = match detour.service.take() {
            Some(service) => service,
            None => ready!(self.common.poll_service(cx)),
        };
        match service.poll_ready(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Step::End(Err(error.into()))),
            Poll::Pending => {
                detour.service = Some(service);
                return Poll::Pending;
            }
        }
        let Some(token) = self.look_again(detour, has_waited) else {
            detour.has_waited_again = true;
            detour.acquire = self.acquire(Verdict::Suspect);
            detour.stage = Stage::Wait;
            return Poll::Ready(Step::Stage);
        };
        Poll::Ready(match self.request(detour, &token) {
            Ok(request) => Step::Send(service.call(request)),
            Err(error) => Step::End(Err(error)),
        })
    }

    fn poll_tell(
        &mut self,
        detour: &mut Detour<S, B>,
        reason: NotResent,
        cx: &mut Context<'_>,
    ) -> Poll<Step<S::Future, R>> {
        let asked = match &detour.held {
            Some(_) => Pin::new(&mut detour.acquire).poll(cx).map_ok(Some),
            None => Poll::Ready(detour.acquire.step()),
        };
        let told = match ready!(asked) {
            // There is nothing to wait for, and so no need of a place.
            Ok(Some(_)) if reason == NotResent::TooManyWaiting => return Poll::Ready(self.go_on(detour)),
            told => told,
        };
        let Some(mut response) = detour.refused.take() else {
            return Poll::Ready(Step::End(Err(polled_again())));
        };
        let failure = match told {
            Err(Denied::Failed(error)) => Some(error),
            Err(Denied::Damped) => None,
            Ok(_) => detour.acquire.over(),
        };
        if let Some(error) = failure {
            response.extensions_mut().insert(RefreshFailure(error));
        }
        Poll::Ready(Step::End(Ok(self.deliver(response, detour.attempts, true, Some(reason)))))
    }

    /// The request of the next attempt, with this token.
    fn request(
        &mut self,
        detour: &mut Detour<S, B>,
        token: &Issued,
    ) -> Result<Request<ReplayBody<B>>, BoxError> {
        let Some(mut request) = detour.unsent.take() else { return Err(polled_again()) };
        if detour.is_watched && self.sent.is_none() {
            self.head = self.common.policy.keep(&request, &self.replay);
        }
        token.credential().attach(&mut request)?;
        detour.attempts += 1;
        self.sent = Some(token.stamp());
        Ok(request)
    }

    /// The token to send with, now that the service is ready: the current one, unless the identity is another one now, or
    /// has only promised one, or it was condemned or has expired meanwhile and this request has not waited again yet.
    fn look_again(&self, detour: &Detour<S, B>, has_waited: bool) -> Option<Arc<Issued>> {
        let token = self.engine().current()?;
        let is_same_identity = self.sent.is_none_or(|sent| sent.epoch == token.stamp().epoch);
        let has_expired = || has_waited && token.is_expired(self.engine().now());
        let is_good = detour.has_waited_again || !(token.is_condemned() || has_expired());
        (is_same_identity && is_good && !token.came_too_late()).then_some(token)
    }

    /// Looks at the answer of an attempt. `None`: it is the caller's as it came, and the end.
    fn verdict(&self, response: &Response<R>) -> Option<Verdict> {
        match &self.detour.0 {
            None => {
                let verdict = self.common.policy.verdict(self.head.get(), 1, response);
                if verdict != Verdict::Accept {
                    return Some(verdict);
                }
            }
            Some(detour) if detour.is_watched => return self.verdict_after_wait(detour, response),
            Some(_) => {}
        }
        self.replay.release();
        None
    }

    /// The same for a request that has waited. Out of line, so that the way of all others stays short.
    #[inline(never)]
    fn verdict_after_wait(&self, detour: &Detour<S, B>, response: &Response<R>) -> Option<Verdict> {
        let verdict = self.common.policy.verdict(self.head.get(), detour.attempts, response);
        if detour.attempts > 1 || verdict != Verdict::Accept {
            return Some(verdict);
        }
        self.replay.release();
        None
    }

    /// An answer that there is something to say of.
    fn answered(&mut self, response: Response<R>, verdict: Verdict) -> Step<S::Future, R> {
        if let Some(detour) = self.detour.0.as_ref().filter(|detour| detour.attempts > 1) {
            if let Some(judged) = &detour.judged {
                judged.judge(self.target(), verdict);
            }
            let refused = verdict != Verdict::Accept;
            return Step::End(Ok(self.deliver(response, detour.attempts, refused, None)));
        }
        // Refused: on to a better token, and then to the second attempt if there may be one.
        let mut detour = Detour::new(self.acquire(verdict), 1);
        detour.refused = Some(response);
        let mut reason = self.not_resent();
        // A suspicion keeps nobody from the token: whoever tries again by himself would be refused with it again. But
        // where places are few they are for those that are sent again.
        let policy = &self.common.policy;
        if reason.is_none() || (verdict == Verdict::Suspect && policy.max_held.is_none()) {
            detour.held = Held::one_more(policy);
            reason = reason.or(detour.held.is_none().then_some(NotResent::TooManyWaiting));
        }
        if let Some(reason) = reason {
            detour.stage = Stage::Tell { reason };
        }
        self.detour = Rare(Some(Box::new(detour)));
        Step::Stage
    }

    /// Why there is no second attempt. If there is one, the first one's upload waits from now on.
    fn not_resent(&self) -> Option<NotResent> {
        // The head of a request whose body is not kept is not whole: there is nothing to ask of it.
        if self.replay.is_kept()
            && self.head.get().is_some_and(|head| !self.common.policy.allows_resend(head))
        {
            return Some(NotResent::Forbidden);
        }
        self.replay.pause().err().map(NotResent::Body)
    }

    /// There is no token to send with: the refused response stands, or, where nothing was sent, the error.
    fn denied(&self, detour: &mut Detour<S, B>, denied: Denied) -> Result<Response<R>, BoxError> {
        let Some(mut response) = detour.refused.take() else { return Err(Error::from(denied).into()) };
        let reason = match denied {
            Denied::Damped => NotResent::Damped,
            Denied::Failed(error) => {
                response.extensions_mut().insert(RefreshFailure(error));
                NotResent::RefreshFailed
            }
        };
        Ok(self.deliver(response, detour.attempts, true, Some(reason)))
    }

    /// The response as it came, with what happened beside it.
    fn deliver(
        &self,
        mut response: Response<R>,
        attempts: u8,
        refused: bool,
        not_resent: Option<NotResent>,
    ) -> Response<R> {
        self.replay.release();
        if let Some(Stamp { generation, .. }) = self.sent {
            response.extensions_mut().insert(Outcome { generation, attempts, refused, not_resent });
        }
        response
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
