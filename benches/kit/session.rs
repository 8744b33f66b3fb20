//! A session whose authority answers at once, and the layer around it.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tower_token_refresh::{
    FetchContext, FetchError, Origin, Session, Token, TokenRefreshLayer, TokenSource, source_fn,
};

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A session without a token.
pub(crate) fn session() -> Session {
    Session::builder(source()).build()
}

fn source() -> impl TokenSource {
    source_fn(|_: FetchContext| async {
        Ok::<_, FetchError>(Token::new("token").expires_in(Duration::from_secs(7200)))
    })
}

pub(crate) fn layer(session: &Session, origin: &str) -> TokenRefreshLayer {
    TokenRefreshLayer::new(session.clone(), origin.parse::<Origin>().expect("an origin"))
}
