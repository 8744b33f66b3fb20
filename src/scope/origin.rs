use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use http::Uri;

use crate::error::Error;

/// A scheme, a host and a port: `https://api.example.com`, the same as `https://API.example.com:443/`.
///
/// # Errors
///
/// Parsing refuses, and says why:
///
/// 1. what is not a URI, has no scheme, or another than `https` and `http`;
/// 2. a path other than `/`, a query, a fragment, user information: they would promise a limit that an origin does
///    not set (see [`Scope::only`](super::Scope::only) for paths);
/// 3. a host that is not a name of ASCII letters, digits, `-`, `_` and `.`, or an IP address. There are no wildcards;
///    an international name is written in its `xn--` form;
/// 4. plain `http`, unless the host is this machine: `localhost`, `127.0.0.0/8`, `[::1]`. A name below `localhost` is
///    none, because some resolvers ask others for it. For other hosts there is
///    [`danger_plain_http`](Self::danger_plain_http).
///
/// A host with a trailing dot is another origin than the one without, as in browsers (RFC 6454 §4).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: Scheme,
    host: Host,
    port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    Http,
    Https,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Host {
    /// A name or an IPv4 address, in lower case.
    Name(Box<str>),
    V6(Ipv6Addr),
}

impl Origin {
    /// An origin that may be plain `http` although its host is not this machine.
    ///
    /// # Security
    ///
    /// Over plain `http` everybody on the way can read and keep the credential. This is for networks that encrypt
    /// below HTTP, such as a service mesh.
    ///
    /// # Errors
    ///
    /// As [`Origin`], except for the plain `http`.
    pub fn danger_plain_http(text: &str) -> Result<Self, Error> {
        if text.contains('#') {
            return Err(Error::unfit(
                "an origin has no fragment: write `https://host` or `https://host:port`",
            ));
        }
        match text.parse() {
            Ok(uri) => Self::of(&uri),
            Err(_) => Err(Error::unfit("an origin is written `https://host` or `https://host:port`")),
        }
    }

    fn of(uri: &Uri) -> Result<Self, Error> {
        if uri.scheme().is_none() {
            return Err(Error::unfit(
                "an origin needs its scheme: write `https://host` or `https://host:port`",
            ));
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(Error::unfit(
                "an origin has no path: write `https://host`, and narrow it with `Scope::only`",
            ));
        }
        if uri.query().is_some() {
            return Err(Error::unfit("an origin has no query: write `https://host` or `https://host:port`"));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(Error::unfit(
                "an origin has no user information: write `https://host` or `https://host:port`",
            ));
        }
        let scheme =
            Scheme::of(uri).ok_or_else(|| Error::unfit("the scheme of an origin is `https` or `http`"))?;
        let (_, host, port) = target(uri).ok_or_else(|| {
            Error::unfit("the port of an origin is a number up to 65535, or left out for the default")
        })?;
        Ok(Origin { scheme, host: Host::parse(host)?, port })
    }

    #[inline]
    pub(super) fn is_https(&self) -> bool {
        self.scheme == Scheme::Https
    }

    fn secure(self) -> Result<Self, Error> {
        if self.scheme == Scheme::Http && !self.host.is_loopback() {
            return Err(Error::unfit(
                "plain http is allowed for this machine only: write `https://`, or use `Origin::danger_plain_http`",
            ));
        }
        Ok(self)
    }

    pub(super) fn is(&self, (scheme, host, port): Target<'_>) -> bool {
        self.port == port && self.scheme == scheme && self.host.is(host)
    }

    /// As in a URI: without the scheme's own port.
    pub(super) fn authority(&self) -> String {
        let mut authority = match &self.host {
            Host::Name(name) => name.to_string(),
            Host::V6(address) => format!("[{address}]"),
        };
        if self.port != self.scheme.default_port() {
            authority.push_str(&format!(":{}", self.port));
        }
        authority
    }
}

impl FromStr for Origin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::danger_plain_http(text)?.secure()
    }
}

impl TryFrom<&Uri> for Origin {
    type Error = Error;

    fn try_from(uri: &Uri) -> Result<Self, Error> {
        Self::of(uri)?.secure()
    }
}

impl fmt::Display for Origin {
    /// With the port always, so that two origins are equal when their texts are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        match &self.host {
            Host::Name(name) => write!(f, "{scheme}://{name}:{}", self.port),
            Host::V6(address) => write!(f, "{scheme}://[{address}]:{}", self.port),
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({self})")
    }
}

