use std::time::UNIX_EPOCH;

use super::{
    super::{
        damper::Target,
        issued::Provenance,
        presented::REMEMBERED,
        renewal::{Renewal, RenewalMode},
    },
    *,
};
use crate::{generation::Stamp, placement::Placement, store::StoredToken, token::Token};

const NOW: Now = Now { monotonic: Duration::from_secs(1000), wall: Duration::from_secs(1_000_000) };

fn later(seconds: u64) -> Now {
    let passed = Duration::from_secs(seconds);
    Now { monotonic: NOW.monotonic + passed, wall: NOW.wall + passed }
}

fn sendable_at(token: Token, now: Now) -> Sendable {
    sendable_from(token, now, Provenance::New)
}

fn sendable_from(token: Token, now: Now, provenance: Provenance) -> Sendable {
    let renewal =
        Renewal { mode: RenewalMode::Background, before: Duration::from_secs(60), jitter: Duration::ZERO };
    Sendable::new(token, &Placement::bearer(), &renewal, now, provenance).expect("a token that can be sent")
}

fn sendable() -> Sendable {
    sendable_at(Token::new("token").expires_in(Duration::from_secs(3600)), NOW)
}

fn error() -> Error {
    Error::new(ErrorKind::Transient, "of a test")
}

const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

fn fail(slot: &mut Slot, flight: &Flight, class: FailureClass, now: Now) -> Option<ErrorKind> {
    slot.fail(flight, &Failure { class, error: error() }, now, &BACKOFF).map(|failure| failure.error.kind())
}

fn empty() -> Slot {
    Slot::new(SessionId(1))
}

/// A slot with a token, and that token's stamp.
fn issued() -> (Slot, Stamp) {
    let mut slot = empty();
    let (change, _) = slot.login(sendable());
    (slot, change.token.stamp())
}

fn start(slot: &mut Slot, ask: Ask) -> Flight {
    start_at(slot, ask, NOW)
}

fn start_at(slot: &mut Slot, ask: Ask, now: Now) -> Flight {
    match slot.ask(ask, || now) {
        Decision::Start(flight, _) => flight,
        other => panic!("no flight was started, but {}", name(&other)),
    }
}

fn name(decision: &Decision) -> &'static str {
    match decision {
        Decision::Use(_) => "use",
        Decision::Join(_) => "join",
        Decision::Start(..) => "start",
        Decision::Fail(_) => "fail",
        Decision::Damped => "damped",
    }
}

fn decide(slot: &mut Slot, ask: Ask, now: Now) -> &'static str {
    name(&slot.ask(ask, || now))
}

fn publish(slot: &mut Slot, flight: &Flight) -> Option<Change> {
    let record = slot.record;
    slot.publish(Finder::Flight(flight), sendable(), record)
}

fn replace(slot: &mut Slot) -> (Change, Option<Flight>) {
    let replaced = slot.replace(slot.epoch, sendable(), None);
    let (change, flight, _) = replaced.unwrap_or_else(|error| panic!("{error}"));
    (change, flight)
}

fn reject(stamp: Stamp) -> Ask {
    Ask::Refuse { stamp, verdict: Verdict::Reject, target: Target::default() }
}

fn suspect(stamp: Stamp) -> Ask {
    Ask::Refuse { stamp, verdict: Verdict::Suspect, target: Target::default() }
}

#[test]
fn who_needs_a_token_starts_one_flight_and_the_others_join_it() {
    let mut slot = empty();
    start(&mut slot, Ask::Need);
    assert_eq!(decide(&mut slot, Ask::Need, NOW), "join");
    assert_eq!(decide(&mut slot, Ask::Force, NOW), "join");
    let (mut slot, stamp) = issued();
    start(&mut slot, reject(stamp));
    assert_eq!(decide(&mut slot, suspect(stamp), NOW), "join");
}

#[test]
fn a_token_is_used_until_it_expires() {
    let (mut slot, _) = issued();
    assert_eq!(decide(&mut slot, Ask::Need, later(3599)), "use");
    assert_eq!(decide(&mut slot, Ask::Take, later(3600)), "use");
    assert_eq!(decide(&mut slot, Ask::Need, later(3600)), "start");
}

