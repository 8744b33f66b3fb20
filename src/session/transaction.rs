//! A refresh from its start to its end: lease, reload, fetch, save, publish.
//!
//! Two tasks: one does the work, the other watches over it with a timer of its own, because the first may block.
//! Whether the result is still wanted is asked after every await and before the fetch.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
};

use futures_util::{
    FutureExt,
    future::{Either, select},
};
use tokio::{runtime::Handle, task::JoinError};

use super::{
    ask::{Failure, Known, Obtained, Plan},
    engine::Engine,
    flight::{Flight, Guard},
    issued::{Issued, Provenance},
    kernel::Finder,
    lease::HeldLease,
    record_head::RecordHead,
    reread::{Base, Reread, has_something_else, look_for_a_sibling, look_for_another_session, reread},
    siblings,
    storage::is_caused_by,
};
use crate::{
    error::{Error, ErrorKind},
    panics::discard,
    secret::Secret,
    source::{FailureClass, FetchContext, FetchError},
    store::{StoredToken, Superseded},
    sync::task,
    timer::{limit, within},
    token::Token,
};

/// Starts the flight's tasks.
pub(crate) fn launch(engine: Arc<Engine>, runtime: &Handle, flight: Flight, plan: Plan) {
    // First: a panic from now on leaves no flight in the slot for ever.
    let guard = Arc::new(flight.guard(engine.pulse.clone()));
    siblings::follow(&engine, runtime);
    runtime.spawn(task(watch_over(guard, engine, flight, plan)));
}

async fn watch_over(guard: Arc<Guard>, engine: Arc<Engine>, flight: Flight, plan: Plan) {
    let deadline = match limit(engine.limits.refresh) {
        Ok(deadline) => deadline,
        Err(error) => return engine.fail(&flight, Failure::transient(error)),
    };
    // Where a source blocks its thread this task may be dropped before that one: it is there until both are gone.
    let mut refreshing = tokio::spawn(task(refresh(guard.clone(), engine.clone(), flight.clone(), plan)));
    flight.set_fetch(refreshing.abort_handle());
    let ended = match select(&mut refreshing, deadline).await {
        Either::Left((ended, _)) => ended,
        Either::Right(_) => {
            engine.make_overdue(&flight, flight.late());
            // In full: where the process was stopped, the authority may have been asked just now.
            match within(engine.limits.abandon.saturating_sub(engine.limits.refresh), &mut refreshing).await {
                Some(ended) => ended,
                None => {
                    flight.abort();
                    // A source that blocks its thread cannot be dropped; no other fetch may run beside it.
                    refreshing.await
                }
            }
        }
    };
    if let Err(ended) = ended {
        // Else it has ended with the runtime, as this task does: that is no failure, and the guard tells the waiters.
        if ended.is_panic() || flight.is_aborted() {
            engine.fail(&flight, Failure::of_task(&ended));
        }
    }
}

/// Obtains a token and puts it into use. The observers, which are told of that, or of a panic, may block as a source
/// may.
async fn refresh(_guard: Arc<Guard>, engine: Arc<Engine>, flight: Flight, plan: Plan) {
    let obtaining = AssertUnwindSafe(obtain(engine.clone(), flight.clone(), plan));
    let obtained = obtaining.catch_unwind().await.unwrap_or_else(|thrown| {
        discard(thrown);
        Err(Failure::of_panic())
    });
    match obtained {
        Ok(obtained) => {
            engine.conclude(Finder::Flight(&flight), obtained);
        }
        Err(failure) => engine.fail(&flight, failure),
    }
}

async fn obtain(engine: Arc<Engine>, flight: Flight, plan: Plan) -> Result<Obtained, Failure> {
    if let Some(over) = flight.over() {
        if !has_something_else(&engine, &plan).await {
            return Err(Failure::of_the_end(over));
        }
        if flight.is_lost() {
            return Ok(Obtained::Nothing);
        }
    }
    let Base { lease, may_fetch, blind, head: base, before } = match reread(&engine, &flight, &plan).await {
        None => return Ok(Obtained::Nothing),
        Some(Reread::Enough(obtained)) => {
            flight.set_found(plan.known.is_blank());
            flight.revive();
            return Ok(obtained);
        }
        Some(Reread::Base(base)) => base,
    };
    let stored = before.as_ref().and_then(|before| before.refresh.clone());
    let stored = stored.filter(|stored| !stored.is_among(&plan.refused));
    if let Some(over) = flight.over() {
        // What the first look has found may be gone by now, because somebody else had the lease.
        if !stored.as_ref().is_some_and(|stored| plan.may_go_on_with(stored)) {
            return Err(Failure::of_the_end(over));
        }
        flight.revive();
    }
    if !may_fetch && stored.is_some() {
        let taken = "another holder of the store's lease is refreshing this token";
        return Err(Failure::transient(Error::new(ErrorKind::Transient, taken)));
    }
    let is_dead = before.as_ref().is_some_and(|before| before.is_refresh_dead(engine.clock.exact()));
    let Some(Asked { presented, answer }) = fetch(&engine, &flight, &plan, stored, is_dead).await else {
        return Ok(Obtained::Nothing);
    };
    let (token, provenance, failure) = match answer {
        Ok((token, provenance)) => (token, provenance, None),
        Err(mut error) if error.class() != FailureClass::LoginRequired => match error.refresh_token.take() {
            Some(next) => (Token::from_refresh_token(next), Provenance::New, Some(Failure::of(error))),
            None => return Err(Failure::of(error)),
        },
        // No sibling can have spent what was not presented.
        Err(error) if presented.is_none() => {
            return Err(match blind {
                Some(why) => {
                    let unread = "the stored token could not be read, and the source has no other way";
                    Failure::transient(Error::with_cause(ErrorKind::Store, unread, why))
                }
                None => Failure::of(error),
            });
        }
        Err(error) => {
            let sibling = look_for_a_sibling(&engine, &flight, &plan, base).await;
            return sibling.ok_or_else(|| Failure::of(error));
        }
    };
    let fetched = Fetched { token, provenance, failure, presented, base, before };
    put_into_use(&engine, &flight, &plan, lease, fetched).await
}

