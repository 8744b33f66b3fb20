//! What the sources that speak HTTP share: the client, its requests, and what answers mean.

mod answer;
mod client;
mod content;
mod error;
mod failure;
mod fields;
pub(super) mod form;
pub(super) mod json;
mod reading;
mod retry_after;

pub use self::{
    client::AuthorityClient,
    content::Content,
    error::{AuthorityError, FailedCall},
    fields::JsonAnswer,
};
pub(super) use self::{
    client::{get, post},
    failure::Grant,
    reading::Reading,
};