#[test]
fn a_refusal_of_an_older_generation_starts_nothing_whatever_the_fetch_is_doing() {
    for then in [
        Fetch::Idle,
        Fetch::Cooling { until: Moment::after(NOW, Duration::from_secs(60)), error: error() },
        Fetch::Dead(error()),
        Fetch::Flight(Flight::new()),
        Fetch::Overdue(Flight::new(), error()),
    ] {
        let (mut slot, stamp) = issued();
        replace(&mut slot);
        slot.fetch = then;
        assert_eq!(decide(&mut slot, reject(stamp), NOW), "use");
        assert_eq!(decide(&mut slot, suspect(stamp), NOW), "use");
    }
}

#[test]
fn the_refusal_of_a_token_says_nothing_of_a_newer_one_that_has_expired() {
    let (mut slot, stamp) = issued();
    let flight = start(&mut slot, reject(stamp));
    let newer = publish(&mut slot, &flight).expect("a new token").token;
    let Decision::Start(_, plan) = slot.ask(reject(stamp), || later(3600)) else { panic!("it has expired") };
    assert_eq!(plan.cause, Cause::Expired);
    assert_eq!((newer.is_condemned(), newer.fruitless_refreshes()), (false, 0));
}

#[test]
fn a_refusal_of_another_epoch_fails_whatever_the_token() {
    let (mut slot, stamp) = issued();
    slot.login(sendable());
    for then in [Fetch::Idle, Fetch::Dead(error())] {
        slot.fetch = then;
        let Decision::Fail(error) = slot.ask(reject(stamp), || NOW) else { panic!("another identity") };
        assert_eq!(error.kind(), ErrorKind::SessionChanged);
    }
    slot.logout();
    let Decision::Fail(error) = slot.ask(reject(stamp), || NOW) else { panic!("no identity") };
    assert_eq!(error.kind(), ErrorKind::SessionEnded);
}

#[test]
fn refusals_get_the_remembered_error_while_the_fetch_is_cooling_overdue_or_dead() {
    for (then, after) in [
        (Fetch::Cooling { until: Moment::after(NOW, Duration::from_secs(60)), error: error() }, "start"),
        (Fetch::Overdue(Flight::new(), error()), "fail"),
        (Fetch::Dead(error()), "fail"),
    ] {
        let (mut slot, stamp) = issued();
        slot.fetch = then;
        assert_eq!(decide(&mut slot, Ask::Need, NOW), "use", "the current token is good");
        assert_eq!(decide(&mut slot, reject(stamp), later(59)), "fail");
        assert_eq!(decide(&mut slot, Ask::Force, later(59)), "fail");
        assert_eq!(decide(&mut slot, reject(stamp), later(60)), after);
    }
}

#[test]
fn a_condemned_token_is_not_used_until_its_flight_ends() {
    let (mut slot, stamp) = issued();
    let flight = start(&mut slot, suspect(stamp));
    assert_eq!(decide(&mut slot, Ask::Need, NOW), "use", "suspected only");
    assert_eq!(decide(&mut slot, reject(stamp), NOW), "join");
    assert_eq!(decide(&mut slot, Ask::Need, NOW), "join");
    assert!(fail(&mut slot, &flight, FailureClass::Transient, NOW).is_some());
    assert_eq!(decide(&mut slot, Ask::Need, NOW), "use", "it goes out, to be refused on its own merit");
}

#[test]
fn an_overdue_flight_still_publishes() {
    let (mut slot, stamp) = issued();
    let flight = start(&mut slot, reject(stamp));
    assert!(slot.make_overdue(&flight, error()));
    assert!(!slot.make_overdue(&flight, error()), "once");
    assert_eq!(decide(&mut slot, Ask::Need, NOW), "use");
    assert!(publish(&mut slot, &flight).is_some());
    assert_eq!(decide(&mut slot, reject(stamp), NOW), "use");
}

#[test]
fn a_flight_of_another_epoch_changes_nothing() {
    for logs_out in [false, true] {
        let (mut slot, stamp) = issued();
        let flight = start(&mut slot, reject(stamp));
        let released = if logs_out { slot.logout().1 } else { slot.login(sendable()).1 };
        assert!(released.is_some_and(|released| released.is(&flight)));
        assert!(flight.is_lost());
        let before = slot.token().map(|token| token.stamp());
        let record = slot.record;
        assert!(publish(&mut slot, &flight).is_none());
        assert!(slot.adopt(Finder::Flight(&flight), sendable(), record).is_none());
        assert!(fail(&mut slot, &flight, FailureClass::LoginRequired, NOW).is_none());
        assert!(!slot.make_overdue(&flight, error()));
        assert!(!slot.adopt_logout(Finder::Flight(&flight), record));
        assert_eq!(slot.token().map(|token| token.stamp()), before);
        assert_eq!(decide(&mut slot, Ask::Force, NOW), if logs_out { "fail" } else { "start" });
        assert!(!slot.make_overdue(&flight, error()), "nor to the flight of the epoch that follows");
        slot.release(Finder::Flight(&flight));
        assert_eq!(decide(&mut slot, Ask::Force, NOW), if logs_out { "fail" } else { "join" });
    }
}

