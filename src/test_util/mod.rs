//! A test kit for clients that refresh tokens: an authority and an API in memory, gates and a clock.
//!
//! [`ModelAuthority`] hands out tokens, rotates refresh tokens and ends a family whose spent refresh token comes back;
//! [`ModelApi`] answers to its tokens only. Both are tower services, used in process or behind a real server, and both
//! count, remember, wait at a [`Gate`] and fail as they are told. [`ModelAuthority`] lists its endpoints: OAuth 2 is at
//! `/oauth/token`, and `/token` is for login codes. A client for tests is a `TokenRefresh<ModelApi>`. No test needs a sleep:
//!
//! ```
//! use http::{Request, StatusCode};
//! use tower::ServiceExt;
//! use tower_token_refresh::test_util::{Endpoint, Failure, ModelApi, ModelAuthority, ModelBody};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_token_refresh::BoxError> {
//! let authority = ModelAuthority::new();
//! let api = ModelApi::new(authority.clone());
//! let token = authority.login().await.expect("a healthy authority");
//!
//! // A revocation that the client cannot know of:
//! authority.revoke_access();
//! let request = Request::get("/me")
//!     .header("authorization", format!("Bearer {}", token.access().expose()))
//!     .body(ModelBody::default())?;
//! assert_eq!(api.clone().oneshot(request).await?.status(), StatusCode::UNAUTHORIZED);
//!
//! // The worst moment to fail: the refresh token is spent, its successor never arrives.
//! authority.fail_next(Endpoint::Refresh, Failure::LostAnswer);
//! let refresh_token = token.refresh().expect("this authority hands them out").expose();
//! assert!(authority.refresh(refresh_token).await.is_err());
//! assert!(authority.refresh(refresh_token).await.is_err());
//! assert_eq!(authority.counts().family_deaths, 1);
//! # Ok(())
//! # }
//! ```
//!
//! Tokens look like `access-3-of-authority-1`: never like a real one. The kit's `Debug` shows numbers only.
//!
//! # Time
//!
//! In paused time give each session a [`TestClock`]. The default clock has only its monotonic half from tokio, and the end
//! of a token from a store, or from another session, is known by the wall clock: that token would not expire.
//!
//! ```
//! use std::time::Duration;
//! use tower_token_refresh::{Session, store::MemoryStore, test_util::{ModelAuthority, TestClock}};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), tower_token_refresh::BoxError> {
//! let authority = ModelAuthority::new().access_lifetime(Duration::from_secs(7200));
//! let (store, clock) = (MemoryStore::new(), TestClock::new());
//! let start = || Session::builder(authority.source()).store(store.clone()).clock(clock.clone()).build();
//! start().token().await?;
//!
//! tokio::time::advance(Duration::from_secs(3 * 3600)).await;
//! start().token().await?;
//! assert_eq!(authority.counts().refreshes, 1);
//! # Ok(())
//! # }
//! ```

mod api;
mod authority;
mod body;
mod clock;
mod form;
mod gate;
mod record;

pub use self::{
    api::{Credential, ModelApi, Phase, Refusal, Route},
    authority::{Counts, Endpoint, Failure, ModelAuthority, Rotation},
    body::ModelBody,
    clock::TestClock,
    gate::Gate,
    record::{ReceivedRequest, Upload},
};
pub use crate::random::repeat_random_numbers;
