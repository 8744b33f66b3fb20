//! The callers: each sends one request after another, and holds each answer against what it has asked for.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use tokio::{
    task::yield_now,
    time::{Instant, sleep, timeout},
};
use tower::{BoxError, ServiceExt};
use tower_token_refresh::{Error, ErrorKind, NotResent, Outcome, test_util::ModelApi};

use crate::{
    api::{CHECKSUM, FAULT, Fault},
    clients::Clients,
    dice::Dice,
    trouble::Since,
    user::User,
    world::World,
};

/// More than any request takes; one that is not over then is hung.
const WATCHDOG: Duration = Duration::from_secs(60);
const FRAME: usize = 16 * 1024;
/// What is kept of a body is 64 KiB by default.
const REPLAYABLE: usize = 4 * FRAME;

/// One caller, until then.
pub(crate) async fn caller(world: World, clients: Clients, end: Instant) {
    let mut dice = world.dice();
    while Instant::now() < end {
        let number = dice.below(world.users.len() as u64) as usize;
        let patience = dice.one_in(10).then(|| dice.between(0..4000));
        let request = request(&world, &clients, number, &mut dice);
        tokio::select! {
            over = timeout(WATCHDOG, request) => {
                if over.is_err() {
                    world.tally.violation(format_args!("user-{number}: a request hangs"));
                }
            }
            // A caller that gives up, wherever its request is.
            () = async { sleep(patience.unwrap_or(2 * WATCHDOG)).await } => world.tally.count("requests given up"),
        }
    }
}

async fn request(world: &World, clients: &Clients, number: usize, dice: &mut Dice) {
    let user = &world.users[number];
    let route = &clients.routes[dice.below(2) as usize];
    let fault = match dice.below(100) {
        0..5 => Fault::Slow,
        5..8 => Fault::Status,
        8..10 => Fault::Reset,
        _ => Fault::None,
    };
    let seen =
        Seen { fault, changes: user.changes(), endings: user.endings.begin(), faults: user.faults.begin() };
    let builder = Request::builder()
        .uri(format!("{}/{}", route.origin, user.name))
        .header(FAULT, fault.name())
        .extension(clients.sessions.get(&number));
    let (result, sent) = match dice.below(10) {
        0..4 => {
            let request = builder.body(Full::default()).expect("a request");
            (route.whole.clone().oneshot(request).await, Bytes::new())
        }
        4..8 => {
            let body = body(1 + dice.below(REPLAYABLE as u64) as usize);
            let request = builder.method("POST").body(Full::from(body.clone())).expect("a request");
            (route.whole.clone().oneshot(request).await, body)
        }
        _ => {
            let body = body(1 + dice.below(3 * REPLAYABLE as u64) as usize);
            let frames: Vec<Bytes> =
                (0..body.len()).step_by(FRAME).map(|at| body.slice(at..body.len().min(at + FRAME))).collect();
            let frames = stream::iter(frames).then(|frame| async {
                yield_now().await;
                Ok::<_, Infallible>(Frame::data(frame))
            });
            let request =
                builder.method("POST").body(BodyExt::boxed(StreamBody::new(frames))).expect("a request");
            (route.streamed.clone().oneshot(request).await, body)
        }
    };
    world.tally.count("requests answered");
    match seen.judge(user, result, &sent).await {
        Ok(what) => world.tally.count(what),
        Err(what) => world.tally.violation(format_args!("{} over {}: {what}", user.name, route.http)),
    }
}

