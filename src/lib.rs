//! Silent token refresh for HTTP clients built on tower.
#![forbid(unsafe_code)]

pub mod body;
pub mod classify;
pub mod error;
pub mod event;
mod extension;
mod future;
mod generation;
mod layer;
pub mod placement;
mod random;
mod reentry;
pub mod scope;
mod secret;
mod service;
pub mod session;
pub mod source;
pub mod store;
#[cfg(feature = "test-util")]
pub mod test_util;
pub mod time;
mod token;

pub use self::{
    body::ReplayBody,
    classify::{Answer, Challenged, Classify, Standard, Statuses, Verdict},
    error::{BoxError, Error, ErrorKind},
    extension::{NoToken, NotResent, Outcome, RefreshFailure, SkipRefresh},
    future::ResponseFuture,
    generation::Generation,
    layer::TokenRefreshLayer,
    placement::Placement,
    scope::{Origin, Scope},
    secret::Secret,
    service::TokenRefresh,
    session::Session,
    source::{FetchContext, FetchError, TokenSource, source_fn},
    token::Token,
};

// Compiles the example of that document.
#[cfg(doctest)]
#[doc = include_str!("../docs/composition.md")]
mod composition {}
