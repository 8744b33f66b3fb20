//! Runs that once broke a rule, as short as they could be made.

use std::time::Duration;

use tower_token_refresh::{session::RenewalMode, test_util::Rotation};

use crate::{
    steps::{
        Account::*, Asked, Call::*, Config, Fault::*, Hold::*, Kind::*, Outcome::*, Revoked, Step, Step::*,
    },
    world::run,
};

/// Two processes, tokens that live for ever, an authority that detects reuse, and a store that tells of nothing.
const TWO: Config = Config {
    seed: 0,
    lifetime: None,
    rotation: Rotation::ReuseKillsFamily,
    at_times: false,
    newest_only: false,
    certain: false,
    renewal: RenewalMode::Background,
    password: false,
    sibling: true,
    tells: false,
    impatient: false,
};

const A_MOMENT: Step = Pass(Duration::from_millis(1));

#[track_caller]
fn holds(config: Config, steps: &[Step]) {
    assert_eq!(run(config, steps), Ok(()));
}

/// The refresh of the unsaved login was owed in its place, as any refresh: it gave way to the record of the other account,
/// whose revision a logout had raised.
#[test]
fn the_refresh_of_a_login_that_could_not_be_saved_does_not_give_way_to_the_account_before() {
    let steps = [Logout(1), Login(0, Alice), A_MOMENT, Fault(0, Save, Fails), Login(0, Bob), Hammer(0, Sick)];
    holds(TWO, &steps);
}

/// The store had raised the login's revision above that of its refresh, which was held for outdated and forgotten.
#[test]
fn a_refresh_is_saved_above_the_login_although_the_store_could_not_be_read() {
    refreshes_while_the_store_cannot_be_read(A_MOMENT);
}

/// The same, and the record that was in the way could not be read for longer than one attempt to save.
#[test]
fn a_refresh_stays_owed_while_what_is_in_its_way_cannot_be_read() {
    refreshes_while_the_store_cannot_be_read(Pass(Duration::from_secs(29)));
}

#[track_caller]
fn refreshes_while_the_store_cannot_be_read(unreadable: Step) {
    let steps = [
        Login(0, Alice),
        A_MOMENT,
        Login(0, Alice),
        A_MOMENT,
        Fault(0, Load, Fails),
        Ask(0, Asked::Refresh),
        unreadable,
        Heal(0),
        Ask(0, Asked::Refresh),
        A_MOMENT,
        Ask(0, Asked::Refresh),
        A_MOMENT,
    ];
    holds(Config { sibling: false, ..TWO }, &steps);
}

/// Two refreshes that could not be saved have one revision: the second was not found again when it had been given up
/// between its answer and its use.
#[test]
fn a_refresh_that_is_given_up_while_it_is_saved_is_not_lost_behind_one_that_is_owed() {
    for at_last in [Heal(0), Run(1)] {
        let steps = [
            Login(0, Alice),
            A_MOMENT,
            Fault(0, Save, Fails),
            Ask(0, Asked::Refresh),
            A_MOMENT,
            Fault(0, Save, Hangs),
            Next(LateAnswer),
            Ask(0, Asked::Refresh),
            Pass(Duration::from_secs(118)),
            Release(0),
            Pass(Duration::from_secs(3)),
            at_last,
            Pass(Duration::from_secs(61)),
            Ask(0, Asked::Refresh),
            Pass(Duration::from_secs(10)),
            Ask(0, Asked::Refresh),
            A_MOMENT,
        ];
        holds(Config { sibling: false, ..TWO }, &steps);
    }
}

/// The look for a sibling after `invalid_grant` did not regard that a login was owed.
#[test]
fn a_login_that_could_not_be_saved_does_not_give_way_to_the_one_before_when_its_grant_ends() {
    let steps = [
        Login(0, Alice),
        A_MOMENT,
        Fault(1, Save, Fails),
        Login(1, Alice),
        Revoke(Revoked::Refresh),
        Hammer(1, Sick),
    ];
    holds(TWO, &steps);
}

