//! Full load over real sockets, while everything goes wrong: tokens end, servers fail, callers give up, users log out.
//! `soak [MINUTES]` fails when anything happens that must not.
//!
//! | checked | how |
//! |---|---|
//! | no request hangs | a watchdog for each |
//! | no session is lost | a failure that says so counts only while its user logs in or out; at the end all users are well |
//! | no unexpected error | each failure is held against what was done to its user, failed refreshes against faults |
//! | no refresh token comes again after its answer | the token endpoint remembers; half of the authorities end the family |
//! | no two refreshes of a user at once | the token endpoint sees when one comes and goes |
//! | nobody is sent as somebody else, no byte of a body is lost | tokens and checksums at the resource server |
//! | memory and descriptors stay flat | the second quarter of the time against the last |
//! | nothing is left | connections and tasks when the clients are gone |

#[path = "../kit"]
mod kit {
    pub(crate) mod arguments;
    pub(crate) mod layer;
    pub(crate) mod loopback;
}
mod api;
mod clients;
mod dice;
mod mischief;
mod requests;
mod tally;
mod token_endpoint;
mod trouble;
mod user;
mod vitals;
mod world;

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    runtime::{Builder, Handle},
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use tower::BoxError;

use self::{
    clients::Clients, kit::arguments::arguments, token_endpoint::TOKEN_FAULTS, user::FAILED_REFRESHES,
    vitals::Vitals, world::World,
};

const USERS: usize = 48;
const CALLERS: usize = 128;
const MISCHIEF_MAKERS: usize = 4;
/// How long what has ended may take to be gone.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<ExitCode, BoxError> {
    let minutes: f64 = arguments().first().map_or(Ok(30.0), |minutes| minutes.parse())?;
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(soak(minutes, seed))
}

async fn soak(minutes: f64, seed: u64) -> Result<ExitCode, BoxError> {
    let world = World::new(USERS, seed).await;
    let (open, mut still_open) = watch::channel(0);
    let clients = Clients::new(&world, &open).await?;
    // The two threads' servers wait for connections for ever.
    let tasks_before = Handle::current().metrics().num_alive_tasks();

    for number in 0..USERS {
        mischief::log_in(&world, number, &clients.sessions.get(&number), false).await?;
    }
    let end = Instant::now() + Duration::from_secs_f64(60.0 * minutes);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(requests::caller(world.clone(), clients.clone(), end));
    }
    for _ in 0..MISCHIEF_MAKERS {
        callers.spawn(mischief::maker(world.clone(), clients.clone(), end));
    }
    let vitals = Vitals::until(end).await?;
    while let Some(caller) = callers.join_next().await {
        if caller.is_err() {
            world.tally.violation("a caller has panicked");
        }
    }

    for number in 0..USERS {
        if !requests::is_well(&world, &clients, number).await {
            world.tally.violation(format_args!("user-{number} has lost the session"));
            // Where one is lost many may be, and each is waited for.
            break;
        }
        let user = &world.users[number];
        user.issuer().judge(&user.name, &world.tally);
    }
    clients.sessions.settle().await?;
    drop(clients);
    let is_gone = async {
        still_open.wait_for(|open| *open == 0).await.expect("the servers live");
        while Handle::current().metrics().num_alive_tasks() > tasks_before {
            tokio::task::yield_now().await;
        }
    };
    if timeout(PATIENCE, is_gone).await.is_err() {
        let (connections, tasks) = (*open.borrow(), Handle::current().metrics().num_alive_tasks());
        world.tally.violation(format_args!(
            "{connections} connections and {tasks} tasks are left of {tasks_before}"
        ));
    }

    if world.tally.of(FAILED_REFRESHES) > world.tally.of(TOKEN_FAULTS) {
        world.tally.violation("more refreshes have failed than were made to");
    }
    let vitals = vitals.judge(&world.tally);
    print!("{}", world.tally);
    println!(
        "soak: {} in {minutes} min, {} requests answered, {} refresh tokens presented, {} logins, {vitals}, \
         {} violations (seed {seed})",
        if world.tally.violations() == 0 { "passed" } else { "FAILED" },
        world.tally.of("requests answered"),
        world.tally.of("refresh tokens presented"),
        world.tally.of("logins"),
        world.tally.violations(),
    );
    Ok(if world.tally.violations() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
