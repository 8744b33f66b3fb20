//! What most tests need: a model authority, an API that it guards, a session and a client with the layer.

use http::{Request, Response};
use tower::{Layer, ServiceExt};
use tower_token_refresh::{
    BoxError, Origin, Session, TokenRefresh, TokenRefreshLayer,
    session::SessionBuilder,
    test_util::{ModelApi, ModelAuthority, ModelBody},
};

pub(crate) const API: &str = "https://api.test";

pub(crate) struct World {
    pub(crate) authority: ModelAuthority,
    pub(crate) api: ModelApi,
    pub(crate) session: Session,
    pub(crate) client: TokenRefresh<ModelApi>,
}

pub(crate) fn origin() -> Origin {
    API.parse().unwrap()
}

impl World {
    /// The model with its defaults; nobody has logged in yet.
    pub(crate) fn new() -> Self {
        Self::with(ModelAuthority::new(), |builder| builder, |layer| layer)
    }

    pub(crate) fn with(
        authority: ModelAuthority,
        session: impl FnOnce(SessionBuilder) -> SessionBuilder,
        layer: impl FnOnce(TokenRefreshLayer) -> TokenRefreshLayer,
    ) -> Self {
        let api = ModelApi::new(authority.clone());
        let session = session(Session::builder(authority.source())).build();
        let client = layer(TokenRefreshLayer::new(session.clone(), origin())).layer(api.clone());
        World { authority, api, session, client }
    }

    /// With a token that the authority has revoked: the next request is refused.
    pub(crate) async fn revoked() -> Self {
        let world = Self::new();
        world.session.token().await.unwrap();
        world.authority.revoke_access();
        world
    }

    pub(crate) async fn send(&self, request: Request<ModelBody>) -> Result<Response<ModelBody>, BoxError> {
        self.client.clone().oneshot(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Response<ModelBody>, BoxError> {
        self.send(get(path)).await
    }
}

pub(crate) fn get(path: &str) -> Request<ModelBody> {
    Request::get(format!("{API}{path}")).body(ModelBody::from("")).unwrap()
}

pub(crate) fn post(path: &str, body: &'static str) -> Request<ModelBody> {
    Request::post(format!("{API}{path}")).body(ModelBody::from(body)).unwrap()
}