#[test]
fn a_replaced_session_starts_no_fetch_beside_the_one_that_lost() {
    let (mut slot, _) = issued();
    let flight = start(&mut slot, Ask::Force);
    let (change, lost) = replace(&mut slot);
    lost.expect("the flight that was on").lose();
    assert_eq!(decide(&mut slot, Ask::Need, NOW), "use");
    assert_eq!(decide(&mut slot, reject(change.token.stamp()), NOW), "join");
    assert!(publish(&mut slot, &flight).is_none(), "its result is not wanted");
    assert!(fail(&mut slot, &flight, FailureClass::LoginRequired, NOW).is_none(), "nor is its failure");
    slot.release(Finder::Flight(&flight));
    assert_eq!(decide(&mut slot, reject(change.token.stamp()), NOW), "start");
}

#[test]
fn a_flight_has_lost_as_soon_as_its_session_is_replaced() {
    let (mut slot, stamp) = issued();
    let flight = start(&mut slot, reject(stamp));
    let (change, _) = replace(&mut slot);
    assert!(publish(&mut slot, &flight).is_none());
    assert_eq!(slot.token().map(|token| token.stamp()), Some(change.token.stamp()));
}

#[test]
fn a_look_of_a_session_that_was_over_does_not_end_its_replacement() {
    let (mut slot, _) = issued();
    fail_again(&mut slot, FailureClass::LoginRequired, NOW);
    let look = start_at(&mut slot, Ask::Force, later(60));
    assert!(look.over().is_some(), "it looks");
    let (change, _) = replace(&mut slot);
    slot.release(Finder::Flight(&look));
    let next = start_at(&mut slot, reject(change.token.stamp()), later(60));
    assert!(next.over().is_none(), "it fetches");
}

#[test]
fn a_look_whose_runtime_is_gone_is_not_made_again_at_once() {
    let (mut slot, stamp) = issued();
    let flight = start(&mut slot, reject(stamp));
    fail(&mut slot, &flight, FailureClass::LoginRequired, NOW);
    let look = start_at(&mut slot, Ask::Force, later(5));
    drop(look.guard(tokio::sync::watch::Sender::default()));
    assert_eq!(decide(&mut slot, Ask::Force, later(9)), "fail");
    assert_eq!(decide(&mut slot, Ask::Force, later(10)), "start");
}

#[test]
fn a_refusal_during_a_look_of_a_dead_session_condemns_no_token() {
    let (mut slot, stamp) = issued();
    let flight = start(&mut slot, reject(stamp));
    fail(&mut slot, &flight, FailureClass::LoginRequired, NOW);
    start_at(&mut slot, reject(stamp), later(5));
    assert_eq!(decide(&mut slot, reject(stamp), later(5)), "join");
    assert_eq!(decide(&mut slot, Ask::Need, later(5)), "use");
}

#[test]
fn a_flight_whose_runtime_is_gone_leaves_the_slot_free() {
    let (mut slot, stamp) = issued();
    let flight = start(&mut slot, reject(stamp));
    drop(flight.guard(tokio::sync::watch::Sender::default()));
    assert_eq!(decide(&mut slot, Ask::Need, NOW), "use", "no longer condemned");
    assert_eq!(decide(&mut slot, Ask::Force, NOW), "start");
}

/// A refresh that this token's refusal has started, and whose resend is refused.
fn judge_fruitless(token: Option<&Arc<Issued>>, verdict: Verdict) {
    let token = token.expect("a token");
    token.leave_unjudged(Target::default());
    token.judge(Target::default(), verdict);
}

