//! The resource server. It honours the tokens of the users' authorities, and fails as a request asks it to. The model API
//! will not do for it: it remembers every request.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::time::sleep;
use tower::BoxError;
use tower_token_refresh::test_util::ModelApi;

use crate::{token_endpoint::reset, world::World};

/// In this header a request says what is to go wrong with it.
pub(crate) const FAULT: &str = "x-fault";
/// The checksum of the body that has come.
pub(crate) const CHECKSUM: &str = "x-checksum";

/// What goes wrong with a request whose token is good.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Slow,
    Status,
    Reset,
}

impl Fault {
    pub(crate) const ALL: [Fault; 4] = [Fault::None, Fault::Slow, Fault::Status, Fault::Reset];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::None => "none",
            Fault::Slow => "slow",
            Fault::Status => "status",
            Fault::Reset => "reset",
        }
    }
}

/// Any request to `/{user}`. A bad token is refused while the body still comes.
pub(crate) async fn answer(
    world: World,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, BoxError> {
    let user = world.user_at(request.uri().path())?;
    let (head, body) = request.into_parts();
    let mut credentials = head.headers.get_all(header::AUTHORIZATION).iter();
    let token = credentials.next().and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let token = token.ok_or("a request without a bearer token")?;
    if credentials.next().is_some() {
        world.tally.violation(format_args!("{}: two credentials on one request", user.name));
    }
    let mut response = Response::new(Full::default());
    if user.issuer().authority.holder(token).as_deref() != Some(&*user.name) {
        if world.users.iter().any(|other| other.issuer().authority.is_alive(token)) {
            world.tally.violation(format_args!("{}: sent with the token of somebody else", user.name));
        }
        world.tally.count("refusals");
        tokio::spawn(body.collect());
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        return Ok(response);
    }
    let name = head.headers.get(FAULT).and_then(|value| value.to_str().ok());
    let fault = Fault::ALL.into_iter().find(|fault| Some(fault.name()) == name).ok_or("no such fault")?;
    let body = body.collect().await?.to_bytes();
    match fault {
        Fault::None => {}
        Fault::Slow => sleep(world.dice().between(0..20_000)).await,
        Fault::Status => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
        Fault::Reset => return Err(reset()),
    }
    response.headers_mut().insert(CHECKSUM, ModelApi::checksum(&body).parse()?);
    Ok(response)
}