/// Each refresh that could not be saved counted up, and so the last of them outdid whatever others had saved meanwhile.
#[test]
fn refreshes_that_could_not_be_saved_do_not_outdo_the_login_of_a_sibling() {
    let steps = [Fault(0, Save, Fails), Hammer(0, Sick), Login(1, Alice)];
    holds(Config { password: true, ..TWO }, &steps);
}

#[test]
fn refreshes_that_could_not_be_saved_do_not_outdo_the_logout_of_a_sibling() {
    let steps = [Fault(0, Save, Fails), Hammer(0, Sick), Logout(1)];
    holds(Config { password: true, ..TWO }, &steps);
}

/// A refresh that was owed together with its login went on to stand for the login when that had been saved.
#[test]
fn the_refresh_of_a_login_that_is_saved_at_last_does_not_outdo_the_login_of_a_sibling() {
    let steps = [
        Fault(1, Save, Hangs),
        Login(1, Alice),
        Request(1, Sick, Nowhere),
        Run(6),
        Fault(1, Save, Fails),
        Run(2),
        Login(0, Alice),
        Run(1),
    ];
    holds(TWO, &steps);
}

/// The refresh found out that what it owed had been outdone, and went on as if it had not.
#[test]
fn a_refresh_whose_debt_gives_way_looks_at_what_it_has_given_way_to() {
    let steps = [
        Fault(0, Save, Hangs),
        Request(1, Get, Nowhere),
        Run(4),
        Next(Late),
        Hammer(0, Sick),
        Logout(1),
        Fault(0, Save, Fails),
        Run(1),
    ];
    holds(Config { password: true, impatient: true, ..TWO }, &steps);
}

/// It presented the refresh token that it had kept, which the sibling had spent, although the store had the next one.
#[test]
fn a_replacement_that_could_not_be_saved_goes_on_with_the_refresh_token_that_a_sibling_has_saved() {
    let steps = [
        Login(0, Alice),
        Run(2),
        Fault(0, Save, Fails),
        Revoke(Revoked::Access),
        Request(1, Get, Nowhere),
        Replace(0, false),
        A_MOMENT,
        Request(0, Sick, Nowhere),
        Request(0, Get, Nowhere),
        Run(1),
    ];
    holds(Config { lifetime: Some(300), ..TWO }, &steps);
}

/// A record that had been stored since the first of them was held for older than the second.
#[test]
fn of_two_replacements_that_could_not_be_saved_the_second_goes_on_with_a_siblings_refresh_token_too() {
    let steps = [
        Login(0, Alice),
        Hammer(1, Sick),
        Replace(1, false),
        Replace(1, false),
        Fault(1, Save, Fails),
        Request(0, Get, Nowhere),
        Hammer(1, Sick),
    ];
    holds(Config { newest_only: true, tells: true, ..TWO }, &steps);
}

/// It was written over the refresh token that the sibling had saved.
#[test]
fn a_replacement_that_keeps_a_refresh_token_is_not_saved_while_the_store_cannot_be_read() {
    let steps = [
        Next(InvalidClient),
        Ask(1, Asked::Token),
        Login(0, Alice),
        Revoke(Revoked::Access),
        Run(3),
        Run(7),
        Fault(1, Load, Fails),
        Request(1, Get, Nowhere),
        Request(0, Get, Nowhere),
        A_MOMENT,
        Replace(1, false),
        Run(1),
        Ask(0, Asked::Refresh),
        Run(1),
    ];
    holds(Config { tells: true, ..TWO }, &steps);
}

