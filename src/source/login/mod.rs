//! Logins of an application's own kind, and what they live on: credentials in a JSON object, a token in another.
//!
//! | source | what it presents |
//! |---|---|
//! | [`Password`] | an account and a password, read from a closure at each login |
//! | [`LoginCode`] | a code that a closure gets anew for each attempt |
//! | [`RefreshToken`] | the session's refresh token; without one the next source of a chain is asked |
//!
//! ```
//! use hyper_util::{client::legacy::{Client, connect::HttpConnector}, rt::TokioExecutor};
//! use tower_token_refresh::{Session, source::{Content, Credentials, JsonAnswer, Password, login::JsonVerify}};
//!
//! let http: Client<HttpConnector, Content> = Client::builder(TokioExecutor::new()).build_http();
//! let login = Password::new(http, "https://id.example.com/login".parse()?, || async {
//!     // From wherever the application keeps them.
//!     Ok(Credentials::new("alice", "wonderland"))
//! })
//! .answer(JsonAnswer::new().access_token("/data/token")?.business_code("/errcode")?)
//! .verify_with(JsonVerify::new("https://id.example.com/verify".parse()?));
//! let session = Session::builder(login).build();
//! # let _ = session;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A password that is refused ends the session, unless another source of a chain is left: nothing is fetched any more until
//! [`credentials_changed`](crate::Session::credentials_changed), [`login`](crate::Session::login) or
//! [`replace`](crate::Session::replace). The next fetch then asks the closure anew, and presents the credentials that it
//! returns unless they are among the last 16 that the authority has refused; `credentials_changed` makes the source forget
//! these, too. A refusal that leads to no other source (the account is blocked, say) is not remembered.
//! Nor is any by the next process: a command that keeps a wrong password presents it at each start.
//!
//! An answer that may have been a refusal (a success without a token or a code, a redirect, a 407, or `server_error` at a
//! 2xx or at a 4xx other than 401 and 403) ends nothing. A password that was answered so is presented again after five
//! minutes, twice, and every 15 minutes from then on; at once after `credentials_changed`. One that was answered by a 5xx other than 503 is
//! presented again after half a minute, or, if a business code in numbers other than 500 to 599 came with it, every five
//! minutes.
//!
//! A login code that is refused is used up, and the next attempt gets another one. So a refusal that is not understood
//! neither ends the session nor leads to the next source of a chain, be it a page of a proxy or an error code of the
//! authority's own: three of them, five minutes apart at least, make exchanges rare. Nor is a refresh token presented
//! then that has expired by our clock. If the closure returns a code again whose exchange has ended without a token,
//! although it may have reached the authority, a login is required. So it is after what OAuth calls the end:
//! `invalid_grant`, with the next source of a chain first; `access_denied`, a second factor. If your server says
//! `invalid_grant` of a code that is too old, have [`classify_failures`](super::AuthorityClient::classify_failures) call
//! that [`ambiguous`](super::FetchError::ambiguous).
//!
//! A refresh token in the answer is for a [`RefreshToken`] or [`RefreshTokenGrant`](super::oauth2::RefreshTokenGrant) in
//! front of the login. Without one of them nobody presents the refresh token, but the session cannot know that: if its store
//! is shared and fails, the other processes may have to wait until the store works, so that they do not spend the refresh
//! token a second time. [`JsonAnswer::refresh_token`](super::JsonAnswer::refresh_token) with a pointer to nothing leaves it
//! out.

mod code;
mod exchange;
mod password;
mod refresh;
mod verify;

pub use self::{code::LoginCode, password::Password, refresh::RefreshToken, verify::JsonVerify};
