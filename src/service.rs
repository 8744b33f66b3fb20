use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{
    body::{Rebuild, ReplayBody},
    error::BoxError,
    event::Event,
    extension::{NoToken, SkipRefresh},
    future::{Call, ResponseFuture},
    policy::Policy,
    reentry,
    session::{Session, at_hand},
};

/// The service made by [`TokenRefreshLayer`](crate::TokenRefreshLayer).
///
/// `S` is any client service that takes requests with a [`ReplayBody`] and can be cloned; its clones must be able to
/// work side by side, as tower's and hyper's are.
#[derive(Clone)]
pub struct TokenRefresh<S> {
    inner: S,
    policy: Arc<Policy>,
}

impl<S> TokenRefresh<S> {
    pub(crate) fn new(inner: S, policy: Arc<Policy>) -> Self {
        TokenRefresh { inner, policy }
    }
}

impl<S: Clone> TokenRefresh<S> {
    /// Nothing is sent, or not for a while: the service that was polled ready drops its permit. Whoever keeps this
    /// handle (a `Buffer`'s worker, say) would else keep the permit too, until the next request.
    fn give_readiness_back(&mut self) {
        self.inner = self.inner.clone();
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
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture<S, B> {
        let policy = &self.policy;
        let session = request.extensions().get::<Session>().unwrap_or(&policy.session);
        let engine = session.engine().clone();
        let wants_no_token =
            request.extensions().get::<NoToken>().is_some() || engine.placement().is_set(&request);
        if wants_no_token || !policy.covers(&request) {
            if !wants_no_token && policy.names_no_origin(&request) {
                engine.announce(&Event::Unscoped);
            }
            return ResponseFuture::pass(self.inner.call(request.map(ReplayBody::passing)));
        }
        if engine.mark().is_around_us() || engine.mark().is_on(request.extensions()) {
            self.give_readiness_back();
            return ResponseFuture::fail(reentry::error());
        }
        let (head, body) = request.into_parts();
        let (body, replay) = if head.extensions.get::<SkipRefresh>().is_some() {
            (ReplayBody::passing(body), None)
        } else {
            let rebuild = head.extensions.get::<Rebuild<B>>().cloned();
            let (body, replay) = ReplayBody::recording(body, policy.replay_limit, rebuild);
            (body, Some(replay))
        };
        let present = at_hand(&engine);
        let mut call = Call::new(policy.clone(), engine, head, body, replay, self.inner.clone());
        match present {
            Some(token) => match call.request(token) {
                Ok(request) => ResponseFuture::send(self.inner.call(request), call),
                Err(error) => {
                    self.give_readiness_back();
                    ResponseFuture::fail(error)
                }
            },
            None => {
                self.give_readiness_back();
                ResponseFuture::wait(call)
            }
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for TokenRefresh<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRefresh").field("inner", &self.inner).finish_non_exhaustive()
    }
}
