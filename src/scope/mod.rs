//! Where the credential may be shown.
//!
//! A request outside the [`Scope`] passes through untouched: it gets no credential, and its answer says nothing about the
//! token.
//!
//! ```
//! use tower_token_refresh::{Origin, Scope};
//!
//! let scope = Scope::from("https://api.example.com".parse::<Origin>()?);
//!
//! assert!(scope.contains(&"https://API.example.com:443/orders?page=2".parse()?));
//! assert!(!scope.contains(&"https://api.example.com:8443/orders".parse()?));
//! assert!(!scope.contains(&"http://api.example.com/orders".parse()?));
//! assert!(!scope.contains(&"https://api.example.com@evil.example/".parse()?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Several origins, of which one takes the credential on some paths only:
//!
//! ```
//! use tower_token_refresh::{Origin, Scope};
//!
//! let files = Scope::from("https://cdn.example.com".parse::<Origin>()?)
//!     .only(|uri| uri.path().starts_with("/private/"));
//! let scope = files.and("https://api.example.com".parse::<Origin>()?);
//!
//! assert!(scope.contains(&"https://cdn.example.com/private/invoice".parse()?));
//! assert!(!scope.contains(&"https://cdn.example.com/logo".parse()?));
//! assert!(scope.contains(&"https://api.example.com/logo".parse()?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod origin;

use std::{fmt, sync::Arc};

use http::Uri;

pub use self::origin::Origin;
#[cfg(feature = "json")]
pub(crate) use self::origin::is_in_the_clear;

/// The origins to which the credential may be shown.
///
/// The URI of the request decides and nothing else; a `Host` header does not. A URI without an authority is in no
/// scope, and neither is one with user information (`https://name@host`), which RFC 9110 §4.2.4 forbids to send.
///
/// An empty scope shows the credential to nobody. A request is compared with one origin after the other, so the one that
/// gets most of them comes first. See the [module docs](self).
#[derive(Clone)]
pub struct Scope {
    parts: Vec<Part>,
}

/// An origin and what narrows it.
#[derive(Clone)]
struct Part {
    origin: Origin,
    /// The origin's authority as nearly all URIs have it: comparing bytes is quicker than parsing each URI.
    authority: Box<str>,
    only: Vec<Predicate>,
}

type Predicate = Arc<dyn Fn(&Uri) -> bool + Send + Sync>;

impl Scope {
    /// Both scopes together.
    #[must_use]
    pub fn and(mut self, other: impl Into<Scope>) -> Self {
        self.parts.extend(other.into().parts);
        self
    }

    /// Narrows what is in the scope so far, not the origins that are added later.
    ///
    /// The predicate sees every request to these origins, before the credential is attached, and its path as it is
    /// written. Servers, and some clients, resolve dot segments and percent-encoding (RFC 3986 §6.2.2); nothing of that
    /// is done here, so `/api/../admin` begins with `/api/`. Normalise a path that comes from somebody else before it
    /// goes into a request.
    #[must_use]
    pub fn only<F>(mut self, predicate: F) -> Self
    where
        F: Fn(&Uri) -> bool + Send + Sync + 'static,
    {
        let predicate: Predicate = Arc::new(predicate);
        for part in &mut self.parts {
            part.only.push(Arc::clone(&predicate));
        }
        self
    }

    /// Whether the credential may be sent to this URI.
    // Always, because a call costs a third of the answer.
    #[inline(always)]
    pub fn contains(&self, uri: &Uri) -> bool {
        // Most scopes have one origin, and nothing that narrows it.
        let is_at_first =
            self.parts.first().is_some_and(|part| part.only.is_empty() && part.is_as_written(uri));
        is_at_first || self.contains_anywhere(uri)
    }

    #[inline(never)]
    fn contains_anywhere(&self, uri: &Uri) -> bool {
        // Once for all origins, of which there may be thousands.
        let target = origin::target(uri);
        self.admits(uri, |part| {
            part.is_as_written(uri) || target.is_some_and(|target| part.origin.is(target))
        })
    }

    /// The same for a URI without an authority that is known to go to this origin.
    pub(crate) fn contains_at(&self, destination: &Origin, uri: &Uri) -> bool {
        self.admits(uri, |part| part.origin == *destination)
    }

    /// Whether there is anything in it at this origin.
    pub(crate) fn has(&self, origin: &Origin) -> bool {
        self.parts.iter().any(|part| part.origin == *origin)
    }

    fn admits(&self, uri: &Uri, is_there: impl Fn(&Part) -> bool) -> bool {
        self.parts.iter().any(|part| is_there(part) && part.only.iter().all(|predicate| predicate(uri)))
    }
}

impl Part {
    fn of(origin: Origin) -> Self {
        let authority = origin.authority().into();
        Part { origin, authority, only: Vec::new() }
    }

    /// False only says that it takes a closer look.
    #[inline]
    fn is_as_written(&self, uri: &Uri) -> bool {
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return false,
        };
        is_https == self.origin.is_https()
            && uri.authority().is_some_and(|authority| authority.as_str() == &*self.authority)
    }
}

impl From<Origin> for Scope {
    fn from(origin: Origin) -> Self {
        Scope::from_iter([origin])
    }
}