/// The lease was given up as soon as the refresh that it had been kept for was owed by a replacement.
#[test]
fn the_lease_is_kept_for_a_replacement_in_the_place_of_a_refresh_that_could_not_be_saved() {
    let steps = [
        Fault(0, Save, Fails),
        Login(1, Alice),
        Request(0, Sick, Nowhere),
        Run(2),
        Run(5),
        Run(6),
        Replace(0, false),
        Next(Lost),
        Hammer(0, Sick),
        Request(1, Get, Nowhere),
        Run(1),
    ];
    holds(Config { lifetime: Some(40), ..TWO }, &steps);
}

/// To the store it was a change, which is always obeyed.
#[test]
fn what_is_handed_down_without_a_lease_gives_way_to_the_login_of_a_sibling() {
    let steps = [
        Next(Late),
        Fault(0, Lock, FailsAfterwards),
        Login(0, Alice),
        Request(0, Sick, Nowhere),
        Run(8),
        Replace(0, false),
        Run(2),
        Login(1, Alice),
        Release(0),
        Run(1),
    ];
    holds(TWO, &steps);
}

#[test]
fn a_refresh_is_not_written_again_after_a_login() {
    let steps = [
        Request(0, Get, Nowhere),
        Heal(0),
        Request(0, Get, Nowhere),
        Request(0, Get, Nowhere),
        Release(0),
        Request(0, Get, Nowhere),
        Release(0),
        Request(0, Get, Nowhere),
        Logout(0),
        Fault(0, Load, Hangs),
        Login(0, Alice),
        Ask(0, Asked::Refresh),
        Request(0, Get, Nowhere),
        Pass(Duration::from_secs(29)),
        Heal(0),
        Ask(0, Asked::Settle),
        Run(1),
        Login(0, Alice),
    ];
    let config =
        Config { seed: 7_920_771_793_516_209, lifetime: Some(40), sibling: false, impatient: true, ..TWO };
    holds(config, &steps);
}

/// The lease was given back, because no refresh token was spent, and a refresh that failed had taken the next one while the
/// token was still being written: the store refused it from then on.
#[test]
fn what_is_being_written_while_another_refresh_begins_is_written_under_its_lease() {
    let steps = [
        Next(InvalidGrant),
        Ask(0, Asked::Token),
        A_MOMENT,
        CredentialsChanged(0),
        Fault(0, Save, Hangs),
        Request(0, Get, Nowhere),
        Run(3),
        Revoke(Revoked::Access),
        Next(InvalidClient),
    ];
    holds(Config { password: true, sibling: false, ..TWO }, &steps);
}

/// The same with a refresh of a sibling, which saved what was no later record.
#[test]
fn what_could_not_be_saved_before_a_siblings_refresh_is_written_under_another_lease() {
    let steps = [
        Login(1, Alice),
        Run(2),
        Revoke(Revoked::Access),
        Request(0, Get, Nowhere),
        Ask(1, Asked::Refresh),
        Fault(1, Save, Fails),
        Run(1),
    ];
    holds(Config { rotation: Rotation::Omitted, ..TWO }, &steps);
}

/// A login that the sibling owed came into the store in the midst of it, and was gone over to: the refusals of another
/// identity are counted from one.
#[test]
fn a_login_that_a_sibling_still_owed_begins_the_doubling_anew() {
    let config = Config { lifetime: Some(300), password: true, ..TWO };
    let steps =
        [Fault(1, Save, Fails), Login(1, Alice), Pass(Duration::from_secs(1000)), Heal(1), Hammer(0, Sick)];
    holds(config, &steps);
}

/// Ours has brought no refresh token, so that its lease was not kept; the sibling's had the same number, and was
/// written over.
#[test]
fn a_refresh_that_could_not_be_saved_does_not_outdo_the_refresh_of_a_sibling_that_brings_the_next_refresh_token()
 {
    could_not_be_saved_before_a_siblings_refresh(&[]);
}

/// It was forgotten that the refresh token is the one that the replacement has kept.
#[test]
fn the_refresh_of_a_replacement_that_could_not_be_saved_goes_on_with_a_siblings_refresh_token_too() {
    could_not_be_saved_before_a_siblings_refresh(&[Replace(0, false), A_MOMENT]);
}