#[test]
fn damping_doubles_with_each_fruitless_refresh_up_to_its_cap() {
    for (fruitless, reject_seconds, suspect_seconds) in [
        (0, 0, 0),
        (1, 2, 2),
        (2, 4, 4),
        (3, 5, 8),
        (4, 5, 16),
        (5, 8, 32),
        (6, 16, 60),
        (8, 60, 60),
        (40, 60, 60),
    ] {
        for (verdict, seconds) in [(Verdict::Reject, reject_seconds), (Verdict::Suspect, suspect_seconds)] {
            let (mut slot, stamp) = issued();
            for _ in 0..fruitless {
                judge_fruitless(slot.token(), verdict);
            }
            let ask = Ask::Refuse { stamp, verdict, target: Target::default() };
            if seconds > 0 {
                assert_eq!(decide(&mut slot, ask, later(seconds - 1)), "damped", "{fruitless} {verdict:?}");
            }
            assert_eq!(decide(&mut slot, ask, later(seconds)), "start", "{fruitless} {verdict:?}");
        }
    }
}

#[test]
fn an_accepted_resend_ends_the_damping_and_a_new_token_keeps_it() {
    let (mut slot, _) = issued();
    judge_fruitless(slot.token(), Verdict::Suspect);
    let flight = start(&mut slot, Ask::Force);
    let change = publish(&mut slot, &flight).expect("a new token");
    assert_eq!(decide(&mut slot, reject(change.token.stamp()), NOW), "damped");
    assert_eq!(decide(&mut slot, Ask::Force, NOW), "start", "whoever asks by name is not damped");
    slot.unstart();
    change.token.judge(Target::default(), Verdict::Accept);
    assert_eq!(decide(&mut slot, reject(change.token.stamp()), NOW), "start");
}

#[test]
fn a_refresh_that_no_resend_judges_is_judged_by_the_first_refusal_of_its_token() {
    for (seconds, fruitless) in [(0, 3), (29, 3), (30, 0)] {
        let (mut slot, stamp) = issued();
        let refused = slot.token().cloned().expect("a token");
        judge_fruitless(Some(&refused), Verdict::Suspect);
        judge_fruitless(Some(&refused), Verdict::Suspect);
        let flight = start_at(&mut slot, reject(stamp), later(4));
        fail(&mut slot, &flight, FailureClass::Transient, later(4));
        assert_eq!(decide(&mut slot, reject(stamp), later(64)), "start", "a refresh that failed is none");
        let Fetch::Flight(flight) = slot.fetch() else { panic!("it was started") };
        let flight = flight.clone();
        let token = publish(&mut slot, &flight).expect("a new token").token;
        assert_eq!(token.fruitless_refreshes(), 2, "nobody has tried it");
        decide(&mut slot, reject(token.stamp()), later(seconds));
        assert_eq!(token.fruitless_refreshes(), fruitless, "refused after {seconds} s");
        decide(&mut slot, reject(token.stamp()), later(seconds));
        assert_eq!(token.fruitless_refreshes(), fruitless, "judged once");
    }
}

#[test]
fn a_refresh_whose_token_was_good_for_long_is_not_judged_by_a_refusal_of_the_one_after_it() {
    for (seconds, fruitless) in [(0, 1), (29, 1), (30, 0)] {
        let (mut slot, stamp) = issued();
        let flight = start(&mut slot, reject(stamp));
        publish(&mut slot, &flight).expect("a new token");
        let flight = start_at(&mut slot, Ask::Force, later(seconds));
        let fresh = sendable_at(Token::new("next"), later(seconds));
        let record = slot.record;
        let token = slot.publish(Finder::Flight(&flight), fresh, record).expect("the next").token;
        decide(&mut slot, reject(token.stamp()), later(seconds));
        assert_eq!(token.fruitless_refreshes(), fruitless, "after {seconds} s");
    }
}

#[test]
fn a_refresh_is_judged_once_and_the_resend_of_its_starter_may_still_call_it_good() {
    let (accept, reject_again) = (Verdict::Accept, Verdict::Reject);
    for (is_first, verdict, fruitless) in
        [(true, accept, 0), (true, reject_again, 1), (false, accept, 0), (false, reject_again, 1)]
    {
        let (mut slot, stamp) = issued();
        let refused = slot.token().cloned().expect("a token");
        let flight = start(&mut slot, reject(stamp));
        let token = publish(&mut slot, &flight).expect("a new token").token;
        if is_first {
            refused.judge(Target::default(), verdict);
        } else {
            // Somebody else is refused with the new token before that.
            assert_eq!(decide(&mut slot, reject(token.stamp()), NOW), "start", "it may really be revoked");
            assert_eq!(token.fruitless_refreshes(), 1);
            slot.unstart();
            refused.judge(Target::default(), verdict);
        }
        assert_eq!(token.fruitless_refreshes(), fruitless, "{is_first} {verdict:?}");
    }
}

