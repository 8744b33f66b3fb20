//! `tower-token-refresh` in front of the same clients.

use http::StatusCode;
use tower::Layer;
use tower_token_refresh::{
    BoxError, FetchError, Origin, Placement, Session, Statuses, Token, TokenRefreshLayer, source_fn,
};

use crate::phone::{Client, Phone};

pub(crate) fn client(phone: Phone) -> Result<Client, BoxError> {
    let origin: Origin = phone.base.parse()?;
    let wire = phone.wire.clone();
    let source = source_fn(move |_| {
        let phone = phone.clone();
        async move { Ok(Token::new(phone.new_token(None).await.map_err(FetchError::transient)?)) }
    });
    let session = Session::builder(source).placement(Placement::basic()).build();
    // This server says 403 of a token, never of a permission.
    let layer =
        TokenRefreshLayer::new(session, origin).classifier(Statuses::reject([StatusCode::FORBIDDEN])?);
    Ok(Client::new(layer.layer(wire)))
}