#[track_caller]
fn could_not_be_saved_before_a_siblings_refresh(change: &[Step]) {
    let before = [Login(0, Alice), A_MOMENT, Ask(1, Asked::Token), A_MOMENT, Fault(0, Save, Fails)];
    let after = [Ask(0, Asked::Refresh), A_MOMENT, Ask(1, Asked::Refresh), A_MOMENT, Hammer(0, Sick)];
    let steps = [&before, change, &after].concat();
    holds(Config { seed: 0b10, at_times: true, ..TWO }, &steps);
}

/// The second logout left the record as it was, so that the login elsewhere, found by a look that was on, counted after it.
#[test]
fn a_login_elsewhere_that_was_being_looked_for_does_not_undo_a_second_logout() {
    let steps = [
        Logout(0),
        Run(2),
        Fault(0, Load, Hangs),
        Login(1, Alice),
        Pass(Duration::from_millis(5100)),
        Pass(Duration::from_millis(5100)),
        Logout(0),
        Run(1),
        Fault(0, Load, Fails),
        Request(0, Get, Nowhere),
    ];
    holds(Config { tells: true, ..TWO }, &steps);
}

/// The refresh counted on from a record that was not in the store, and had given way meanwhile: it had the number of the
/// login.
#[test]
fn a_refresh_of_what_has_given_way_meanwhile_does_not_outdo_the_login_of_a_sibling() {
    what_has_given_way_is_refreshed(Login(1, Alice));
}

#[test]
fn a_refresh_of_what_has_given_way_meanwhile_does_not_outdo_the_logout_of_a_sibling() {
    what_has_given_way_is_refreshed(Logout(1));
}

#[track_caller]
fn what_has_given_way_is_refreshed(change: Step) {
    let steps = [
        Fault(0, Save, Fails),
        Ask(0, Asked::Token),
        A_MOMENT,
        Next(Late),
        Ask(0, Asked::Refresh),
        A_MOMENT,
        change,
        Pass(Duration::from_secs(5)),
        Heal(0),
        Release(0),
        A_MOMENT,
    ];
    holds(Config { password: true, ..TWO }, &steps);
}

/// The login whose save was under way had the refresh token that the refresh has spent: it was taken for what was refreshed,
/// and the replacement, which had not been saved, for nothing.
#[test]
fn what_is_handed_down_saves_the_replacement_although_the_login_before_it_comes_into_the_store_first() {
    let steps = [
        Fault(0, Save, Hangs),
        Next(Late),
        LoginByRefresh(0, Alice),
        Ask(0, Asked::Token),
        A_MOMENT,
        Replace(0, false),
        Release(0),
        A_MOMENT,
        Heal(0),
        A_MOMENT,
    ];
    holds(Config { sibling: false, ..TWO }, &steps);
}

/// The login was in the store, and its save not answered. A refresh saw it there, while the save went on, and then the
/// store could not be read: the record that had been there before it was gone by, and the session went over to the
/// account before.
#[test]
fn a_login_that_is_there_is_not_forgotten_for_what_was_there_before_it() {
    let steps = [
        Login(0, Alice),
        A_MOMENT,
        Fault(1, Save, HangsAfterwards),
        Login(1, Bob),
        Next(Unavailable),
        Ask(1, Asked::Refresh),
        A_MOMENT,
        Fault(1, Load, Fails),
        Pass(Duration::from_secs(10)),
        Ask(1, Asked::Refresh),
        A_MOMENT,
        Request(1, Get, Nowhere),
    ];
    holds(TWO, &steps);
}

