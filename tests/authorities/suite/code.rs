//! A login by an authorization code, as after a redirect.

use tower_token_refresh::{TokenSource, source::oauth2::AuthorizationCodeGrant, store::MemoryStore};

use crate::{
    authority::Authority,
    kind::OIDC_PROVIDER,
    world::{World, within},
};

/// The pair of RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// The server's fixture.
const REDIRECT: &str = "https://app.invalid/callback";

#[tokio::test]
async fn a_code_of_oidc_provider_begins_a_grant_that_is_refreshed() {
    within(async {
        let authority = Authority::new(OIDC_PROVIDER).await;
        let code = authority.code(CHALLENGE).await;
        let login = AuthorizationCodeGrant::new(authority.token_endpoint(authority.socket()), code, REDIRECT)
            .pkce_verifier(VERIFIER);
        let world = World::with(authority, MemoryStore::new(), |grant| grant.or_else(login)).await;
        world.get_in(1).await;
        world.assert_token_calls(1, 0, 0).await;
        world.authority.expire().await;
        world.get_in(2).await;
        world.assert_token_calls(1, 1, 0).await;
    })
    .await;
}
