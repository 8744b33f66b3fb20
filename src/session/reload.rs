//! What a record in the store means for a session.

use super::{
    ask::{Known, Obtained, Plan},
    engine::Engine,
    issued::{Issued, Provenance, Sendable},
    record_head::RecordHead,
};
use crate::{
    source::Cause,
    store::{Record, StoredToken},
};

#[derive(Debug)]
pub(crate) enum Reloaded {
    /// Nothing new: go on from what the session has.
    Nothing(RecordHead),
    /// A newer token of this session.
    Token(RecordHead, StoredToken),
    /// Another identity.
    Replaced(RecordHead, StoredToken),
    /// The session has ended.
    Ended(RecordHead),
}

/// A record counts if its revision is higher than memory's, or if it has memory's revision and another token: a refresh
/// was saved and ended before memory had counted it. A session that has never had a token takes whatever identity it
/// finds, and one that has seen no record takes a first one of any number. After a logout only another login counts.
pub(crate) fn reload(base: RecordHead, known: &Known, found: Option<Record>) -> Reloaded {
    let is_news = |found: &Record| {
        let is_first = base.revision == 0 && known.current.is_none();
        let is_later = is_first || found.revision > base.revision || is_uncounted(base, known, found);
        is_later && known.may_take(found)
    };
    let Some(found) = found.filter(is_news) else {
        return Reloaded::Nothing(base);
    };
    let head = found.head();
    match (found.token, &known.current) {
        // A login that nothing has been got for yet: whoever has no token goes over to it all the same. So does a session that
        // nobody would look for again, although the access token may have died meanwhile.
        (Some(token), None)
            if head.session != base.session
                && (token.to_token().has_only_refresh()
                    || known.is_logged_out_here && token.refresh.is_some()) =>
        {
            Reloaded::Replaced(head, token)
        }
        (Some(token), None) => Reloaded::Token(head, token),
        (Some(token), Some(_)) if head.session == base.session => Reloaded::Token(head, token),
        (Some(token), Some(_)) => Reloaded::Replaced(head, token),
        // Whoever logged out on this store, maybe without ever having looked into it: it is the user's word.
        (None, Some(_)) => Reloaded::Ended(head),
        (None, None) => Reloaded::Nothing(RecordHead { revision: head.revision, ..base }),
    }
}

fn is_uncounted(base: RecordHead, known: &Known, found: &Record) -> bool {
    let (Some(token), Some(current)) = (&found.token, &known.current) else { return false };
    let is_other_refresh = match (current.token().refresh(), &token.refresh) {
        (Some(ours), Some(found)) => !ours.same_as(found),
        (ours, found) => ours.is_some() != found.is_some(),
    };
    let is_other = is_other_refresh || !current.token().access().same_as(&token.access);
    is_other && (found.session, found.revision) == (base.session, base.revision)
}

/// The stored token, unless it is the one that the session has, has expired, or cannot be sent.
fn alive(engine: &Engine, plan: &Plan, found: &StoredToken, provenance: Provenance) -> Option<Sendable> {
    if plan.known.current.as_ref().is_some_and(|current| is_no_better(current, plan.cause, found)) {
        return None;
    }
    engine.sendable(found.to_token(), provenance).ok().filter(|fresh| !fresh.came_too_late())
}

/// Whether it is the current token again. Authorities that prolong a token instead of changing it give a better one, but for
/// whoever was refused with it, or asks for a new one.
fn is_no_better(current: &Issued, cause: Cause, found: &StoredToken) -> bool {
    let is_unwanted = matches!(cause, Cause::Refused | Cause::Forced) || current.is_condemned();
    let is_same = current.token().access().same_as(&found.access);
    is_same && (is_unwanted || found.expires_at <= current.stored().expires_at)
}

/// What a reloaded record comes to.
pub(crate) enum Taken {
    /// All that a refresh is for.
    Enough(Obtained),
    /// Where a fetch sets out from, and the token before.
    Base(RecordHead, Option<StoredToken>),
}

/// What a record that was found comes to, for a session that stands where the plan was made.
pub(crate) fn take_found(
    engine: &Engine,
    plan: &Plan,
    found: Option<Record>,
    provenance: Provenance,
) -> Taken {
    take(engine, plan, reload(plan.known.record, &plan.known, found), provenance)
}