/// The store had the token of a refresh that was longer ago than the replacement remembered: it was taken for a sibling's.
#[test]
fn a_replacement_that_cannot_be_saved_for_long_keeps_no_refresh_token_of_before() {
    let config = Config { certain: true, sibling: false, impatient: true, ..TWO };
    let steps = [
        Login(0, Alice),
        Fault(0, Save, FailsAfterwards),
        Hammer(0, Sick),
        Replace(0, false),
        Hammer(0, Sick),
        Replace(0, false),
        Revoke(Revoked::Access),
        Request(0, Get, Nowhere),
    ];
    holds(config, &steps);
}

/// The look for the first logout was under way, and had found nothing, when the second was meant: it was taken for a
/// look of the second, which then gave way to the login that had come between.
#[test]
fn a_look_of_before_a_second_logout_saves_no_login_from_it() {
    let steps = [
        Fault(1, Load, HangsAfterwards),
        Logout(1),
        Login(0, Alice),
        A_MOMENT,
        Heal(1),
        Fault(1, Save, Fails),
        Logout(1),
        A_MOMENT,
    ];
    holds(TWO, &steps);
}

/// The look that a process without a token makes while it waits for the lease saw that the login was there, whose save
/// had not been answered, and took no notice of it: the login was saved again, over a later one of a sibling.
#[test]
fn a_look_while_the_lease_is_waited_for_takes_notice_of_a_login_that_is_there() {
    let steps = [
        Fault(0, Lock, Hangs),
        Request(0, Get, Nowhere),
        A_MOMENT,
        Login(0, Alice),
        Fault(0, Save, FailsAfterwards),
        Pass(Duration::from_millis(600)),
        Login(1, Alice),
        A_MOMENT,
    ];
    holds(TWO, &steps);
}

/// Of two replacements, the first with a refresh token of its own, the second was owed as one that brings that, although
/// the first had been saved meanwhile and a sibling had spent it: it was presented again.
#[test]
fn a_replacement_keeps_what_a_sibling_has_got_for_the_one_before_that_was_saved_late() {
    let steps = [
        Fault(0, Save, HangsAfterwards),
        Next(Late),
        LoginByRefresh(0, Alice),
        Pass(Duration::from_secs(31)),
        Replace(0, true),
        Request(1, Get, Nowhere),
        LoginByRefresh(1, Alice),
        Run(5),
        Replace(0, false),
        Run(10),
        Fault(0, Save, Fails),
        Revoke(Revoked::Access),
        Release(13),
        Run(4),
        Request(0, Get, Nowhere),
    ];
    holds(Config { seed: 827448184264296652, lifetime: Some(300), ..TWO }, &steps);
}

/// A refresh of what a sibling had saved was being saved, which memory was behind: the replacement that was made meanwhile
/// kept memory's refresh token, which was spent.
#[test]
fn a_replacement_during_the_save_of_a_refresh_keeps_the_refresh_token_of_that() {
    let steps = [
        Hammer(1, Sick),
        Fault(1, Save, Hangs),
        Hammer(0, Sick),
        Pass(Duration::from_secs(1000)),
        Request(1, Reset(1), Nowhere),
        A_MOMENT,
        Replace(1, false),
        Heal(0),
        Pass(Duration::from_millis(5100)),
        Request(1, Sick, Nowhere),
        Run(1),
    ];
    let seed = 2480493628057715712;
    holds(Config { seed, lifetime: Some(300), at_times: true, password: true, ..TWO }, &steps);
}

/// The save of a login was not answered. The look that had found it was begun before another write ended, and was made again,
/// in vain: the refresh of the login was written over the logout that ended it meanwhile.
#[test]
fn a_login_that_a_late_look_has_found_is_not_written_over_the_logout_that_has_ended_it() {
    let steps = [
        Fault(1, Save, HangsAfterwards),
        Fault(1, Load, Hangs),
        Logout(1),
        Run(2),
        Login(1, Alice),
        Ask(1, Asked::Refresh),
        Run(7),
        Fault(1, Load, FailsAfterwards),
        Run(2),
        Logout(0),
    ];
    holds(TWO, &steps);
}