/// What the authority has answered, what was presented to it, and what that refresh was of.
struct Fetched {
    token: Token,
    provenance: Provenance,
    /// What the source says of a token that is nothing but the next refresh token.
    failure: Option<Failure>,
    presented: Option<Secret>,
    base: RecordHead,
    before: Option<StoredToken>,
}

/// Saves and publishes what was fetched, as long as somebody wants it.
async fn put_into_use(
    engine: &Engine,
    flight: &Flight,
    plan: &Plan,
    lease: Option<HeldLease>,
    Fetched { token, provenance, failure, presented, base, before }: Fetched,
) -> Result<Obtained, Failure> {
    let fence = lease.as_ref().map(HeldLease::fence);
    let give_up = |token| give_up(engine, flight, plan, presented.as_ref(), token, fence);
    if flight.is_lost() {
        return Ok(give_up(token).await);
    }
    // It has come just now, whichever session the source has it from.
    let mut whole = token.clone().refresh_received_at(None);
    if whole.keeps_refresh_token() {
        whole = whole.refresh_token(presented.clone());
    }
    // Whoever has presented a refresh token may have had the token prolonged.
    let current = plan.known.current.as_ref().filter(|_| provenance == Provenance::Unrefreshed);
    if let Some(life) = current.and_then(|current| current.life_of(&whole, engine.clock.exact())) {
        whole = whole.expires_in(life);
    }
    let fresh = engine.sendable(whole, provenance);
    let to_save = match &fresh {
        Ok(fresh) => Some(fresh.stored()),
        Err(_unusable) => before.clone().and_then(|before| before.rotated(&token)),
    };
    let head = engine.storage.following(base, before.as_ref());
    let mut superseded_by = None;
    if let Some(to_save) = to_save {
        let record = head.record(Some(to_save));
        let Some(written) = engine.storage.enqueue_refreshed(record, before, fence, Some(flight.clone()))
        else {
            return Ok(give_up(token).await);
        };
        // One that failed was reported and stays owed; the token is used all the same, unless somebody who shares the store
        // has logged in or out since.
        let saved = engine.save_at_once(written).await;
        if saved.is_err_and(|error| is_caused_by::<Superseded>(&error)) {
            let is_ours = |found: &Token| shares_a_grant(found, &token, presented.as_ref());
            superseded_by = look_for_another_session(engine, base, is_ours).await;
        }
    }
    if flight.is_lost() {
        return Ok(give_up(token).await);
    }
    if let Some(later) = superseded_by {
        engine.revoker.discard(token);
        return Ok(later);
    }
    let fresh = fresh.map_err(|unusable| failure.unwrap_or_else(|| Failure::transient(unusable)))?;
    // Foreign code may run then, which is not to come between a change and its announcement.
    drop(lease);
    Ok(match engine.publish_fetched(flight, fresh, head) {
        Some(change) => Obtained::Fetched(change),
        None => give_up(token).await,
    })
}

/// The end of a fetch.
struct Asked {
    /// The refresh token that the source was given last.
    presented: Option<Secret>,
    answer: Result<(Token, Provenance), FetchError>,
}

