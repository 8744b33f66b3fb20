//! Silent token refresh for HTTP clients built on tower (无感知刷新).
//!
//! [`TokenRefreshLayer`] wraps any client [`Service`](tower_service::Service). It puts the current access token on each
//! request, notices when the server refuses that token, gets a new one *once* for everybody, and sends the refused
//! request again, so that the caller sees one call and one answer.
//!
//! # Quick start
//!
//! ```
//! use std::time::Duration;
//!
//! use tower::{Layer, ServiceExt};
//! use tower_token_refresh::{FetchContext, Origin, Session, Token, TokenRefreshLayer, source_fn};
//!
//! # use tower_token_refresh::{BoxError, FetchError, ReplayBody, Secret};
//! # struct Answer { access_token: &'static str, expires_in: u64, refresh_token: &'static str }
//! # async fn ask_authority(refresh_token: Option<&Secret>) -> Result<Answer, FetchError> {
//! #     assert!(refresh_token.is_none());
//! #     Ok(Answer { access_token: "an-access-token", expires_in: 7200, refresh_token: "a-refresh-token" })
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! # let http_client = tower::service_fn(|request: http::Request<ReplayBody<String>>| async move {
//! #     assert_eq!(request.headers()["authorization"], "Bearer an-access-token");
//! #     Ok::<_, BoxError>(http::Response::new(String::new()))
//! # });
//! // One session for each identity. Here a new token comes from a closure; `?` on a `std::error::Error` inside it
//! // means *try again later* (a `BoxError` needs `.map_err(FetchError::transient)`), `FetchError::login_required` ends
//! // the session.
//! let session = Session::builder(source_fn(|cx: FetchContext| async move {
//!     let answer = ask_authority(cx.refresh_token()).await?;
//!     let lifetime = Duration::from_secs(answer.expires_in);
//!     Ok(Token::new(answer.access_token).expires_in(lifetime).refresh_token(answer.refresh_token))
//! }))
//! .build();
//!
//! // One layer around the client, with the origin that may see the token.
//! let layer = TokenRefreshLayer::new(session.clone(), "https://api.example.com".parse::<Origin>()?);
//! let client = layer.layer(http_client);
//!
//! let request = http::Request::get("https://api.example.com/me").body(String::new())?;
//! let response = client.oneshot(request).await?;
//! assert!(response.status().is_success());
//! # Ok(())
//! # }
//! ```
//!
//! # Anatomy
//!
//! | part | what it decides | default |
//! |---|---|---|
//! | [`TokenSource`] | where tokens come from: [`source_fn`], [`source::login`][login] (passwords, codes), [`source::oauth2`][oauth2] | – |
//! | [`Session`] | who gets the token, when, and who waits | – |
//! | [`TokenStore`](store::TokenStore) | where the token is kept | in memory |
//! | [`Placement`] | where the token goes on a request | `Authorization: Bearer …` |
//! | [`Scope`] | who may see the token | the origins you name |
//! | [`Classify`] | which answers refuse it | [`Standard`]: 401, 403 |
//! | [`ReplayBody`] | how much of a body is kept for the resend | 64 KiB |
//!
//! [login]: source/login/index.html
//! [oauth2]: source/oauth2/index.html
//!
//! A request can say more by its extensions: [`SkipRefresh`], [`NoToken`], a [`Session`] of its own,
//! [`Rebuild`](body::Rebuild). A response tells what happened by [`Outcome`] and [`RefreshFailure`].
//!
//! Source, store and placement are set on the session, which builds the credential once for each token. Scope, classifier
//! and replay limit are set on the layer.
//!
//! # Where it goes
//!
//! ```text
//! Timeout (the whole call) > Retry > TokenRefreshLayer > ConcurrencyLimit > Timeout (one attempt) > client
//! ```
//!
//! Redirects are followed *outside*, so that each hop is checked against the scope. [More of this](crate::composition),
//! and how tonic, kube and reqwest are put in the place of the client.
//!
//! # What can be relied upon
//!
//! - A refusal counts against the token that was sent, never against a later one. A late refusal of a token that has been
//!   replaced starts no refresh: the request is sent again with the current token.
//! - A refresh runs in a task of its own. Callers that give up cancel nothing, and every caller gets an answer: the answer
//!   to the resend; or the refused response, whose [`Outcome`] says why the request was not sent again (with a
//!   [`RefreshFailure`] if the refresh failed); or an [`Error`], where nothing was sent or the second attempt could not be
//!   made.
//! - A request is sent at most twice, and only with all of its body.
//! - The new token is saved before anybody sees it. If the store fails, an event says so, and the token is used all the
//!   same and saved later. The result of a refresh that ends after a logout changes nothing.
//! - A session ends when the authority calls its grant invalid, or when there is nothing left to present, but never because
//!   the authority could not be reached. A login with a password or the code of a redirect counts as refused also by a
//!   4xx that nobody understands, because presenting it again and again may lock the account. After a failed refresh the
//!   session leaves the authority alone for a while.
//! - No secret is in our `Debug`, `Display`, errors or events.
//!
//! # Runtime
//!
//! A refresh needs tokio with `rt` and `time`. A session can be built anywhere, and outlives any runtime.
//!
//! # Features
//!
//! - `json` (default): [error codes in JSON bodies](peek), and [sources](source) that speak to an authority over HTTP:
//!   passwords, login codes, OAuth 2, applications; [`preset`](preset/index.html), what platforms expect.
//! - `file`: [`store::FileStore`](store/struct.FileStore.html), a token in a file, for any number of processes.
//! - `session-map`: [`SessionMap`](session_map/struct.SessionMap.html), a session for each of many identities.
//! - `tracing`: [`event::TracingObserver`](event/struct.TracingObserver.html), a session's events in a log.
//! - `test-util`: [`test_util`](test_util/index.html), a model authority, a model API, gates and a clock for the tests of
//!   programs that use this crate.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod body;
pub mod classify;
pub mod error;
pub mod event;
mod extension;
mod future;
mod generation;
mod head;
#[cfg(feature = "json")]
mod json;
mod layer;
mod media_type;
mod panics;
pub mod peek;
pub mod placement;
mod policy;
#[cfg(feature = "json")]
pub mod preset;
mod query;
mod random;
mod reentry;
#[cfg(test)]
mod schedules;
pub mod scope;
mod secret;
mod service;
pub mod session;
#[cfg(feature = "session-map")]
pub mod session_map;
pub mod source;
pub mod store;
mod sync;
#[cfg(feature = "test-util")]
pub mod test_util;
pub mod time;
mod timer;
pub mod tips;
mod token;

