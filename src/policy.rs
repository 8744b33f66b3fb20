//! What a layer was told, as its services and their response futures read it.

#[cfg(all(test, token_refresh_loom))]
mod models;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use http::{HeaderMap, Method, Request, Response, Uri};

use crate::{
    body::Replay,
    classify::{Answer, Classify, Verdict, standard},
    head::{Head, Kept, Line},
    scope::{Origin, Scope},
    session::Session,
    sync::atomic::{AtomicUsize, Ordering},
};

/// What all services of one layer share.
#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) session: Session,
    pub(crate) scope: Scope,
    /// `None` is the standard one, which does not look at the request, so that nothing is kept for it to look at.
    pub(crate) classifier: Option<Arc<dyn Classify>>,
    /// 0 keeps nothing.
    pub(crate) replay_limit: usize,
    pub(crate) resend: Option<Arc<ResendPredicate>>,
    pub(crate) assumed: Option<Origin>,
    /// `None`: no limit.
    pub(crate) max_held: Option<usize>,
    pub(crate) held: Arc<AtomicUsize>,
}

type ResendPredicate = dyn Fn(&Method, &Uri, &HeaderMap) -> bool + Send + Sync;

impl Policy {
    pub(crate) fn new(session: Session, scope: Scope) -> Self {
        Policy {
            session,
            scope,
            classifier: None,
            replay_limit: 64 * 1024,
            resend: None,
            assumed: None,
            max_held: None,
            held: Arc::default(),
        }
    }

    /// Whether the credential may be shown to where this request goes.
    // Always, because a call costs a third of the answer.
    #[inline(always)]
    pub(crate) fn covers(&self, uri: &Uri) -> bool {
        if self.assumed.is_some() { self.covers_assumed(uri) } else { self.scope.contains(uri) }
    }

    /// Out of line, so that the way of most layers stays short.
    #[inline(never)]
    fn covers_assumed(&self, uri: &Uri) -> bool {
        match &self.assumed {
            Some(origin) if uri.authority().is_none() => self.scope.contains_at(origin, uri),
            _ => self.scope.contains(uri),
        }
    }

    /// What is kept of a request's head: all of it for a second attempt, or what the classifier wants to see.
    #[inline]
    pub(crate) fn keep<A, B>(&self, head: &Request<A>, replay: &Replay<B>) -> Kept {
        let is_whole = replay.is_kept();
        if is_whole || self.classifier.is_some() { Kept::of(head, is_whole) } else { Kept::default() }
    }

    /// What the answer to an attempt of a request says of the token.
    #[inline]
    pub(crate) fn verdict<R>(&self, head: Option<&Head>, attempt: u8, response: &Response<R>) -> Verdict {
        match (&self.classifier, head.and_then(Head::line)) {
            (Some(classifier), Some(Line { method, uri, .. })) => {
                classifier.classify(&Answer::new(method, uri, attempt, response))
            }
            _ => standard::verdict(response.status(), response.headers()),
        }
    }

    pub(crate) fn allows_resend(&self, head: &Head) -> bool {
        self.resend.as_ref().is_none_or(|allows| {
            let head = head.request();
            allows(head.method(), head.uri(), head.headers())
        })
    }

    /// Whether a URI names no origin, and none is assumed to which a credential may ever be shown.
    pub(crate) fn names_no_origin(&self, uri: &Uri) -> bool {
        uri.authority().is_none() && !self.assumed.as_ref().is_some_and(|origin| self.scope.has(origin))
    }
}

/// What the clones of one service and their response futures share.
pub(crate) struct Common<S> {
    pub(crate) policy: Policy,
    /// To make others of, and never polled, so that it holds no readiness. Taken out while it is cloned, because `S::clone`
    /// must not run under our lock. The lock is there because `S` need not be `Sync`.
    template: Mutex<Option<S>>,
}

impl<S> Common<S> {
    pub(crate) fn new(policy: Policy, template: S) -> Self {
        Common { policy, template: Mutex::new(Some(template)) }
    }

    fn template(&self) -> MutexGuard<'_, Option<S>> {
        self.template.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Clone> Common<S> {
    /// One to send a request with that has waited. `None` while another thread is making one.
    pub(crate) fn service(&self) -> Option<S> {
        let template = self.template().take();
        Borrowed { template, common: self }.template.clone()
    }

    /// Like [`service`](Self::service). Woken at once while another thread is making one: it is at it this moment.
    pub(crate) fn poll_service(&self, cx: &mut Context<'_>) -> Poll<S> {
        match self.service() {
            Some(service) => Poll::Ready(service),
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// The template, which goes back also when cloning it panics.
struct Borrowed<'a, S> {
    template: Option<S>,
    common: &'a Common<S>,
}

impl<S> Drop for Borrowed<'_, S> {
    fn drop(&mut self) {
        if let Some(template) = self.template.take() {
            *self.common.template() = Some(template);
        }
    }
}

/// A refused request's right to wait with its response held.
pub(crate) struct Held(Arc<AtomicUsize>);

impl Held {
    // Out of line, so that the way of what is accepted stays short.
    #[inline(never)]
    pub(crate) fn one_more(policy: &Policy) -> Option<Held> {
        let one_more = |held| policy.max_held.is_none_or(|most| held < most).then(|| held + 1);
        let counted = policy.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.is_ok().then(|| Held(policy.held.clone()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
