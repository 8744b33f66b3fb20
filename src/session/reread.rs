//! What a flight finds in the store: before it fetches, and when the authority calls the grant invalid.

use std::{future::pending, pin::pin, time::Duration};

use futures_util::future::{Either, select};
use tokio::time::{Instant, sleep};

use super::{
    ask::{Obtained, Plan},
    engine::Engine,
    flight::Flight,
    issued::Provenance,
    lease::HeldLease,
    record_head::RecordHead,
    reload::{Reloaded, Taken, reload, take, take_found},
};
use crate::{
    error::Error,
    store::{Lease, StoredToken},
    token::Token,
};

/// How long a store that fails is asked again before a refresh goes on from memory, where a sibling may have spent what that
/// has. A third of `refresh_timeout` if that is shorter, or if nobody waits.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

const SIBLING_SAVES_WITHIN: Duration = Duration::from_millis(500);
/// Whoever has the lease for less than that is about to give it back.
const LEASE_IS_BUSY_AFTER: Duration = Duration::from_millis(250);

/// What a flight finds before it may fetch.
pub(super) enum Reread {
    /// All that the refresh is for: nothing is fetched.
    Enough(Obtained),
    Base(Base),
}

/// Where a fetch sets out from.
pub(super) struct Base {
    pub(super) lease: Option<HeldLease>,
    /// Not while somebody else keeps the lease, if there is a refresh token: that somebody is spending it. A store that
    /// fails altogether stops no refresh.
    pub(super) may_fetch: bool,
    /// Why the store could not be read, if the session has nothing: that no token can be had is not believed then.
    pub(super) blind: Option<Error>,
    pub(super) head: RecordHead,
    /// The token before.
    pub(super) before: Option<StoredToken>,
}

/// Takes the lease, reads the store and saves what is owed to it. `None`: the flight has lost meanwhile.
pub(super) async fn reread(engine: &Engine, flight: &Flight, plan: &Plan) -> Option<Reread> {
    let mut patience = Patience::new();
    let lease = {
        let lease = pin!(lease(engine, flight, &mut patience));
        match select(lease, pin!(find_meanwhile(engine, plan))).await {
            Either::Left((lease, _)) => lease,
            Either::Right(_) if flight.is_lost() => return None,
            Either::Right((obtained, _)) => return Some(Reread::Enough(obtained)),
        }
    };
    if lease.is_some() {
        // Somebody else may have kept it for long, which is no failure.
        patience = Patience::new();
    }
    let is_taken = matches!(lease, Some(None));
    let lease = lease.flatten().map(|lease| HeldLease::by(flight, lease, &engine.storage));
    if flight.is_lost() {
        return None;
    }
    let (mut newest, read) = loop {
        let (newest, read) = engine.storage.newest().await;
        let is_read = engine.reported(read.clone()).is_some();
        if is_read || !patience.lasts(engine, flight).await {
            break (newest, read);
        }
    };
    if flight.is_lost() {
        return None;
    }
    let may_fetch = !is_taken || read.is_err();
    let blind = read.err().filter(|_| plan.known.current.is_none());
    if let Some(owed) = engine.storage.enqueue_owed(lease.as_ref().map(HeldLease::fence)) {
        // Reported, and tried again later.
        let _ = engine.save_at_once(owed).await;
        if flight.is_lost() {
            return None;
        }
        if engine.storage.check_settled() {
            // A login or logout is raised above what was there: the next record has to be above that. What gave way has
            // done so to a later one.
            newest = engine.newest().await.or(newest);
            if flight.is_lost() {
                return None;
            }
        }
    }
    Some(match take_found(engine, plan, newest, Provenance::Stored) {
        Taken::Enough(obtained) => Reread::Enough(obtained),
        Taken::Base(head, before) => Reread::Base(Base { lease, may_fetch, blind, head, before }),
    })
}

/// The right to refresh, from a store that may fail for a moment. `None`: it fails.
async fn lease(engine: &Engine, flight: &Flight, patience: &mut Patience) -> Option<Option<Lease>> {
    loop {
        let lease = engine.reported(engine.storage.lease().await);
        if lease.is_some() || !patience.lasts(engine, flight).await {
            return lease;
        }
    }
}

