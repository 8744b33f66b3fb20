use super::*;
use crate::{session::storage::traces::REMEMBERED, store::SessionId};

fn record(session: u128, revision: u64, access: &str) -> Record {
    Record { session: SessionId(session), revision, token: Some(StoredToken::new(access)) }
}

/// The refresh of `first` under lease 1, which brought `second` as revision 6.
fn refresh(owed: Option<&Debt>) -> Debt {
    Debt::of_refresh(record(1, 6, "second"), Some(StoredToken::new("first")), Some(1), owed)
}

#[test]
fn a_refresh_gives_way_to_a_later_record_that_it_does_not_follow() {
    for (found, outdone) in [
        (record(1, 7, "others"), true),
        (record(1, 6, "others"), true),
        (record(1, 6, "second"), true),
        (record(1, 5, "others"), false),
        (record(1, 7, "first"), false),
        (record(2, 7, "first"), true),
        (Record { token: None, ..record(1, 7, "") }, true),
    ] {
        assert_eq!(refresh(None).gives_way_to(&found, None, true), outdone, "{found:?}");
    }
}

#[test]
fn a_record_is_known_by_its_number_and_its_access_token() {
    let debt = refresh(None);
    for (revision, access, expected) in [(6, "second", true), (7, "second", false), (6, "others", false)] {
        let head = record(1, revision, access).head();
        assert_eq!(debt.is(head, &StoredToken::new(access)), expected, "{revision} {access}");
    }
}

#[test]
fn what_a_refresh_was_of_is_a_pair() {
    for (brought, refresh, outdone) in [
        ("R1", "R1", false),
        ("R1", "R2", true),
        ("R2", "R1", false),
        ("R2", "R2", false),
        ("R2", "R3", true),
    ] {
        let first = with_refresh(1, 5, "first", "R1").token;
        let debt = Debt::of_refresh(with_refresh(1, 6, "second", brought), first, None, None);
        let found = with_refresh(1, 6, "first", refresh);
        assert_eq!(debt.gives_way_to(&found, None, true), outdone, "{brought} {refresh}");
    }
}

#[test]
fn a_replacement_takes_the_refresh_token_that_stands_under_the_number_of_memory() {
    let replacement = Debt::of_replacement(with_refresh(1, 7, "elsewhere", "R2"), true, None);
    for (revision, expected) in [(6, "7 elsewhere R3"), (5, "7 elsewhere R2")] {
        let found = with_refresh(1, revision, "second", "R3");
        assert_eq!(shown(&replacement.change_above(Some(&found))), expected);
        // One more, before that could be written.
        let next = Debt::of_replacement(with_refresh(1, 8, "elsewhere", "R2"), true, Some(&replacement));
        assert_eq!(shown(&next.change_above(Some(&found))), expected.replacen('7', "8", 1));
    }
}

#[test]
fn a_replacement_keeps_what_is_above_the_number_with_which_it_may_be_there() {
    let nothing: fn(&Debt) = |_| ();
    for (tries, revision, expected) in [
        (nothing, 8, "9 elsewhere R2"),
        (|debt| debt.begin_save(Some(7)), 7, "8 elsewhere R2"),
        (|debt| debt.begin_save(Some(7)), 8, "9 elsewhere R9"),
        (|debt| debt.begin_save(None), 8, "9 elsewhere R2"),
        (|debt| (debt.begin_save(Some(7)), debt.forget_attempt()).1, 8, "9 elsewhere R2"),
    ] {
        let replacement = Debt::of_replacement(with_refresh(1, 7, "elsewhere", "R2"), false, None);
        tries(&replacement);
        let found = with_refresh(1, revision, "others", "R9");
        replacement.take_notice_of(&found);
        assert_eq!(shown(&replacement.change_above(Some(&found))), expected);
    }
}

#[test]
fn while_its_lease_is_kept_a_refresh_gives_way_to_a_record_of_a_higher_number_only() {
    let before = || with_refresh(1, 5, "first", "R1").token;
    let spends = |fence| Debt::of_refresh(with_refresh(1, 6, "second", "R2"), before(), fence, None);
    let others = |revision| with_refresh(1, revision, "others", "R9");
    for (fence, lost, found, outdone) in [
        (Some(2), None, others(6), false),
        (Some(2), Some(1), others(6), false),
        (Some(2), None, others(7), true),
        (Some(2), Some(2), others(6), true),
        (None, None, others(6), true),
        (Some(2), None, Record { token: None, ..others(6) }, true),
        (Some(2), None, Record { session: SessionId(2), ..others(6) }, true),
    ] {
        assert_eq!(spends(fence).gives_way_to(&found, lost, true), outdone, "{fence:?} {lost:?} {found:?}");
    }
}

