//! Who may see the credential where a service is bound to one origin.

use http::Uri;
use tower_token_refresh::{Origin, Scope};

use crate::{
    plain::{Plain, plain},
    runtime::run,
    shown::send,
};

/// The first line has the origins of a scope, each with the beginning of its paths behind it or without; the second an
/// origin to assume, or nothing that is one; the third the URI of a request.
///
/// A request shows the credential, and its refusal is refreshed, exactly if a naive reading of the texts finds where it
/// goes, and an origin of the scope is there. Where a URI names no host that is the assumed origin.
pub fn assumed_origins(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.splitn(3, '\n');
    let [origins, assumed, uri] = [(); 3].map(|()| lines.next().unwrap_or_default());
    let mut parts = Vec::new();
    let mut scope = Scope::from_iter([]);
    for word in origins.split(' ') {
        let (origin, folder) = split_path(word);
        let Ok(parsed) = origin.parse::<Origin>() else { continue };
        parts.push((plain(origin), folder));
        let folder = folder.to_owned();
        scope = scope.and(Scope::from(parsed).only(move |uri| uri.path().starts_with(&folder)));
    }
    let parsed = assumed.parse::<Origin>().ok();
    let assumed = parsed.as_ref().and_then(|_| plain(assumed));
    let Ok(request) = uri.parse::<Uri>() else { return };
    let (there, path) = destination(uri, assumed);
    let is_there = |(origin, folder): &(Option<Plain>, &str)| *origin == there && path.starts_with(folder);
    run(send(scope, parsed, request, there.is_some() && parts.iter().any(is_there)));
}

/// Where a request goes to.
fn destination(uri: &str, assumed: Option<Plain>) -> (Option<Plain>, &str) {
    let uri = uri.split(['?', '#']).next().unwrap_or_default();
    if uri.starts_with('/') || uri == "*" {
        return (assumed, uri);
    }
    let (origin, path) = split_path(uri);
    (plain(origin), if path.is_empty() { "/" } else { path })
}

/// Cuts a URI where its path begins.
fn split_path(uri: &str) -> (&str, &str) {
    let host = uri.find("://").map_or(0, |at| at + 3);
    let path = uri[host..].find('/').map_or(uri.len(), |at| host + at);
    uri.split_at(path)
}