fn body(length: usize) -> Bytes {
    (0..length).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

/// What was known when a request began.
struct Seen {
    fault: Fault,
    changes: usize,
    endings: Since,
    faults: Since,
}

impl Seen {
    /// Whether the answer is one that may come, and which.
    async fn judge(
        &self,
        user: &User,
        result: Result<Response<Incoming>, BoxError>,
        sent: &Bytes,
    ) -> Result<&'static str, String> {
        if let Some(error) = Error::of(&result) {
            return match error.kind() {
                ErrorKind::SessionChanged | ErrorKind::SessionEnded | ErrorKind::LoginRequired
                    if user.has_changed_since(self.changes) =>
                {
                    Ok("requests of somebody who logged in or out meanwhile")
                }
                ErrorKind::Transient if user.faults.excuses(&self.faults) => {
                    // The session's time passes faster than the soak's.
                    user.endings.happens();
                    user.clock.advance(Duration::from_secs(40));
                    Ok("requests that a fault of the token endpoint failed")
                }
                _ => Err(format!("{error:?}")),
            };
        }
        let response = match result {
            Ok(response) => response,
            Err(_) if self.fault == Fault::Reset => return Ok("requests whose connection was reset"),
            Err(error) if waited_for_a_connection_given_up(&*error) => {
                return Ok("requests that waited for a connection whose caller gave up");
            }
            Err(error) => return Err(chain(&*error)),
        };
        match response.status() {
            StatusCode::OK if matches!(self.fault, Fault::None | Fault::Slow) => {
                let checksum = response.headers().get(CHECKSUM).and_then(|value| value.to_str().ok());
                if checksum != Some(&*ModelApi::checksum(sent)) {
                    return Err(format!("of {} bytes others have come", sent.len()));
                }
                let resent =
                    response.extensions().get().is_some_and(|outcome: &Outcome| outcome.attempts() == 2);
                response.into_body().collect().await.map_err(|error| error.to_string())?;
                Ok(if resent {
                    "requests accepted when they were sent again"
                } else {
                    "requests accepted at once"
                })
            }
            StatusCode::INTERNAL_SERVER_ERROR if self.fault == Fault::Status => {
                Ok("requests answered with a 500")
            }
            StatusCode::UNAUTHORIZED => self.refused(user, response.extensions().get(), sent.len()),
            status => Err(format!("the answer is {status}")),
        }
    }

    fn refused(&self, user: &User, outcome: Option<&Outcome>, sent: usize) -> Result<&'static str, String> {
        let outcome = outcome.ok_or("a refusal without an outcome")?;
        let is_excused = user.endings.excuses(&self.endings) || user.has_changed_since(self.changes);
        match (outcome.attempts(), outcome.not_resent()) {
            (2, None) if is_excused => Ok("requests refused twice: the second token was revoked as well"),
            (1, Some(NotResent::Body(_))) if is_excused && sent > REPLAYABLE => {
                Ok("uploads past the limit, refused")
            }
            (1, Some(NotResent::Damped)) if is_excused => Ok("requests refused and damped"),
            _ => Err(format!("refused: {outcome:?}, excused: {is_excused}, {sent} bytes")),
        }
    }
}

/// Over HTTP/2 hyper-util's client lets one caller connect and the rest wait, and fails all who wait when that one gives up
/// (hyperium/hyper#3199). Nothing of them has been sent. Any other failure to connect has an error of the system in it.
fn waited_for_a_connection_given_up(error: &(dyn std::error::Error + 'static)) -> bool {
    let of_client = error.downcast_ref::<legacy::Error>().filter(|error| error.is_connect());
    of_client
        .and_then(std::error::Error::source)
        .is_some_and(|cause| cause.to_string() == "request was canceled")
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut link = error.source();
    while let Some(error) = link {
        text.push_str(": ");
        text.push_str(&error.to_string());
        link = error.source();
    }
    text
}

/// Whether a user still has a session that works, when all mischief is over.
pub(crate) async fn is_well(world: &World, clients: &Clients, number: usize) -> bool {
    let user = &world.users[number];
    let route = &clients.routes[0];
    for _ in 0..100 {
        // Past every cooling.
        user.clock.advance(Duration::from_secs(1000));
        let request = Request::get(format!("{}/{}", route.origin, user.name))
            .header(FAULT, Fault::None.name())
            .extension(clients.sessions.get(&number))
            .body(Full::default());
        let call = route.whole.clone().oneshot(request.expect("a request"));
        match timeout(WATCHDOG, call).await {
            Ok(Ok(response)) if response.status() == StatusCode::OK => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}