#[test]
fn what_a_flight_presents_is_remembered_once_however_many_replacements_come_meanwhile() {
    let mut slot = empty();
    let with = |refresh: String| sendable_at(Token::new("token").refresh_token(refresh), NOW);
    slot.login(with("first".into()));
    slot.presented.spend(vec!["spent".into()], None);
    let flight = start(&mut slot, Ask::Force);
    assert!(flight.begin_fetch(vec!["first".into()]));
    for number in 0..2 * REMEMBERED {
        let epoch = slot.epoch();
        slot.replace(epoch, with(number.to_string()), None).expect("the same identity");
    }
    let own = slot.token().and_then(|own| own.token().refresh());
    assert!(slot.presented.is_kept(own, &Token::new("token").refresh_token("spent")));
}

#[test]
fn nothing_is_fetched_after_a_logout_until_a_login() {
    let (mut slot, _) = issued();
    slot.logout();
    for ask in [Ask::Need, Ask::Take, Ask::Force] {
        assert_eq!(decide(&mut slot, ask, later(3600)), "fail");
    }
    assert!(slot.replace(slot.epoch, sendable(), None).is_err());
    slot.login(sendable());
    assert_eq!(decide(&mut slot, Ask::Need, NOW), "use");
}

#[test]
fn a_replacement_goes_on_from_the_token_that_is_stored_and_not_from_a_logout() {
    for token in [Some(StoredToken::new("stored")), None] {
        let mut slot = empty();
        let (own, is_stored) = (slot.record, token.is_some());
        let found = Record { session: SessionId(2), revision: 7, token };
        let (change, ..) = slot
            .replace(slot.epoch(), sendable(), Some(found.clone()))
            .unwrap_or_else(|error| panic!("{error}"));
        let base = if is_stored { found.head() } else { own };
        assert_eq!(change.record, base.following());
    }
}

#[test]
fn revisions_only_grow_and_sessions_change_with_the_identity() {
    let mut slot = empty();
    let first = slot.login(sendable()).0.record;
    let second = replace(&mut slot).0.record;
    let third = slot.logout().0;
    let fourth = slot.login(sendable()).0.record;
    let heads = [first, second, third, fourth];
    assert!(heads.is_sorted_by(|before, after| before.revision < after.revision));
    assert!(
        first.session == second.session && second.session == third.session && third.session != fourth.session
    );
}

/// Fails refreshes by hand, each as soon as the cooling of the one before is over.
fn fail_again(slot: &mut Slot, class: FailureClass, at: Now) -> Option<ErrorKind> {
    let Decision::Start(flight, _) = slot.ask(Ask::Force, || at) else { return None };
    fail(slot, &flight, class, at)
}

#[test]
fn unexplained_refusals_stall_the_session_after_three_that_are_five_minutes_apart() {
    let (mut slot, _) = issued();
    // Within five minutes they count as one.
    for seconds in [0, 60, 120, 240] {
        assert_eq!(
            fail_again(&mut slot, FailureClass::Ambiguous, later(seconds)),
            Some(ErrorKind::Transient)
        );
    }
    assert_eq!(fail_again(&mut slot, FailureClass::Ambiguous, later(400)), Some(ErrorKind::Transient));
    assert_eq!(fail_again(&mut slot, FailureClass::Ambiguous, later(700)), Some(ErrorKind::Stalled));
    assert_eq!(decide(&mut slot, Ask::Force, later(700 + 899)), "fail");
    assert_eq!(
        decide(&mut slot, Ask::Need, later(700 + 899)),
        "use",
        "the current token is as good as before"
    );
    assert_eq!(fail_again(&mut slot, FailureClass::Ambiguous, later(700 + 900)), Some(ErrorKind::Stalled));
    let flight = match slot.ask(Ask::Force, || later(700 + 1800)) {
        Decision::Start(flight, _) => flight,
        other => panic!("{}", name(&other)),
    };
    publish(&mut slot, &flight).expect("a new token");
    assert_eq!(
        fail_again(&mut slot, FailureClass::Ambiguous, later(4000)),
        Some(ErrorKind::Transient),
        "forgotten"
    );
}

