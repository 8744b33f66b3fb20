//! The API and all other hosts: they note what is sent, hold it, and fail as they are told.

use std::{
    future::pending,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use futures_util::FutureExt;
use http::{Request, Response, StatusCode, request::Parts};
use tower::Service;
use tower_token_refresh::{
    BoxError, ReplayBody,
    test_util::{ModelApi, ModelBody},
};

use super::holding::Holding;
use crate::{
    checks::{Book, Pid},
    steps::{Hold, Kind},
};

/// What a request is to meet. It travels in the extensions.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) id: usize,
    pub(super) kind: Kind,
    pub(super) hold: Hold,
}

/// What all processes share.
#[derive(Clone)]
pub(super) struct Hosts {
    pub(super) model: ModelApi,
    pub(super) holding: Holding,
    pub(super) door: Door,
}

/// Whether the services are ready for a request.
#[derive(Clone, Default)]
pub(super) struct Door(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Door {
    pub(super) fn set_shut(&self, is_shut: bool) {
        let mut door = self.0.lock().unwrap();
        door.0 = is_shut;
        if !is_shut {
            door.1.drain(..).for_each(Waker::wake);
        }
    }

    pub(super) fn is_shut(&self) -> bool {
        self.0.lock().unwrap().0
    }

    fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        let mut door = self.0.lock().unwrap();
        if !door.0 {
            return Poll::Ready(());
        }
        door.1.push(cx.waker().clone());
        Poll::Pending
    }
}

/// The way out of one process.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) pid: Pid,
    pub(super) hosts: Hosts,
    pub(super) book: Book,
}

type Answer = Result<Response<ModelBody>, BoxError>;

impl Service<Request<ReplayBody<ModelBody>>> for Network {
    type Response = Response<ModelBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.hosts.door.poll_open(cx).map(Ok)
    }

    fn call(&mut self, request: Request<ReplayBody<ModelBody>>) -> Self::Future {
        let plan = *request.extensions().get::<Plan>().expect("every request has one");
        let alive = self.book.is_alive(self.pid);
        let attempt = if alive { self.book.request_sent(plan.id, &head_of(&request)) } else { 0 };
        let (book, answer) = (self.book.clone(), self.clone().answer(request, plan, attempt));
        Box::pin(answer.inspect(move |_| book.request_answered(plan.id)))
    }
}

impl Network {
    async fn answer(mut self, request: Request<ReplayBody<ModelBody>>, plan: Plan, attempt: usize) -> Answer {
        self.while_alive().await;
        let head = head_of(&request);
        if plan.hold == Hold::Judge {
            self.hosts.holding.pass().await;
        }
        let answer = match plan.kind {
            Kind::Reset(at) if at == attempt => Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
            Kind::Foreign(_) => {
                let mut response = Response::new(ModelBody::default());
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                Ok(response)
            }
            _ => self.hosts.model.call(request).await,
        };
        if plan.hold == Hold::Answer {
            self.hosts.holding.pass().await;
        }
        self.while_alive().await;
        let is_seen = !matches!(plan.kind, Kind::Foreign(_) | Kind::SkipRefresh | Kind::NoToken | Kind::Own);
        if is_seen && answer.as_ref().is_ok_and(|response| response.status().is_client_error()) {
            self.book.refused(self.pid, &head);
        }
        answer
    }

    async fn while_alive(&self) {
        if !self.book.is_alive(self.pid) {
            pending::<()>().await;
        }
    }
}

fn head_of<B>(request: &Request<B>) -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    head.headers = request.headers().clone();
    head
}
