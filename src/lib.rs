//! Silent token refresh for HTTP clients built on tower.
#![forbid(unsafe_code)]

pub mod body;
pub mod classify;
pub mod error;
pub mod event;
mod generation;
pub mod placement;
pub mod scope;
mod secret;
pub mod source;
pub mod store;
#[cfg(feature = "test-util")]
pub mod test_util;
pub mod time;
mod token;

pub use self::{
    classify::{Answer, Challenged, Classify, Standard, Statuses, Verdict},
    error::{BoxError, Error, ErrorKind},
    generation::Generation,
    placement::Placement,
    scope::{Origin, Scope},
    secret::Secret,
    source::{FetchContext, FetchError, TokenSource, source_fn},
    token::Token,
};