#[test]
fn a_refresh_follows_each_token_since_what_is_in_the_store() {
    let third =
        Debt::of_refresh(record(1, 6, "third"), Some(StoredToken::new("second")), None, Some(&refresh(None)));
    let follows = |session, access| third.follows(&record(session, 9, access));
    assert!(follows(1, "first") && follows(1, "second"));
    assert!(!follows(1, "third") && !follows(2, "first"));
}

#[test]
fn a_refresh_remembers_what_was_in_the_store_and_the_last_tokens_since() {
    let mut owed: Option<Debt> = None;
    const MORE: usize = REMEMBERED + 100;
    for n in 0..MORE {
        let refreshed = StoredToken::new(format!("token-{n}"));
        owed = Some(Debt::of_refresh(record(1, 6, "next"), Some(refreshed), Some(1), owed.as_ref()));
    }
    let owed = owed.expect("the last one");
    let follows = |n| owed.follows(&record(1, 9, &format!("token-{n}")));
    let remembered: Vec<_> = (0..MORE).filter(|&n| follows(n)).collect();
    assert_eq!(remembered, [vec![0], (101..MORE).collect()].concat());
}

#[test]
fn the_refresh_of_a_login_that_is_owed_stands_for_it_until_that_is_saved() {
    let login = Debt::of_login(record(1, 5, "first"));
    let refresh = refresh(Some(&login));
    assert!(!refresh.gives_way_to(&record(2, 9, "others"), None, true));
    refresh.stand_for_itself();
    assert!(refresh.gives_way_to(&record(2, 9, "others"), None, true));
}

#[test]
fn a_login_gives_way_to_whatever_is_there_of_its_session_its_refresh_as_any_other_and_a_replacement_to_nothing()
 {
    for (found, expected) in [
        (record(2, 9, "others"), [false; 3]),
        (record(1, 5, "first"), [true, false, false]),
        (record(1, 7, "first"), [true, false, false]),
        (record(1, 7, "others"), [true, true, false]),
        (Record { token: None, ..record(1, 7, "") }, [true, true, false]),
    ] {
        let login = Debt::of_login(record(1, 5, "first"));
        let replacement = Debt::of_replacement(record(1, 6, "elsewhere"), true, Some(&login));
        let debts = [&login, &refresh(Some(&login)), &refresh(Some(&replacement))];
        let outdone = debts.map(|debt| {
            debt.take_notice_of(&found);
            debt.gives_way_to(&found, None, true)
        });
        assert_eq!(outdone, expected, "{found:?}");
    }
}

#[test]
fn a_logout_is_before_the_login_of_any_session_that_it_has_not_ended() {
    let (ended, logged_out) = (SessionId(2), Record { token: None, ..record(3, 9, "") });
    let logout = Debt::of_logout(Record { token: None, ..record(1, 6, "") }, None);
    for (found, expected) in [
        (record(1, 9, "its own"), false),
        (record(2, 9, "the one that was there"), false),
        (record(3, 9, "later"), true),
        (logged_out, false),
    ] {
        assert_eq!(logout.is_before_the_login_of(&found, ended), expected, "{found:?}");
        assert!(!Debt::of_login(record(1, 6, "first")).is_before_the_login_of(&found, ended));
    }
}

#[test]
fn the_store_is_looked_into_before_a_refresh_is_written_again_or_after_one_that_is_owed_or_without_a_lease() {
    let first = refresh(None);
    assert_eq!([first.begin(), first.begin()], [false, true]);
    assert!(refresh(Some(&first)).begin());
    assert!(Debt::of_refresh(record(1, 6, "second"), None, None, None).begin());
}

fn with_refresh(session: u128, revision: u64, access: &str, refresh: &str) -> Record {
    let token = StoredToken { refresh: Some(refresh.into()), ..StoredToken::new(access) };
    Record { token: Some(token), ..record(session, revision, "") }
}

fn shown(record: &Record) -> String {
    let token = record.token.as_ref();
    let refresh = token.and_then(|token| token.refresh.as_ref()).map_or("none", |refresh| refresh.expose());
    let access = token.map_or("none", |token| token.access.expose());
    format!("{} {access} {refresh}", record.revision)
}