#[cfg(feature = "json")]
#[doc(inline)]
pub use self::peek::json::JsonCodeLayer;
#[cfg(feature = "session-map")]
#[doc(inline)]
pub use self::session_map::SessionMap;
#[doc(inline)]
pub use self::{
    body::ReplayBody,
    classify::{Answer, Challenged, Classify, Codes, ErrorCode, Standard, Statuses, Verdict},
    error::{BoxError, Error, ErrorKind},
    extension::{NoToken, NotResent, Outcome, RefreshFailure, SkipRefresh},
    future::ResponseFuture,
    generation::Generation,
    layer::TokenRefreshLayer,
    peek::grpc::{GrpcStatusLayer, GrpcUnauthenticated},
    placement::Placement,
    scope::{Origin, Scope},
    secret::Secret,
    service::TokenRefresh,
    session::Session,
    source::{FetchContext, FetchError, TokenSource, source_fn},
    tips::Tips,
    token::{OptionalSecret, Token},
};

// A document, which has no items.
#[cfg(any(doc, doctest))]
#[doc = include_str!("../docs/composition.md")]
pub mod composition {}

#[cfg(all(doctest, feature = "file", feature = "json"))]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(doctest)]
#[doc = include_str!("../README.zh-CN.md")]
mod readme_zh {}
