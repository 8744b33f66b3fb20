//! What a layer was told, as its services and their response futures read it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{HeaderMap, Method, Request, Uri};

use crate::{
    classify::{Classify, Standard},
    scope::{Origin, Scope},
    session::Session,
};

/// What all services of one layer share.
#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) session: Session,
    pub(crate) scope: Scope,
    pub(crate) classifier: Arc<dyn Classify>,
    /// 0 keeps nothing.
    pub(crate) replay_limit: usize,
    pub(crate) resend: Option<Arc<ResendPredicate>>,
    pub(crate) assumed: Option<Origin>,
    pub(crate) max_held: usize,
    held: Arc<AtomicUsize>,
}

pub(crate) type ResendPredicate = dyn Fn(&Method, &Uri, &HeaderMap) -> bool + Send + Sync;

impl Policy {
    pub(crate) fn new(session: Session, scope: Scope) -> Self {
        Policy {
            session,
            scope,
            classifier: Arc::new(Standard),
            replay_limit: 64 * 1024,
            resend: None,
            assumed: None,
            max_held: usize::MAX,
            held: Arc::default(),
        }
    }

    /// Whether the credential may be shown to where this request goes.
    pub(crate) fn covers<B>(&self, request: &Request<B>) -> bool {
        match &self.assumed {
            Some(origin) if request.uri().authority().is_none() => {
                self.scope.contains_at(origin, request.uri())
            }
            _ => self.scope.contains(request.uri()),
        }
    }

    pub(crate) fn allows_resend(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
        self.resend.as_ref().is_none_or(|allows| allows(method, uri, headers))
    }

    pub(crate) fn names_no_origin<B>(&self, request: &Request<B>) -> bool {
        self.assumed.is_none() && request.uri().authority().is_none()
    }
}

/// A refused request's right to wait with its response held.
pub(crate) struct Held(Arc<AtomicUsize>);

impl Held {
    pub(crate) fn one_more(policy: &Policy) -> Option<Held> {
        let held = Held(policy.held.clone());
        let before = held.0.fetch_add(1, Ordering::Relaxed);
        // Dropping it takes it off the count again.
        (before < policy.max_held).then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