#[test]
fn after_silence_the_authority_is_left_alone_for_half_a_minute() {
    let (mut slot, _) = issued();
    fail_again(&mut slot, FailureClass::Unanswered, NOW);
    assert_eq!(decide(&mut slot, Ask::Force, later(29)), "fail");
    assert_eq!(decide(&mut slot, Ask::Force, later(30)), "start");
}

#[test]
fn a_refresh_that_could_not_ask_does_not_cool_down() {
    let (mut slot, _) = issued();
    let flight = start(&mut slot, Ask::Force);
    let error = Error::new(ErrorKind::NoRuntime, "of a test");
    slot.fail(&flight, &Failure { class: FailureClass::Transient, error }, NOW, &BACKOFF);
    assert_eq!(decide(&mut slot, Ask::Force, NOW), "start");
}

#[test]
fn other_credentials_end_cooling_and_death_and_nothing_else() {
    for (then, after) in [
        (Fetch::Cooling { until: Moment::after(NOW, Duration::from_secs(60)), error: error() }, "start"),
        (Fetch::Dead(error()), "start"),
        (Fetch::Flight(Flight::new()), "join"),
        (Fetch::LoggedOut, "fail"),
    ] {
        let (mut slot, _) = issued();
        slot.fetch = then;
        slot.forgive();
        assert_eq!(decide(&mut slot, Ask::Force, NOW), after);
    }
}

#[test]
fn a_token_is_due_from_its_margin_on_to_the_nanosecond() {
    let (mut slot, _) = issued();
    let due = later(3600 - 60);
    let before =
        Now { monotonic: due.monotonic - Duration::from_nanos(1), wall: due.wall - Duration::from_nanos(1) };
    assert_eq!(decide(&mut slot, Ask::Renew, before), "use");
    assert_eq!(decide(&mut slot, Ask::Need, due), "use");
    assert_eq!(decide(&mut slot, Ask::Renew, due), "start");
    assert_eq!(decide(&mut slot, Ask::Need, due), "use", "requests go on meanwhile");
    assert_eq!(decide(&mut slot, Ask::Need, later(3600)), "join", "past expiry they wait");
}

#[test]
fn either_clock_makes_a_token_due_and_expired() {
    for (seconds, renew, need) in [(3540, "start", "use"), (3600, "start", "start")] {
        let passed = Duration::from_secs(seconds);
        for now in [Now { monotonic: NOW.monotonic + passed, ..NOW }, Now { wall: NOW.wall + passed, ..NOW }]
        {
            let (mut slot, _) = issued();
            assert_eq!(decide(&mut slot, Ask::Need, now), need);
            let (mut slot, _) = issued();
            assert_eq!(decide(&mut slot, Ask::Renew, now), renew);
        }
    }
}

#[test]
fn a_token_without_expiry_is_never_due() {
    let mut slot = empty();
    slot.login(sendable_at(Token::new("token"), NOW));
    let never = Now { monotonic: Duration::MAX, wall: Duration::MAX };
    assert_eq!(decide(&mut slot, Ask::Renew, never), "use");
    assert_eq!(decide(&mut slot, Ask::ValidFor(Duration::MAX), never), "use");
}

#[test]
fn a_token_that_has_to_last_is_fetched_unless_none_lives_that_long() {
    let (mut slot, _) = issued();
    let minutes = |minutes: u64| Ask::ValidFor(Duration::from_secs(minutes * 60));
    assert_eq!(decide(&mut slot, minutes(60), NOW), "use");
    assert_eq!(decide(&mut slot, minutes(61), NOW), "use", "the next one would not live that long either");
    assert_eq!(decide(&mut slot, minutes(60), later(1)), "start", "the next one would live just as long");
    slot.unstart();
    assert_eq!(decide(&mut slot, minutes(30), later(1800)), "use");
    assert_eq!(decide(&mut slot, minutes(31), later(1800)), "start");
}

#[test]
fn revisions_end_at_the_last_number() {
    let mut slot = empty();
    slot.record.revision = u64::MAX;
    assert_eq!(slot.login(sendable()).0.record.revision, u64::MAX);
    assert_eq!(replace(&mut slot).0.record.following().revision, u64::MAX);
    assert_eq!(slot.logout().0.revision, u64::MAX);
}