#[test]
fn a_replacement_that_keeps_the_refresh_token_takes_that_of_a_siblings_later_record_of_the_session() {
    let owed = Debt::of_refresh(
        with_refresh(1, 6, "second", "R2"),
        with_refresh(1, 5, "first", "R1").token,
        None,
        None,
    );
    let ours = || with_refresh(1, 7, "elsewhere", "R2");
    let replacement = Debt::of_replacement(ours(), true, Some(&owed));
    for (found, expected) in [
        (Some(with_refresh(1, 6, "others", "R3")), "7 elsewhere R3"),
        (Some(with_refresh(1, 7, "others", "R3")), "8 elsewhere R3"),
        (Some(with_refresh(1, 9, "others", "R3")), "10 elsewhere R3"),
        (Some(with_refresh(1, 5, "others", "R3")), "7 elsewhere R2"),
        (Some(with_refresh(2, 9, "others", "R3")), "10 elsewhere R2"),
        (Some(with_refresh(1, 9, "first", "R1")), "10 elsewhere R2"),
        (Some(with_refresh(1, 9, "others", "R1")), "10 elsewhere R2"),
        (None, "7 elsewhere R2"),
    ] {
        assert_eq!(shown(&replacement.change_above(found.as_ref())), expected, "{found:?}");
        let brings_its_own = Debt::of_replacement(ours(), false, Some(&owed)).change_above(found.as_ref());
        assert!(shown(&brings_its_own).ends_with("elsewhere R2"), "{found:?}");
    }
}

#[test]
fn a_refresh_brings_the_next_refresh_token_to_a_replacement_or_login_that_has_the_one_before() {
    let refresh_to = |record| Debt::of_refresh(record, with_refresh(1, 5, "first", "R1").token, None, None);
    let login = with_refresh(2, 7, "elsewhere", "R1");
    let brings_none = refresh_to(record(1, 6, "second"));
    assert!(brings_none.gives_way_to(&login, None, true), "the login keeps its own");
    let refresh = |next: &str| refresh_to(with_refresh(1, 6, "second", next));
    assert!(refresh("R2").gives_way_to(&login, None, false), "it may not be written");
    for (next, found, expected) in [
        ("R2", with_refresh(1, 7, "first", "R1"), "8 second R2"),
        ("R2", with_refresh(1, 7, "elsewhere", "R1"), "8 elsewhere R2"),
        ("R2", with_refresh(1, 7, "elsewhere", "R9"), "6 second R2"),
        // Somebody has logged in with the refresh token that is being spent.
        ("R2", with_refresh(2, 7, "elsewhere", "R1"), "8 elsewhere R2"),
        ("R2", with_refresh(2, 7, "first", "R1"), "8 second R2"),
        ("R2", with_refresh(2, 7, "elsewhere", "R9"), "6 second R2"),
        ("R2", record(2, 7, "first"), "6 second R2"),
        // It has not been spent.
        ("R1", with_refresh(1, 7, "elsewhere", "R1"), "6 second R1"),
        ("R1", with_refresh(2, 7, "elsewhere", "R1"), "6 second R1"),
    ] {
        let (debt, is_above) = (refresh(next), !expected.starts_with('6'));
        assert_eq!(debt.gives_way_to(&found, None, true), !is_above, "{found:?}");
        let saved = debt.refresh_above(Some(&found));
        assert_eq!(shown(&saved), expected, "{found:?}");
        assert_eq!(saved.session, if is_above { found.session } else { SessionId(1) }, "{found:?}");
    }
}

/// A refresh without a lease that has brought revision 6.
fn refresh_from(spent: &str, next: &str) -> Debt {
    let refreshed = with_refresh(1, 5, "first", spent).token;
    Debt::of_refresh(with_refresh(1, 6, "second", next), refreshed, None, None)
}

#[test]
fn a_replacement_takes_the_next_refresh_token_from_the_refresh_that_is_owed() {
    for (spent, next, expected) in [
        ("R1", "R2", "7 elsewhere R2"),
        ("R1", "R1", "7 elsewhere R1"),
        // A sibling had spent R1 for R2, which memory has not seen.
        ("R2", "R3", "7 elsewhere R3"),
        ("R2", "R2", "7 elsewhere R2"),
    ] {
        let owed = refresh_from(spent, next);
        let replacement = Debt::of_replacement(with_refresh(1, 7, "elsewhere", "R1"), true, Some(&owed));
        assert_eq!(shown(&replacement.record), expected);
        assert_eq!(replacement.keeps_the_lease, spent != next, "what the store has is spent");
        let own = Debt::of_replacement(with_refresh(1, 7, "elsewhere", "own"), false, Some(&owed));
        assert!(!own.keeps_the_lease, "and matters to nobody");
    }
}

#[test]
fn a_replacement_takes_no_refresh_token_of_a_siblings_login_unless_it_was_of_the_same_grant() {
    for (spent, expected) in [("R1", "7 elsewhere R3"), ("R2", "7 elsewhere R1")] {
        let refreshed = with_refresh(2, 5, "first", spent).token;
        let owed = Debt::of_refresh(with_refresh(2, 6, "second", "R3"), refreshed, None, None);
        let replacement = Debt::of_replacement(with_refresh(1, 7, "elsewhere", "R1"), true, Some(&owed));
        assert_eq!(shown(&replacement.record), expected);
    }
}

