use super::{JsonByDefaultLayer, Preset, VALID};
use crate::{
    classify::{Classify, Codes, ErrorCode, Standard, Statuses},
    peek::{
        grpc::{GrpcStatusLayer, GrpcUnauthenticated},
        json::JsonCodeLayer,
    },
    placement::Placement,
};

/// A mini program's own server: `Authorization: Basic base64(token + ":")`, a 403 (or a 401, see [`Standard`]) for a
/// refused token, error codes in `error_code` for [`Tips`](crate::Tips), and JSON as the content type of requests that
/// name none.
///
/// A 403 for want of a permission counts as a refusal, too. It costs a login and a second send, once a minute at most in
/// the long run. If the server has a code for a refused token, name it:
///
/// ```
/// use tower_token_refresh::{Classify, Codes, Origin, Statuses, preset};
/// # use tower_token_refresh::{Token, source_fn};
/// # let source = source_fn(|_| async { Ok(Token::new("t")) });
///
/// let server = preset::mini_program();
/// let session = server.session(source).build();
/// let (layer, below) = server.layer(session, "https://api.example.com".parse::<Origin>()?);
/// let by_code = Statuses::reject([401])?.or(Codes::reject([10006])?.at([403])?);
/// let layers = (layer.classifier(by_code), below);
/// # let _ = layers;
/// # Ok::<(), tower_token_refresh::Error>(())
/// ```
pub fn mini_program() -> Preset<(JsonByDefaultLayer, JsonCodeLayer)> {
    Preset::new(Placement::basic(), Standard, (JsonByDefaultLayer::new(), JsonCodeLayer::new()))
}

/// WeChat's server API: `?access_token=`, and `errcode` 40001, 40014 or 42001 at status 200.
///
/// 40001 can also mean a wrong secret, so alone it is only a suspicion, which costs a bounded number of fetches.
pub fn wechat() -> Preset<JsonCodeLayer> {
    let suspect = Codes::suspect([40_001]).expect(VALID);
    let classifier = Codes::reject([40_014, 42_001]).expect(VALID).or(suspect);
    Preset::new(access_token(), classifier, at("/errcode").content_type("text/plain").expect(VALID))
}

/// WeCom: `?access_token=`, and `errcode` 42001 or 40014 at status 200.
pub fn wecom() -> Preset<JsonCodeLayer> {
    Preset::new(access_token(), Codes::reject([40_014, 42_001]).expect(VALID), at("/errcode"))
}

/// The old API of DingTalk: `?access_token=`, and 40014 at status 200: in `errcode`, or, in all of `/topapi/`, as the
/// text of `sub_code` beside an `errcode` of 88.
pub fn dingtalk_old() -> Preset<JsonCodeLayer> {
    let refused = Codes::reject([ErrorCode::from(40_014), "40014".into()]).expect(VALID);
    let codes = JsonCodeLayer::new().pointers(["/sub_code", "/errcode"]).expect(VALID);
    Preset::new(access_token(), refused, codes)
}

/// The new API of DingTalk: a header of its own, and `code` `InvalidAuthentication` at status 400.
pub fn dingtalk() -> Preset<JsonCodeLayer> {
    let placement = Placement::header("x-acs-dingtalk-access-token").expect(VALID);
    let refused = Codes::reject(["InvalidAuthentication"]).and_then(|codes| codes.at([400])).expect(VALID);
    // Below 400, a `code` is the caller's own.
    Preset::new(placement, refused, at("/code").statuses(400..600).expect(VALID))
}

/// Feishu with a tenant's token: a bearer token, and `code` 99991663 (or 61, 64, 71, 77 at its end).
pub fn feishu() -> Preset<JsonCodeLayer> {
    let refused = [99_991_663, 99_991_661, 99_991_664, 99_991_671, 99_991_677];
    Preset::new(Placement::bearer(), Codes::reject(refused).expect(VALID), at("/code"))
}

/// Slack with tokens that rotate: a bearer token, and `error` `token_expired` at status 200.
pub fn slack() -> Preset<JsonCodeLayer> {
    Preset::new(Placement::bearer(), Codes::reject(["token_expired"]).expect(VALID), at("/error"))
}

/// A resource server of OAuth 2 (RFC 6750): a bearer token, and what [`Standard`] takes for a refusal.
pub fn oauth2() -> Preset<()> {
    Preset::new(Placement::bearer(), Standard, ())
}

/// gRPC: a bearer token in the metadata, and `UNAUTHENTICATED` in headers, or in the trailers of calls that are marked
/// [`Unary`](crate::peek::grpc::Unary); or HTTP's 401, by which proxies in between say the same.
///
/// The URIs of tonic's calls name no origin, and without one a call gets no token. Say which it is:
///
/// ```
/// use tower_token_refresh::{Origin, preset};
/// # use tower_token_refresh::{Token, source_fn};
/// # let source = source_fn(|_| async { Ok(Token::new("t")) });
///
/// let grpc = preset::grpc();
/// let session = grpc.session(source).build();
/// let origin: Origin = "https://grpc.example.com".parse()?;
/// let (layer, below) = grpc.layer(session, origin.clone());
/// let layers = (layer.assume_origin(origin), below);
/// # let _ = layers;
/// # Ok::<(), tower_token_refresh::Error>(())
/// ```
///
/// What else belongs below these layers for tonic is said [there](crate::peek::grpc).
pub fn grpc() -> Preset<GrpcStatusLayer> {
    let classifier = Statuses::reject([401]).expect(VALID).or(GrpcUnauthenticated);
    Preset::new(Placement::bearer(), classifier, GrpcStatusLayer::new())
}

fn access_token() -> Placement {
    Placement::query("access_token").expect(VALID)
}

fn at(pointer: &str) -> JsonCodeLayer {
    JsonCodeLayer::new().pointers([pointer]).expect(VALID)
}
