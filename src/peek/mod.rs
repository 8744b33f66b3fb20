//! Evidence in bodies: layers that read ahead in a response and tell a classifier what they found.
//!
//! A [`Classify`](crate::Classify) sees heads only. Some servers say in the body that they refuse a token, at status
//! 200 perhaps, or in a trailer. A layer of this module goes *below* the token refresh, reads as much of the body as
//! it must, puts what it found in the response's extensions, and hands the body on whole: the same bytes in the same
//! frames, the same trailers, errors in their places, the same size hint.
//!
//! | layer | reads | extension | classifier |
//! |---|---|---|---|
#![cfg_attr(
    feature = "json",
    doc = "| [`JsonCodeLayer`](json::JsonCodeLayer) | a JSON body within a limit | [`ErrorCode`](crate::ErrorCode) | [`Codes`](crate::Codes) |"
)]
//! | [`GrpcStatusLayer`](grpc::GrpcStatusLayer) | `grpc-status`, a header or trailer | [`GrpcStatus`](grpc::GrpcStatus) | [`GrpcUnauthenticated`](grpc::GrpcUnauthenticated) |
//!
//! *Above* the token refresh such a layer serves [`Tips`](crate::Tips) but causes no refresh.
//!
//! # How long it waits
//!
//! A response whose body is read comes with the end of its body instead of its beginning. Nothing here measures time:
//! a body that stalls is bounded by the timeout of the attempt, and that has to stand *outside* of this layer.
//! Dropping the response future drops the body.
//!
//! ```
//! # #[cfg(feature = "json")]
//! # fn main() -> Result<(), tower_token_refresh::BoxError> {
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_token_refresh::{
//!     BoxError, Classify, Codes, JsonCodeLayer, Origin, ReplayBody, Session, Standard, Token,
//!     TokenRefreshLayer, source_fn,
//! };
//!
//! # let session = Session::builder(source_fn(|_| async { Ok(Token::new("t")) })).build();
//! # let http_client = tower::service_fn(|_: Request<ReplayBody<Full<Bytes>>>| async {
//! #     Ok::<_, BoxError>(Response::new(Full::new(Bytes::from(r#"{"errcode":0}"#))))
//! # });
//! let client = ServiceBuilder::new()
//!     .layer(
//!         TokenRefreshLayer::new(session, "https://api.example.com".parse::<Origin>()?)
//!             .classifier(Standard.or(Codes::reject([40001, 40014, 42001])?)),
//!     )
//!     .timeout(Duration::from_secs(5)) // head and body of one attempt
//!     .layer(JsonCodeLayer::new().pointers(["/errcode"])?)
//!     .service(http_client);
//! # let request = Request::get("https://api.example.com/me").body(Full::<Bytes>::default())?;
//! # drop(client.oneshot(request));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "json"))]
//! # fn main() {}
//! ```

mod body;
pub mod grpc;
#[cfg(feature = "json")]
pub mod json;

pub use self::body::PeekBody;

/// How much of a body is read ahead unless somebody says otherwise.
const LIMIT: u64 = 64 * 1024;