#[test]
fn a_replacement_keeps_what_memory_has_found_since_the_refresh_that_is_owed() {
    let owed = refresh_from("R1", "R2");
    for (revision, expected) in [(6, "6 elsewhere R2"), (7, "7 elsewhere R2"), (8, "8 elsewhere R3")] {
        let replacement = with_refresh(1, revision, "elsewhere", "R3");
        assert_eq!(shown(&Debt::of_replacement(replacement, true, Some(&owed)).record), expected);
    }
}

#[test]
fn a_refresh_token_that_came_with_a_replacement_that_is_owed_is_kept_whatever_the_store_has() {
    let own = Debt::of_replacement(with_refresh(1, 6, "first", "own"), false, None);
    let refresh = Debt::of_refresh(
        with_refresh(1, 7, "second", "next"),
        with_refresh(1, 6, "first", "own").token,
        None,
        Some(&own),
    );
    let login = Debt::of_login(with_refresh(1, 6, "first", "own"));
    let refresh_of_a_login = Debt::of_refresh(with_refresh(1, 7, "second", "next"), None, None, Some(&login));
    let keeping = |owed: &Debt, refresh: &str| {
        Debt::of_replacement(with_refresh(1, 8, "again", refresh), true, Some(owed))
    };
    let found = with_refresh(1, 9, "others", "R3");
    for (debt, expected) in [
        (keeping(&own, "own"), "10 again own"),
        (keeping(&keeping(&own, "own"), "own"), "10 again own"),
        (keeping(&refresh, "next"), "10 again next"),
        (refresh_of_a_login, "10 second next"),
        // That of a login is there, if anything of the session is.
        (keeping(&login, "own"), "10 again R3"),
    ] {
        assert_eq!(shown(&debt.change_above(Some(&found))), expected);
    }
}

#[test]
fn a_refresh_token_that_came_with_a_replacement_is_kept_as_any_other_when_the_store_has_had_it() {
    let siblings = with_refresh(1, 9, "others", "R3");
    for (seen, expected) in [
        (with_refresh(1, 6, "first", "own"), "10 second R3"),
        (with_refresh(1, 6, "first", "others"), "10 second own"),
        (with_refresh(2, 6, "first", "own"), "10 second own"),
        (record(1, 6, "first"), "10 second own"),
    ] {
        let own = Debt::of_replacement(with_refresh(1, 6, "first", "own"), false, None);
        let keeping =
            |owed: &Debt| Debt::of_replacement(with_refresh(1, 7, "second", "own"), true, Some(owed));
        let before = keeping(&own);
        own.take_notice_of(&seen);
        before.take_notice_of(&seen);
        for debt in [before, keeping(&own)] {
            assert_eq!(shown(&debt.change_above(Some(&siblings))), expected, "{seen:?}");
        }
    }
}

#[test]
fn the_refresh_of_a_replacement_takes_a_siblings_refresh_token_unless_it_has_spent_the_one_that_was_kept() {
    let replacement = Debt::of_replacement(with_refresh(1, 6, "first", "R1"), true, None);
    for (next, expected) in [("R1", "10 second R3"), ("R2", "10 second R2")] {
        let refresh = Debt::of_refresh(
            with_refresh(1, 7, "second", next),
            with_refresh(1, 6, "first", "R1").token,
            None,
            Some(&replacement),
        );
        let found = with_refresh(1, 9, "others", "R3");
        assert_eq!(shown(&refresh.change_above(Some(&found))), expected);
        assert_eq!(refresh.needs_to_know_what_is_there(), next == "R1");
    }
}

#[test]
fn only_what_goes_back_to_a_replacement_that_has_kept_the_refresh_token_needs_to_know_what_is_there() {
    let first = || with_refresh(1, 6, "first", "R1");
    for (owed, needs_to_know) in [
        (Debt::of_login(first()), false),
        (Debt::of_replacement(first(), false, None), false),
        (Debt::of_replacement(first(), true, None), true),
    ] {
        let second = with_refresh(1, 7, "second", "R1");
        let refresh = Debt::of_refresh(second, first().token, None, Some(&owed));
        for debt in [owed, refresh] {
            assert_eq!(debt.needs_to_know_what_is_there(), needs_to_know);
        }
    }
}

#[test]
fn only_a_refresh_stands_for_itself_when_what_it_was_of_is_there() {
    let login = record(1, 5, "first");
    let refresh = refresh(Some(&Debt::of_login(login.clone())));
    assert!(refresh.is_refresh_of(&login));
    let handed_down = Debt::of_refresh(
        with_refresh(1, 8, "elsewhere", "R2"),
        with_refresh(1, 7, "elsewhere", "R1").token,
        None,
        Some(&Debt::of_replacement(with_refresh(1, 7, "elsewhere", "R1"), true, None)),
    );
    assert!(!handed_down.is_refresh_of(&with_refresh(1, 5, "first", "R1")));
    assert!(!Debt::of_replacement(record(1, 7, "elsewhere"), true, Some(&refresh)).is_refresh_of(&login));
}
