//! A place over HTTP/1.1, both of whose servers can be told to fail.

use tower_token_refresh::test_util::ModelApi;

use super::{
    http1::Peer,
    place::{Place, SOON},
};
use crate::kit::Http;

pub(super) struct Scene {
    pub(super) place: Place,
    pub(super) issuer: Peer,
    pub(super) api: Peer,
}

impl Scene {
    pub(super) async fn start() -> Self {
        let authority = Place::authority();
        let issuer = Peer::start(authority.clone()).await;
        let api = Peer::start(ModelApi::new(authority.clone())).await;
        let place = Place::new(Http::One, authority, issuer.address, api.address, SOON).await;
        Scene { place, issuer, api }
    }
}