pub(crate) fn take(engine: &Engine, plan: &Plan, reloaded: Reloaded, provenance: Provenance) -> Taken {
    let known = &plan.known;
    let before = || known.current.as_ref().map(|current| current.stored());
    match reloaded {
        Reloaded::Token(record, token) => match alive(engine, plan, &token, provenance) {
            Some(fresh) => Taken::Enough(Obtained::Token { fresh, record }),
            None => Taken::Base(record, Some(token)),
        },
        Reloaded::Replaced(record, token) => {
            match engine.reported(engine.sendable(token.to_token(), provenance)) {
                Some(fresh) => Taken::Enough(Obtained::Replaced { fresh, record }),
                // There is nothing in it to go over to.
                None => Taken::Base(RecordHead { revision: record.revision, ..known.record }, before()),
            }
        }
        Reloaded::Ended(record) => Taken::Enough(Obtained::Ended { record }),
        Reloaded::Nothing(record) => Taken::Base(record, before()),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{
        super::renewal::{Renewal, RenewalMode},
        *,
    };
    use crate::{generation::Epoch, placement::Placement, store::SessionId, time::Now, token::Token};

    const OURS: SessionId = SessionId(1);
    const OTHERS: SessionId = SessionId(2);

    fn issued(token: Token) -> Arc<Issued> {
        let renewal = Renewal { mode: RenewalMode::Off, before: Duration::ZERO, jitter: Duration::ZERO };
        let now = Now { monotonic: Duration::ZERO, wall: Duration::ZERO };
        Sendable::new(token, &Placement::bearer(), &renewal, now, Provenance::New)
            .expect("a token that can be sent")
            .issue(Epoch::default(), Arc::default())
    }

    /// What the record comes to for a session of ours that stands at revision 5.
    fn reloaded(current: Option<&str>, session: SessionId, revision: u64, access: Option<&str>) -> String {
        let base = RecordHead { session: OURS, revision: 5 };
        let current = current.map(|access| issued(Token::new(access)));
        let found = Record { session, revision, token: access.map(StoredToken::new) };
        let (what, head) = match reload(
            base,
            &Known {
                epoch: Epoch::default(),
                record: base,
                ended: None,
                needs_another_login: false,
                is_logged_out_here: false,
                current,
            },
            Some(found),
        ) {
            Reloaded::Nothing(head) => ("nothing", head),
            Reloaded::Token(head, _) => ("token", head),
            Reloaded::Replaced(head, _) => ("replaced", head),
            Reloaded::Ended(head) => ("ended", head),
        };
        format!("{what} {} {}", if head.session == OURS { "ours" } else { "others" }, head.revision)
    }

    #[test]
    fn a_record_counts_if_it_is_later_or_another_token_of_the_same_number() {
        for (session, revision, access, expected) in [
            (OURS, 6, Some("next"), "token ours 6"),
            (OURS, 5, Some("next"), "token ours 5"),
            (OURS, 5, Some("current"), "nothing ours 5"),
            (OURS, 4, Some("next"), "nothing ours 5"),
            (OTHERS, 6, Some("next"), "replaced others 6"),
            (OTHERS, 5, Some("next"), "nothing ours 5"),
            (OURS, 6, None, "ended ours 6"),
            (OTHERS, 6, None, "ended others 6"),
            (OURS, 5, None, "nothing ours 5"),
        ] {
            assert_eq!(
                reloaded(Some("current"), session, revision, access),
                expected,
                "{revision} {access:?}"
            );
        }
    }

    #[test]
    fn another_refresh_token_is_another_token() {
        let of = |refresh: Option<&str>| StoredToken {
            refresh: refresh.map(Into::into),
            ..StoredToken::new("current")
        };
        let base = RecordHead { session: OURS, revision: 5 };
        for (ours, found, is_news) in [
            (None, None, false),
            (Some("R1"), Some("R1"), false),
            (Some("R1"), Some("R2"), true),
            (None, Some("R1"), true),
        ] {
            let known = Known {
                epoch: Epoch::default(),
                record: base,
                ended: None,
                needs_another_login: false,
                is_logged_out_here: false,
                current: Some(issued(of(ours).to_token())),
            };
            let found = Record { session: OURS, revision: 5, token: Some(of(found)) };
            assert_eq!(matches!(reload(base, &known, Some(found)), Reloaded::Token(..)), is_news, "{ours:?}");
        }
    }

    #[test]
    fn a_session_that_has_never_had_a_token_takes_any_identity_and_counts_on_from_its_end() {
        for (session, revision, access, expected) in [
            (OTHERS, 6, Some("next"), "token others 6"),
            (OTHERS, 6, None, "nothing ours 6"),
            (OTHERS, 5, Some("next"), "nothing ours 5"),
        ] {
            assert_eq!(reloaded(None, session, revision, access), expected, "{revision} {access:?}");
        }
    }
}