impl FromIterator<Origin> for Scope {
    fn from_iter<I: IntoIterator<Item = Origin>>(origins: I) -> Self {
        Scope { parts: origins.into_iter().map(Part::of).collect() }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.parts.iter().map(|part| &part.origin)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        origin::tests::{origin, uri},
        *,
    };

    #[test]
    fn plain_http_is_for_this_machine_unless_allowed() {
        for text in ["http://localhost", "http://LOCALHOST:1", "http://127.9.9.9", "http://[::1]"] {
            assert!(text.parse::<Origin>().is_ok(), "{text}");
        }
        for text in [
            "http://api.example.com",
            "http://a.localhost",
            "http://localhost.",
            "http://localhost.example",
            "http://notlocalhost",
            "http://128.0.0.1",
            "http://127.1",
            "http://127.0.0.1.example",
            "http://[::2]",
            "http://[::ffff:127.0.0.1]",
            "http://0.0.0.0",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
            assert!(Origin::try_from(&uri(text)).is_err(), "{text} as a URI");
            assert!(Scope::from(Origin::danger_plain_http(text).unwrap()).contains(&uri(text)), "{text}");
        }
        assert!(Origin::danger_plain_http("http://api.example.com/v1").is_err());
    }

    #[test]
    fn a_scope_is_the_same_scheme_host_and_port() {
        let scope = Scope::from(origin("https://api.example.com"));
        for inside in [
            "https://api.example.com",
            "https://api.example.com/orders?next=http://other.example",
            "https://API.EXAMPLE.COM:443/",
            "HTTPS://api.example.com:/",
        ] {
            assert!(scope.contains(&uri(inside)), "{inside}");
        }
        for outside in [
            "http://api.example.com/",
            "http://api.example.com:443/",
            "https://api.example.com:80/",
            "https://api.example.com:8443/",
            "https://api.example.com:99999/",
            "https://example.com/",
            "https://evil-api.example.com/",
            "https://x.api.example.com/",
            "https://api.example.com.evil.example/",
            "https://api.example.com./",
        ] {
            assert!(!scope.contains(&uri(outside)), "{outside}");
        }
    }

    #[test]
    fn user_information_does_not_fool_the_scope() {
        let scope = Scope::from(origin("https://api.example.com"));
        for outside in [
            "https://api.example.com@evil.example/",
            "https://api.example.com:443@evil.example/",
            "https://evil.example@api.example.com/",
            "https://name:443@api.example.com/",
        ] {
            assert!(!scope.contains(&uri(outside)), "{outside}");
        }
    }

    #[test]
    fn a_uri_without_scheme_or_authority_is_out_of_scope() {
        let scope = Scope::from(origin("https://api.example.com"));
        for outside in ["/", "/orders", "*", "api.example.com", "api.example.com:443"] {
            assert!(!scope.contains(&uri(outside)), "{outside}");
        }
    }

    #[test]
    fn an_ipv6_host_is_the_same_in_every_spelling() {
        let scope = Scope::from(origin("https://[::1]:8443"));
        assert!(scope.contains(&uri("https://[::1]:8443/")));
        assert!(scope.contains(&uri("https://[0:0:0:0:0:0:0:1]:8443/")));
        assert!(!scope.contains(&uri("https://[::1]/")));
        assert!(!scope.contains(&uri("https://[::2]:8443/")));
    }

    #[test]
    fn a_scheme_in_capitals_is_the_same_scheme() {
        let shouted =
            Uri::builder().scheme("HTTPS").authority("api.example.com").path_and_query("/").build().unwrap();
        assert!(Scope::from(origin("https://api.example.com")).contains(&shouted));
    }

    #[test]
    fn several_origins_make_one_scope_and_none_makes_an_empty_one() {
        let [a, b] = ["https://a.example", "https://b.example"].map(origin);
        for scope in [Scope::from_iter([a.clone(), b.clone()]), Scope::from(a).and(b)] {
            assert!(scope.contains(&uri("https://a.example/")) && scope.contains(&uri("https://b.example/")));
            assert!(!scope.contains(&uri("https://c.example/")));
        }
        assert!(!Scope::from_iter([]).contains(&uri("https://a.example/")));
    }

    #[test]
    fn a_predicate_narrows_by_path_what_is_in_the_scope_so_far() {
        let scope = Scope::from(origin("https://a.example"))
            .only(|uri| uri.path().starts_with("/api/"))
            .only(|uri| uri.path() != "/api/login")
            .and(origin("https://b.example"));
        assert!(scope.contains(&uri("https://a.example/api/orders")));
        assert!(!scope.contains(&uri("https://a.example/logo")));
        assert!(!scope.contains(&uri("https://a.example/api/login")));
        assert!(scope.contains(&uri("https://b.example/logo")));
        assert!(!scope.contains(&uri("https://c.example/api/orders")), "a predicate never widens");
    }

    #[test]
    fn a_predicate_sees_a_path_as_it_is_written() {
        let scope = Scope::from(origin("https://a.example")).only(|uri| uri.path().starts_with("/api/"));
        assert!(scope.contains(&uri("https://a.example/api/../admin")));
        assert!(!scope.contains(&uri("https://a.example/%61pi/orders")));
    }

    #[test]
    fn debug_lists_the_origins() {
        let scope = Scope::from(origin("https://a.example")).only(|_| true);
        assert_eq!(format!("{scope:?}"), "[Origin(https://a.example:443)]");
    }
}
