//! The authorities, and how their resources refuse.

use std::time::Duration;

use http::StatusCode;

/// A running authority with a resource of its own.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// The variable of the environment that says where it is.
    pub(crate) address_in: &'static str,
    pub(crate) resource: &'static str,
    /// How the resource refuses a token that has expired, and whether it says why in a challenge.
    pub(crate) refusal: StatusCode,
    pub(crate) has_challenge: bool,
}

/// What both tell of their access tokens.
pub(crate) const LIFETIME: Duration = Duration::from_secs(3600);

/// The provider's own resource.
pub(crate) const OIDC_PROVIDER: Kind = Kind {
    address_in: "OIDC_PROVIDER",
    resource: "/me",
    refusal: StatusCode::UNAUTHORIZED,
    has_challenge: true,
};

pub(crate) const OIDC_PROVIDER_WITH_403: Kind =
    Kind { resource: "/forbidden", refusal: StatusCode::FORBIDDEN, ..OIDC_PROVIDER };

pub(crate) const DJANGO: Kind =
    Kind { address_in: "DJANGO", resource: "/me", refusal: StatusCode::FORBIDDEN, has_challenge: false };

/// Where a spent refresh token is good for a while.
pub(crate) const DJANGO_WITH_GRACE: Kind = Kind { address_in: "DJANGO_WITH_GRACE", ..DJANGO };
