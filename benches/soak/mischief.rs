//! What happens to the users meanwhile: their tokens are revoked or expire, they log out and in.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tower_token_refresh::{Error, Session};

use crate::{clients::Clients, world::World};

const WATCHDOG: Duration = Duration::from_secs(60);

/// One mischief after another, until then.
pub(crate) async fn maker(world: World, clients: Clients, end: Instant) {
    let mut dice = world.dice();
    while Instant::now() < end {
        sleep(dice.between(500..4000)).await;
        let number = dice.below(world.users.len() as u64) as usize;
        let user = &world.users[number];
        match dice.below(100) {
            0..40 => {
                user.endings.happens();
                user.issuer().authority.revoke_access();
                world.tally.count("revocations");
            }
            40..90 => {
                // Up to a renewal, or past the end.
                user.endings.happens();
                user.clock.advance(Duration::from_secs(dice.below(200)));
                world.tally.count("times that a clock moved on");
            }
            roll => {
                let session = clients.sessions.get(&number);
                let change = log_in(&world, number, &session, roll % 2 == 0);
                match timeout(WATCHDOG, change).await {
                    Ok(Ok(())) => world.tally.count("logins"),
                    Ok(Err(error)) => {
                        world.tally.violation(format_args!("{}: a login failed: {error:?}", user.name))
                    }
                    Err(_) => world.tally.violation(format_args!("{}: a login hangs", user.name)),
                }
            }
        }
    }
}

/// Logs a user in, at an authority that knows nothing of what was before.
pub(crate) async fn log_in(
    world: &World,
    number: usize,
    session: &Session,
    out_first: bool,
) -> Result<(), Error> {
    let user = &world.users[number];
    let _alone = user.changing.lock().await;
    user.change_begins_or_ends();
    if out_first {
        session.logout().await?;
    }
    let token = user.log_in_anew(&world.tally).await;
    let result = session.login(token).await;
    user.change_begins_or_ends();
    result
}
