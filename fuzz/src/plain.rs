//! Origins as a person reads them.

use std::net::{Ipv4Addr, Ipv6Addr};

#[derive(Debug, PartialEq)]
pub(crate) struct Plain {
    pub(crate) scheme: String,
    host: String,
    port: u16,
}

impl Plain {
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host == Ipv6Addr::LOCALHOST.to_string()
            || self.host.parse::<Ipv4Addr>().is_ok_and(|address| address.octets()[0] == 127)
    }
}

/// Cuts a text where a person would. `None`: it is not `scheme://host`, `scheme://host:port` and what may follow.
pub(crate) fn plain(text: &str) -> Option<Plain> {
    let (scheme, rest) = text.split_once("://")?;
    let scheme = scheme.to_lowercase();
    let default = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    if authority.contains('@') {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (address.parse::<Ipv6Addr>().ok()?.to_string(), port)
        }
        None => match authority.find(':') {
            Some(at) => (authority[..at].to_lowercase(), &authority[at..]),
            None => (authority.to_lowercase(), ""),
        },
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => default,
        Some("") => default,
        Some(digits) if digits.chars().all(|digit| digit.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    Some(Plain { scheme, host, port })
}