/// With a store that fails. What memory has may have been spent by a sibling.
struct Patience {
    begun: Instant,
    pause: Duration,
}

impl Patience {
    fn new() -> Self {
        Patience { begun: Instant::now(), pause: FIRST_PAUSE }
    }

    /// Waits until the store is to be asked again. False: a refresh goes on from memory.
    async fn lasts(&mut self, engine: &Engine, flight: &Flight) -> bool {
        let most = engine.limits.refresh / 3;
        let patience = if flight.is_waited_for() { most.min(PATIENCE) } else { most };
        let lasts = !flight.is_lost() && self.begun.elapsed() + self.pause <= patience;
        if lasts {
            sleep(self.pause).await;
            self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        }
        lasts
    }
}

/// A good token that is in the store while somebody else keeps the lease, for a process that has none yet: it needs no
/// lease to use it. Only then, because the number of a record is noted by whoever takes the lease, for when the file is
/// lost.
async fn find_meanwhile(engine: &Engine, plan: &Plan) -> Obtained {
    if plan.known.is_blank() {
        sleep(LEASE_IS_BUSY_AFTER).await;
        // That it could not be read is told by the look under the lease.
        let (found, _read) = engine.storage.newest().await;
        let taken = take_found(engine, plan, found, Provenance::Stored);
        if let Taken::Enough(obtained @ Obtained::Token { .. }) = taken {
            return obtained;
        }
    }
    pending().await
}

/// Whether a session that is over finds something else in the store than what it had: somebody has logged in, or out.
pub(super) async fn has_something_else(engine: &Engine, plan: &Plan) -> bool {
    let (newest, read) = engine.storage.newest().await;
    if engine.reported(read).is_none() {
        return false;
    }
    match take_found(engine, plan, newest, Provenance::Stored) {
        Taken::Enough(_) => true,
        Taken::Base(_, before) => {
            let refresh_token = before.and_then(|before| before.refresh);
            refresh_token.is_some_and(|refresh_token| plan.may_go_on_with(&refresh_token))
        }
    }
}

/// The authority called the grant invalid. Before that is believed, the store is looked into twice: somebody who shares
/// it may just have spent the refresh token, and be about to save the next one.
pub(super) async fn look_for_a_sibling(
    engine: &Engine,
    flight: &Flight,
    plan: &Plan,
    base: RecordHead,
) -> Option<Obtained> {
    for pause in [Duration::ZERO, SIBLING_SAVES_WITHIN] {
        sleep(pause).await;
        let reloaded = reload(base, &plan.known, engine.newest().await);
        if flight.is_lost() {
            // The refresh token of the replacement, or login, is not the newest any more, or it is not theirs any more.
            let is_over = match &reloaded {
                Reloaded::Nothing(_) => true,
                Reloaded::Token(_, token) | Reloaded::Replaced(_, token) => {
                    flight.spends(token.refresh.as_ref())
                }
                Reloaded::Ended(_) => false,
            };
            if !is_over {
                return Some(Obtained::Nothing);
            }
        } else if let Taken::Enough(obtained) = take(engine, plan, reloaded, Provenance::Stored) {
            return Some(obtained);
        }
    }
    None
}

/// What somebody who shares the store has put in the place of the session that a refresh was of: another login, or a logout.
pub(super) async fn look_for_another_session(
    engine: &Engine,
    base: RecordHead,
    is_ours: impl Fn(&Token) -> bool,
) -> Option<Obtained> {
    let found = engine.newest().await.filter(|found| found.revision > base.revision)?;
    let record = found.head();
    match found.token {
        None => Some(Obtained::Ended { record }),
        Some(_) if found.session == base.session => None,
        Some(token) if is_ours(&token.to_token()) => None,
        Some(token) => {
            let fresh = engine.reported(engine.sendable(token.to_token(), Provenance::Stored))?;
            Some(Obtained::Replaced { fresh, record })
        }
    }
}