#[test]
fn what_a_sibling_has_saved_counts_only_if_nothing_has_happened_since() {
    let (mut slot, _) = issued();
    let now = |slot: &Slot| Finder::Sibling { epoch: slot.epoch, since: slot.record };
    let since = now(&slot);
    replace(&mut slot);
    let record = slot.record.following();
    assert!(slot.publish(since, sendable(), record).is_none(), "a token from outside");
    let since = now(&slot);
    let flight = start(&mut slot, Ask::Force);
    assert!(slot.publish(since, sendable(), record).is_none(), "a flight finds it itself");
    slot.release(Finder::Flight(&flight));
    assert!(slot.publish(since, sendable(), record).is_some());
    slot.logout();
    let since = now(&slot);
    slot.logout();
    assert!(slot.adopt(since, sendable(), record).is_none(), "a second logout");
}

#[test]
fn the_source_is_told_why_it_is_asked() {
    let asks =
        |stamp| [Ask::Need, Ask::Take, Ask::Renew, Ask::ValidFor(Duration::MAX), Ask::Force, reject(stamp)];
    let cause = |slot: &mut Slot, ask, now| match slot.ask(ask, || now) {
        Decision::Start(_, plan) => Some(plan.cause),
        _ => None,
    };
    let (_, nobodys) = issued();
    for (ask, expected) in
        asks(nobodys).into_iter().zip([Some(Cause::Absent); 4].into_iter().chain([Some(Cause::Forced), None]))
    {
        assert_eq!(cause(&mut empty(), ask, NOW), expected, "{ask:?}, without a token");
    }
    for (now, expected) in [
        (NOW, [None, None, None, None, Some(Cause::Forced), Some(Cause::Refused)]),
        (
            later(3540),
            [
                None,
                None,
                Some(Cause::Renewal),
                Some(Cause::Renewal),
                Some(Cause::Forced),
                Some(Cause::Refused),
            ],
        ),
        (
            later(3600),
            [
                Some(Cause::Expired),
                None,
                Some(Cause::Expired),
                Some(Cause::Expired),
                Some(Cause::Forced),
                Some(Cause::Refused),
            ],
        ),
    ] {
        for (at, expected) in expected.into_iter().enumerate() {
            let (mut slot, stamp) = issued();
            let ask = asks(stamp)[at];
            assert_eq!(cause(&mut slot, ask, now), expected, "{ask:?} {now:?}");
        }
    }
}

#[test]
fn credentials_that_change_during_a_fetch_owe_nothing_to_those_before() {
    let mut slot = empty();
    let mut now = NOW;
    for _ in 0..8 {
        let flight = start_at(&mut slot, Ask::Need, now);
        fail(&mut slot, &flight, FailureClass::Ambiguous, now);
        now = Now { monotonic: now.monotonic + Duration::from_secs(3600), ..now };
    }
    let flight = start_at(&mut slot, Ask::Need, now);
    slot.forgive();
    assert!(fail(&mut slot, &flight, FailureClass::LoginRequired, now).is_some(), "its waiters are told");
    let flight = start_at(&mut slot, Ask::Need, now);
    assert_eq!(fail(&mut slot, &flight, FailureClass::Ambiguous, now), Some(ErrorKind::Transient));
    now.monotonic += 2 * BACKOFF.first;
    start_at(&mut slot, Ask::Need, now);
}

#[test]
fn a_token_that_is_handed_the_next_refresh_token_is_as_good_and_as_well_known_as_before() {
    let (change, _) = empty().login(sendable_from(Token::new("token"), NOW, Provenance::Stored));
    let with_the_next = || change.token.with_refresh_of(&Token::new("next").refresh_token("R2"), NOW);
    for is_refused in [true, false] {
        change.token.condemn(is_refused);
        assert_eq!(with_the_next().is_condemned(), is_refused);
    }
    assert!(with_the_next().claim_verification().is_some());
    let mut claim = change.token.clone().claim_verification().expect("nobody has asked about it");
    claim.is_answered = true;
    drop(claim);
    assert!(with_the_next().claim_verification().is_none());

    let next = Token::new("next").refresh_token("R2").refresh_expires_in(Duration::from_secs(3600));
    let stored = change.token.with_refresh_of(&next, later(10)).stored();
    assert_eq!(stored.refresh_received_at, UNIX_EPOCH.checked_add(later(10).wall));
}
