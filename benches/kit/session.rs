//! A session whose authority answers at once.

use std::time::Duration;

use tower_token_refresh::{FetchContext, FetchError, Session, Token, source_fn};

/// Where its token is shown.
pub(crate) const ORIGIN: &str = "https://api.test";

/// A session without a token.
pub(crate) fn session() -> Session {
    let source = source_fn(|_: FetchContext| async {
        Ok::<_, FetchError>(Token::new("token").expires_in(Duration::from_secs(7200)))
    });
    Session::builder(source).build()
}