/// Asks the source for a token. A refresh token that is dead by the clock is left out, and presented where the source has no
/// other way: the clock may be wrong, or may have been, and only the authority ends a session. `None`: the flight has lost
/// before.
async fn fetch(
    engine: &Engine,
    flight: &Flight,
    plan: &Plan,
    stored: Option<Secret>,
    is_dead: bool,
) -> Option<Asked> {
    let mut presented = stored.clone().filter(|_| !is_dead);
    // A sibling may have saved the one that is presented, which memory has not seen, after it had spent memory's.
    let known = plan.known.current.as_ref().and_then(|known| known.token().refresh().cloned());
    let mut refused = None;
    loop {
        let spends = presented.iter().flat_map(|presented| known.iter().chain([presented]));
        if !flight.begin_fetch(spends.cloned().collect()) {
            return None;
        }
        let context = FetchContext {
            refresh_token: presented.clone(),
            reads: Arc::default(),
            cause: plan.cause,
            fruitless: plan.known.current.as_ref().map_or(0, |token| token.fruitless_refreshes()),
            mark: engine.mark(),
            #[cfg(feature = "json")]
            last_change: engine.last_change(),
            has_asked: refused.is_some(),
        };
        let reads = context.reads.clone();
        let fetched = engine.mark().around(|| engine.source.fetch(context)).await;
        let provenance = if reads.load(Ordering::Relaxed) == 0 {
            flight.forget_spent();
            Provenance::Unrefreshed
        } else {
            Provenance::New
        };
        let answer = match fetched {
            Err(error) if error.allows_fallback() && presented.is_none() && stored.is_some() => {
                presented.clone_from(&stored);
                refused = Some(error);
                continue;
            }
            // It was not asked again for other credentials, and has said before what is wrong with them.
            Err(error) if error.allows_fallback() && error.was_not_processed => Err(refused.unwrap_or(error)),
            fetched => fetched.map(|token| (token, provenance)),
        };
        return Some(Asked { presented, answer });
    }
}

/// What a flight has brought that has lost meanwhile. Of a session that goes on with a replacement it is not revoked, nor
/// where somebody has logged in with the same grant: that might end the grant of both.
async fn give_up(
    engine: &Engine,
    flight: &Flight,
    plan: &Plan,
    presented: Option<&Secret>,
    token: Token,
    fence: Option<u64>,
) -> Obtained {
    let is_spent = |presented: &&Secret| {
        !token.keeps_refresh_token() && !token.refresh().is_some_and(|next| next.same_as(presented))
    };
    if let Some(spent) = presented.filter(is_spent) {
        if let Some(written) = engine.hand_down(flight, spent, &token, fence) {
            // One that failed was reported and stays owed.
            let _ = engine.save_at_once(written).await;
            return Obtained::Nothing;
        }
    }
    let Known { epoch, current, .. } = engine.slot().known();
    let is_of_its_grant = |current: Arc<Issued>| shares_a_grant(current.token(), &token, presented);
    if !current.is_some_and(|current| epoch == plan.known.epoch || is_of_its_grant(current)) {
        engine.revoker.discard(token);
    }
    Obtained::Nothing
}

/// Whether what was fetched, or presented for it, is a part of this token, too.
fn shares_a_grant(current: &Token, fetched: &Token, presented: Option<&Secret>) -> bool {
    let is_there = |access: &&Secret| !access.expose().is_empty();
    let current = [Some(current.access()).filter(is_there), current.refresh()];
    let ours = [Some(fetched.access()), fetched.refresh(), presented];
    ours.into_iter().flatten().any(|ours| current.into_iter().flatten().any(|own| own.same_as(ours)))
}

impl Failure {
    /// What the source has said.
    fn of(error: FetchError) -> Self {
        Failure { class: error.class(), error: error.into_error() }
    }

    /// The session is over, as it was before.
    fn of_the_end(over: &Error) -> Self {
        Failure { class: FailureClass::LoginRequired, error: over.clone() }
    }

    fn transient(error: Error) -> Self {
        Failure { class: FailureClass::Transient, error }
    }

    fn of_task(ended: &JoinError) -> Self {
        if ended.is_panic() {
            return Failure::of_panic();
        }
        let given_up =
            "the refresh was given up after `abandon_after`; whether the authority has answered is unknown";
        Failure { class: FailureClass::Unanswered, error: Error::new(ErrorKind::Timeout, given_up) }
    }

    fn of_panic() -> Self {
        Failure::transient(Error::new(ErrorKind::Panic, "the token source panicked"))
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;
    use tokio_test::{assert_ready, task};

    use super::*;
    use crate::{
        Session,
        session::{
            ask::{Ask, Decision},
            kernel::Fetch,
        },
        source_fn,
    };

    /// Another worker of it may still be polling then.
    #[test]
    fn a_runtime_that_ends_before_the_fetch_has_begun_is_no_failure() {
        let session = Session::builder(source_fn(|_| async { unreachable!("nobody is asked") })).build();
        let engine = session.engine();
        let Decision::Start(flight, plan) = engine.slot().ask(Ask::Need, engine.clock.reading()) else {
            panic!("there is no token");
        };
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let ended = runtime.handle().clone();
        drop(runtime);
        let _inside = ended.enter();
        let guard = Arc::new(flight.guard(engine.pulse.clone()));
        assert_ready!(task::spawn(watch_over(guard.clone(), engine.clone(), flight, plan)).poll());
        assert!(matches!(engine.slot().fetch(), Fetch::Flight(_)), "it does not cool down");
    }
}
