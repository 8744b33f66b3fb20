//! The grants of OAuth 2 (RFC 6749).
//!
//! | source | `grant_type` | what it presents |
//! |---|---|---|
//! | [`RefreshTokenGrant`] | `refresh_token` | the session's refresh token; without one the next source of a chain is asked |
//! | [`AuthorizationCodeGrant`] | `authorization_code` | the code of one redirect, once |
//! | [`PasswordGrant`] | `password` | an account and a password, read from a closure at each login |
//! | [`ClientCredentialsGrant`] | `client_credentials` | the client itself |
//!
//! Each goes to a [`TokenEndpoint`], which knows the client's own credentials. A user who logs in by a browser is a
//! code, once, and a refresh token from then on:
//!
//! ```
//! use hyper_util::{client::legacy::{Client, connect::HttpConnector}, rt::TokioExecutor};
//! use tower_token_refresh::{Error, Session};
//! use tower_token_refresh::source::{Content, oauth2::{AuthorizationCodeGrant, RefreshTokenGrant, TokenEndpoint}};
//!
//! let http: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
//! let endpoint = TokenEndpoint::new(http, "https://id.example.com/oauth/token".parse()?).public_client("my-app");
//! // Goes on with what is stored, as long as the authority allows it.
//! let session = Session::builder(RefreshTokenGrant::new(endpoint.clone())).build();
//!
//! /// The user has come back from the browser, whoever was logged in before.
//! async fn come_back(session: &Session, endpoint: TokenEndpoint, code: &str, verifier: &str) -> Result<(), Error> {
//!     let code = AuthorizationCodeGrant::new(endpoint, code, "http://127.0.0.1:7777/").pkce_verifier(verifier);
//!     // The code has a session of its own, without a store: there is nothing else that it could bring.
//!     session.login(Session::builder(code).build().token().await?).await
//! }
//! # let _ = (session, come_back);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Do not chain the code behind the refresh token: it would not be presented while the stored session has a good token or
//! refresh token, and nobody would have logged in. Do not chain it in front either: the session would not be told when the
//! first refresh token ends.
//!
//! A program that is given a refresh token, by its environment perhaps, logs in with
//! [`Token::from_refresh_token`](crate::Token::from_refresh_token), once.
//!
//! What an answer without a token means is one of the classes of [`FailureClass`](super::FailureClass):
//!
//! | answer | class |
//! |---|---|
//! | 400 or another 4xx with `invalid_grant`, or a code given to [`dead_codes`](TokenEndpoint::dead_codes) | [`LoginRequired`]; the next source of a chain is asked first |
//! | 4xx with `access_denied`, `mfa_required`, `interaction_required`, `login_required` …, or a code given to [`blocked_codes`](TokenEndpoint::blocked_codes) | [`LoginRequired`]; no other source is asked. [`AuthorityError`](super::AuthorityError) tells more |
//! | 4xx with `invalid_client`, `invalid_scope`, `invalid_request` … | [`Configuration`] |
//! | 408, 425, 429, 503, also if the body breaks off; `temporarily_unavailable`; nothing was sent | [`Transient`]; [`Unanswered`] if it was sent before, by a `Retry` in the client, but for a code that is not of OAuth 2, which is then used up |
//! | another 5xx, or no other answer that is complete | [`Unanswered`]: what was presented may be spent. A password that is answered by a business code in numbers, other than 500 to 599, is not presented again for five minutes. [`Transient`] at a login with a code that is not of OAuth 2: the next attempt presents another |
//! | 3xx | [`Ambiguous`]; a password is not presented again for five minutes, and a code is used up |
//! | 407; or, if the client contains the [`TokenRefreshLayer`](crate::TokenRefreshLayer) of another session, a response that this layer took for a refusal and whose request it did [not send again](crate::Outcome::not_resent), even if it is a 3xx or another 5xx. An OAuth 2 code, or one that was given a meaning, counts all the same; any other response may come from a gateway, not from the authority | [`Ambiguous`]; a password is not presented again for five minutes, but a code is |
//! | another 4xx, at a refresh | [`Ambiguous`] |
//! | another 4xx, at a login with a password or a code | [`LoginRequired`]: presented over and over, it would lock the account |
//! | 2xx with an error code, at a login | the class of a 4xx with that code |
//! | 4xx or 2xx with `slow_down` | [`Transient`] |
//! | 4xx or 2xx with `use_dpop_nonce` | [`Transient`], and a code is not used up: the authority has looked at the proof only. If it was sent before, as above |
//! | 4xx or 2xx with `server_error`, at a refresh | [`Transient`] |
//! | 4xx or 2xx with `server_error`, at a login | [`LoginRequired`] at 401 and 403, else [`Ambiguous`] |
//! | 2xx with neither token nor code, a page for people included, at a login | [`Ambiguous`]: it may have been a refusal. A password is not presented again for five minutes |
//! | 2xx with `invalid_grant`, at a refresh | [`LoginRequired`] |
//! | 2xx with JSON or a form and neither token nor code, at a refresh | [`Unanswered`]: the refresh token may be spent. Another one that comes without an access token of use is presented next |
//! | another 2xx without a token | [`Transient`] |
//!
//! For [`ClientCredentialsGrant`], any error code of a 4xx other than 407, 408, 425 and 429 is [`Configuration`], except
//! codes given to `dead_codes` or `blocked_codes` and those that mean *later* (`server_error` and `use_dpop_nonce` among them). An answer
//! without a code (a proxy's page, a 407, a redirect) and a lost one are [`Transient`]: nothing was spent, and nobody can
//! log in for it.
//!
//! [`LoginRequired`]: super::FailureClass::LoginRequired
//! [`Configuration`]: super::FailureClass::Configuration
//! [`Transient`]: super::FailureClass::Transient
//! [`Unanswered`]: super::FailureClass::Unanswered
//! [`Ambiguous`]: super::FailureClass::Ambiguous

mod client_credentials;
mod code;
mod endpoint;
mod password;
mod refresh;

pub use self::{
    client_credentials::ClientCredentialsGrant, code::AuthorizationCodeGrant, endpoint::TokenEndpoint,
    password::PasswordGrant, refresh::RefreshTokenGrant,
};