impl Scheme {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?;
        if scheme.eq_ignore_ascii_case("https") {
            Some(Scheme::Https)
        } else if scheme.eq_ignore_ascii_case("http") {
            Some(Scheme::Http)
        } else {
            None
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl Host {
    fn parse(host: &str) -> Result<Self, Error> {
        if host.starts_with('[') {
            return match address_v6(host) {
                Some(address) => Ok(Host::V6(address)),
                None => Err(Error::unfit("the host in brackets is not an IPv6 address without a zone")),
            };
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_name) {
            return Err(Error::unfit(
                "the host of an origin is a name of ASCII letters, digits, `-`, `_` and `.`, or an IP address",
            ));
        }
        Ok(Host::Name(host.to_ascii_lowercase().into()))
    }

    fn is(&self, host: &str) -> bool {
        match self {
            Host::Name(name) => name.eq_ignore_ascii_case(host),
            Host::V6(address) => address_v6(host) == Some(*address),
        }
    }

    fn is_loopback(&self) -> bool {
        match self {
            Host::Name(name) => {
                &**name == "localhost" || name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
            }
            Host::V6(address) => address.is_loopback(),
        }
    }
}

/// Whether a URI names another machine without TLS on the way to it.
#[cfg(feature = "json")]
pub(crate) fn is_in_the_clear(uri: &Uri) -> bool {
    // What is not understood may be understood otherwise by a client.
    let is_here =
        || target(uri).is_some_and(|(_, host, _)| Host::parse(host).is_ok_and(|host| host.is_loopback()));
    Scheme::of(uri) == Some(Scheme::Http) && !is_here()
}

/// Scheme, host as written and port.
pub(super) type Target<'a> = (Scheme, &'a str, u16);

/// That of a URI, if it has an authority and its port is one. User information is left in the host, which then equals the
/// host of no origin.
pub(super) fn target(uri: &Uri) -> Option<Target<'_>> {
    let scheme = Scheme::of(uri)?;
    let authority = uri.authority()?.as_str();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port), // else a colon inside `[::1]`
        _ => (authority, ""),
    };
    let port = match port {
        "" => scheme.default_port(),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    Some((scheme, host, port))
}

fn address_v6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::error::ErrorKind;

    pub(in crate::scope) fn origin(text: &str) -> Origin {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    pub(in crate::scope) fn uri(text: &str) -> Uri {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn an_origin_is_shown_in_lower_case_with_its_port() {
        for (text, shown) in [
            ("https://api.example.com", "https://api.example.com:443"),
            ("HTTPS://API.Example.COM/", "https://api.example.com:443"),
            ("https://api.example.com:", "https://api.example.com:443"),
            ("https://api.example.com:0443", "https://api.example.com:443"),
            ("https://api.example.com:8443", "https://api.example.com:8443"),
            ("https://my_api.internal", "https://my_api.internal:443"),
            ("https://10.0.0.1", "https://10.0.0.1:443"),
            ("https://[2001:DB8:0::1]", "https://[2001:db8::1]:443"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://127.0.0.1", "http://127.0.0.1:80"),
        ] {
            assert_eq!(origin(text).to_string(), shown);
            assert_eq!(origin(shown), origin(text), "{shown} is read back");
            assert_eq!(Origin::try_from(&uri(text)).unwrap(), origin(text), "{text} as a URI");
        }
    }

    #[test]
    fn equal_origins_hash_alike() {
        let origins =
            ["https://a.example", "https://A.example:443", "https://[::1]", "https://[0:0::1]:443/"];
        assert_eq!(origins.map(origin).into_iter().collect::<HashSet<_>>().len(), 2);
    }

    #[test]
    fn a_refused_origin_says_what_is_wrong() {
        for (text, word) in [
            ("", "written"),
            ("https://", "written"),
            ("https:///path", "written"),
            ("https://[::1", "written"),
            ("https://müller.example", "written"),
            ("api.example.com", "scheme"),
            ("api.example.com:443", "scheme"),
            ("/orders", "scheme"),
            ("ftp://api.example.com", "`https` or `http`"),
            ("wss://api.example.com", "`https` or `http`"),
            ("https://api.example.com/v1", "path"),
            ("https://api.example.com//", "path"),
            ("https://api.example.com?a=b", "query"),
            ("https://api.example.com/?", "query"),
            ("https://api.example.com#top", "fragment"),
            ("https://api@evil.example", "user information"),
            ("https://name:word@api.example.com", "user information"),
            ("https://api.example.com:99999", "port"),
            ("https://api.example.com:+443", "port"),
            ("https://:443", "host"),
            ("https://*.example.com", "host"),
            ("https://a,b", "host"),
            ("https://[v1.x]", "IPv6"),
            ("http://api.example.com", "plain http"),
        ] {
            let error = text.parse::<Origin>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidValue, "{text}");
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
    }
}
