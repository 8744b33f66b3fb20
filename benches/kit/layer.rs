//! The layer with all its defaults.

use tower_token_refresh::{Origin, Session, TokenRefreshLayer};

pub(crate) fn layer(session: &Session, origin: &str) -> TokenRefreshLayer {
    TokenRefreshLayer::new(session.clone(), origin.parse::<Origin>().expect("an origin"))
}
