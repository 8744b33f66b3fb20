use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{
    body::{Rebuild, Replay, ReplayBody},
    error::BoxError,
    event::Event,
    extension::{NoToken, SkipRefresh},
    future::{Call, ResponseFuture},
    head::Kept,
    policy::{Common, Policy},
    reentry,
    session::{Session, at_hand},
};

/// The service made by [`TokenRefreshLayer`](crate::TokenRefreshLayer).
///
/// `S` is any client service that takes requests with a [`ReplayBody`] and can be cloned; its clones must be able to
/// work side by side, as tower's and hyper's are. A request that has waited for a token is sent by a new clone of the
/// service that the layer was given, so clones had better share their connections.
///
/// # Errors
///
/// An error of the wrapped service comes back boxed, and downcasts to its own type. An [`Error`](crate::Error) of ours means
/// that the server has not processed the request: either nothing was sent, or the request was refused and could not be sent
/// again although there was a new token, because the identity had changed, or the token could not be put on the request, or
/// it expired before the service was ready and the next refresh failed. A refresh that fails after a refusal is no error:
/// the refused response comes back, with a [`RefreshFailure`](crate::RefreshFailure) in its extensions.
#[derive(Clone)]
pub struct TokenRefresh<S> {
    inner: S,
    /// Whether `inner` is a placeholder: a clone of a ready service that may believe it is ready but holds no permit. Then
    /// it is replaced before it is polled.
    is_spent: bool,
    common: Arc<Common<S>>,
}

impl<S> TokenRefresh<S> {
    /// Sends a request that is none of our business.
    fn pass<B>(&mut self, request: Request<ReplayBody<B>>, replay: Replay<B>) -> ResponseFuture<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        ResponseFuture::pass(self.inner.call(request), replay)
    }
}

// Out of line, so that the way of all others stays short.
impl<S: Clone> TokenRefresh<S> {
    /// A request that is to go without a token.
    #[inline(never)]
    fn uncovered<B>(
        &mut self,
        mut head: Request<ReplayBody<B>>,
        body: B,
        own: Option<Session>,
        wants_no_token: bool,
    ) -> ResponseFuture<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
        B: Body<Error: Into<BoxError>> + 'static,
    {
        let policy = &self.common.policy;
        let engine = own.as_ref().unwrap_or(&policy.session).engine();
        if !wants_no_token && policy.names_no_origin(head.uri()) && !engine.placement().is_set(&head) {
            engine.announce(&Event::Unscoped);
        }
        let (body, replay) = ReplayBody::passing(body);
        *head.body_mut() = body;
        self.pass(head, replay)
    }

    /// No token is at hand, or the caller has set the credential.
    #[inline(never)]
    fn unattached<B>(
        &mut self,
        head: Request<ReplayBody<B>>,
        own: Option<Session>,
        mut replay: Replay<B>,
        is_watched: bool,
    ) -> ResponseFuture<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        let engine = own.as_ref().unwrap_or(&self.common.policy.session).engine();
        if engine.placement().is_set(&head) {
            replay.forget();
            return self.pass(head, replay);
        }
        let call = Call::new(self.common.clone(), own, Kept::default(), replay);
        self.give_readiness_back();
        ResponseFuture::wait(head, call, is_watched)
    }
}

impl<S: Clone> TokenRefresh<S> {
    pub(crate) fn new(inner: S, policy: Policy) -> Self {
        TokenRefresh { common: Arc::new(Common::new(policy, inner.clone())), is_spent: false, inner }
    }

    /// Nothing is sent, or not for a while: the service that was polled ready drops its permit. Whoever keeps this
    /// handle (a `Buffer`'s worker, say) would else keep the permit too, until the next request.
    fn give_readiness_back(&mut self) {
        // There are services whose clones take themselves for ready if they were cloned from a ready one: tower's `Steer`.
        // Such a clone only keeps the place, until the template is back.
        let fresh = self.common.service();
        self.is_spent = fresh.is_none();
        self.inner = fresh.unwrap_or_else(|| self.inner.clone());
    }

    #[cold]
    fn poll_renew(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner = ready!(self.common.poll_service(cx));
        self.is_spent = false;
        Poll::Ready(())
    }
}

impl<S, B, R> Service<Request<B>> for TokenRefresh<S>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data: Buf, Error: Into<BoxError>> + 'static,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = ResponseFuture<S, B>;

    /// Ready when the wrapped service is. Waiting for a token happens in the response future.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.is_spent {
            ready!(self.poll_renew(cx));
        }
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture<S, B> {
        let policy = &self.common.policy;
        // The head, which is large, is moved here, before anybody holds a reference to it: otherwise the compiler would
        // copy it once more. It gets an empty body for now.
        let (head, body) = request.into_parts();
        let mut head = Request::from_parts(head, ReplayBody::default());
        let own = head.extensions().get::<Session>().cloned();
        let engine = own.as_ref().unwrap_or(&policy.session).engine();
        let wants_no_token = head.extensions().get::<NoToken>().is_some();
        if wants_no_token || !policy.covers(head.uri()) {
            return self.uncovered(head, body, own, wants_no_token);
        }
        let is_reentrant = engine.mark().is_around_us() || engine.mark().is_on(head.extensions());
        if is_reentrant && !engine.placement().is_set(&head) {
            self.give_readiness_back();
            return ResponseFuture::fail(reentry::error());
        }
        let is_watched = head.extensions().get::<SkipRefresh>().is_none();
        let (body, replay) = if is_watched {
            let rebuild = head.extensions().get::<Rebuild<B>>().cloned();
            ReplayBody::recording(body, policy.replay_limit, rebuild)
        } else {
            ReplayBody::passing(body)
        };
        // The empty body owns nothing: forgetting it leaks nothing and saves its drop.
        mem::forget(mem::replace(head.body_mut(), body));
        let mut kept = Kept::default();
        let attached = at_hand(engine, |token| {
            if is_watched {
                kept = policy.keep(&head, &replay);
            }
            match token.credential().attach(&mut head) {
                Ok(true) => Some(Ok(token.stamp())),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            }
        });
        match attached {
            Some(Ok(_)) if !is_watched => self.pass(head, replay),
            Some(Ok(token)) => {
                let future = self.inner.call(head);
                ResponseFuture::send(future, Call::new(self.common.clone(), own, kept, replay), token)
            }
            Some(Err(error)) => {
                self.give_readiness_back();
                ResponseFuture::fail(error)
            }
            None => self.unattached(head, own, replay, is_watched),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for TokenRefresh<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRefresh").field("inner", &self.inner).finish_non_exhaustive()
    }
}
