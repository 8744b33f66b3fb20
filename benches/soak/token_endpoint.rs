//! The token endpoint: a model authority behind a socket, with faults.

use std::{future::pending, io, sync::atomic::Ordering::SeqCst, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::time::sleep;
use tower::{BoxError, ServiceExt};
use tower_token_refresh::test_util::ModelBody;

use crate::{
    dice::Dice,
    user::{Issuer, User},
    world::World,
};

/// In the tally.
pub(crate) const TOKEN_FAULTS: &str = "faults of the token endpoint";

/// What goes wrong with a refresh.
enum Fault {
    None,
    Slow(Duration),
    /// Nothing is done, and this is the answer.
    Status(StatusCode),
    /// Nothing is done, and the connection is reset.
    Reset,
    /// It is done, and the connection is reset.
    LostAnswer,
    /// Nothing, for as long as the client waits.
    Silence,
}

impl Fault {
    fn roll(dice: &mut Dice, has_grace: bool) -> Self {
        match dice.below(2000) {
            0..300 => Fault::Slow(dice.between(0..30_000)),
            300..330 => Fault::Status(StatusCode::INTERNAL_SERVER_ERROR),
            330..360 => Fault::Status(StatusCode::SERVICE_UNAVAILABLE),
            360..420 => Fault::Reset,
            420..480 if has_grace => Fault::LostAnswer,
            480 if dice.one_in(10) => Fault::Silence,
            _ => Fault::None,
        }
    }
}

/// `POST /{user}` with a refresh token.
pub(crate) async fn answer(
    world: World,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, BoxError> {
    let user = world.user_at(request.uri().path())?;
    let fault = Fault::roll(&mut world.dice(), user.has_grace);
    let form = request.into_body().collect().await?.to_bytes();
    let text = std::str::from_utf8(&form)?;
    let token = text.split('&').find_map(|pair| pair.strip_prefix("refresh_token="));
    let token = token.ok_or("a refresh without a refresh token")?;

    let issuer = user.issuer();
    if !issuer.has_issued(token) {
        // A refresh that a login has overtaken. Nobody waits for its answer.
        world.tally.count("refreshes that a login overtook");
        return Ok(status(StatusCode::BAD_REQUEST, r#"{"error":"invalid_grant"}"#));
    }
    world.tally.count("refresh tokens presented");
    if issuer.answered.lock().expect(UNBROKEN).contains(token) {
        world.tally.violation(format_args!("{}: a refresh token came again after its answer", user.name));
    }
    if issuer.seen.lock().expect(UNBROKEN).insert(token.to_owned()) {
        user.issues();
    }
    let response = under(&world, &user, &issuer, fault, form.clone()).await?;
    if response.status() == StatusCode::OK {
        issuer.answered.lock().expect(UNBROKEN).insert(token.to_owned());
    }
    Ok(response)
}

/// The answer under a fault, or the end of the connection.
async fn under(
    world: &World,
    user: &User,
    issuer: &Issuer,
    fault: Fault,
    form: Bytes,
) -> Result<Response<Full<Bytes>>, BoxError> {
    if issuer.is_asked.swap(true, SeqCst) {
        world.tally.violation(format_args!("{}: two refreshes at once", user.name));
    }
    if !matches!(fault, Fault::None | Fault::Slow(_)) {
        user.faults.happens();
        world.tally.count(TOKEN_FAULTS);
    }
    let answer = match fault {
        Fault::None => Ok(work(issuer, form).await?),
        Fault::Slow(time) => {
            sleep(time).await;
            Ok(work(issuer, form).await?)
        }
        Fault::Status(code) => Ok(status(code, "")),
        Fault::Reset | Fault::Silence => Err(reset()),
        Fault::LostAnswer => {
            work(issuer, form).await?;
            Err(reset())
        }
    };
    issuer.is_asked.store(false, SeqCst);
    if matches!(fault, Fault::Silence) {
        pending::<()>().await;
    }
    answer
}

async fn work(issuer: &Issuer, form: Bytes) -> Result<Response<Full<Bytes>>, BoxError> {
    let request = Request::post("/oauth/token")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(ModelBody::from(form))?;
    let response = issuer.authority.clone().oneshot(request).await?;
    Ok(response.map(|body| Full::from(body.bytes().clone())))
}

fn status(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn reset() -> BoxError {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

const UNBROKEN: &str = "nothing panics while it holds this";
