//! How an endpoint that always refuses is kept from costing one fetch after another.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use http::{Method, Uri};

use crate::{
    classify::Verdict,
    generation::Generation,
    sync::{Mutex, MutexGuard, PoisonError},
};

const AT_MOST_AFTER_REJECT: Duration = Duration::from_secs(5);
const AT_MOST: Duration = Duration::from_secs(60);
/// After so many refreshes in a row whose token got a sure refusal, the next one is doubted for longer: the server may learn of
/// a token late, or its clock may be behind, and each was replaced just before it would have been accepted.
const SURE: u32 = 4;
/// A token that nobody has refused for so long was good.
const GOOD_AFTER: Duration = Duration::from_secs(30);
/// As soon as so many targets have refused in vain, all are taken to refuse: a path for each item must not cost a fetch for
/// each.
const TARGETS: usize = 8;

/// What a refused request was for: its method and path. An endpoint that forbids something says nothing of the others, whose
/// token may really be revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target(u32);

impl Target {
    pub(crate) fn of(method: &Method, uri: &Uri) -> Self {
        let mut hasher = DefaultHasher::new();
        (method, uri.authority(), uri.path()).hash(&mut hasher);
        // Half of it leaves an ask, and so each wait, as small as it is.
        Target(hasher.finish() as u32)
    }
}

/// What the latest refreshes were good for; shared by all tokens of one identity.
#[derive(Debug, Default)]
pub(crate) struct Damper(Mutex<Judged>);

#[derive(Debug, Default)]
struct Judged {
    /// Refreshes in a row whose token was refused again.
    fruitless: u32,
    /// Those of them whose refusal was sure.
    sure: u32,
    /// Who has refused it.
    targets: Vec<Target>,
    /// The generation whose refusal has started the latest refresh, and where, until that is judged.
    unjudged: Option<(Generation, Target)>,
}

impl Damper {
    pub(super) fn fruitless(&self) -> u32 {
        self.judged().fruitless
    }

    /// The refusal of this generation starts a refresh.
    pub(super) fn leave_unjudged(&self, refused: Generation, target: Target) {
        self.judged().unjudged = Some((refused, target));
    }

    /// The answer to the resend after that refusal.
    pub(super) fn judge(&self, refused: Generation, target: Target, verdict: Verdict) {
        self.judged().judge(refused, target, verdict);
    }

    /// Whether the refusal of a token of this age starts no refresh, because those for this target have been in vain. The
    /// age below which a refusal starts none doubles with every refresh in a row whose token was refused again. If nobody has
    /// judged the refresh that has brought this token, this refusal does, because an endpoint that always refuses does so
    /// soon; that counts from the next refusal on, because this token may really have been revoked.
    pub(super) fn damps(&self, verdict: Verdict, target: Target, refused: Generation, age: Duration) -> bool {
        let mut judged = self.judged();
        let before = judged.waits(target);
        let was_good = age >= GOOD_AFTER;
        judged.judge_what_brought(refused, target, if was_good { Verdict::Accept } else { verdict });
        let fruitless = judged.waits(target).min(before);
        fruitless > 0 && age < wait(verdict, fruitless, judged.sure)
    }

    /// A token gives way to the next one at this age. A later refusal is of that one, and judges no refresh before it.
    pub(super) fn retire(&self, token: Generation, age: Duration) {
        if age >= GOOD_AFTER {
            self.judged().judge_what_brought(token, Target::default(), Verdict::Accept);
        }
    }

    fn judged(&self) -> MutexGuard<'_, Judged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The age before which the refusal of a token says nothing, after so many refreshes in vain, so many of them surely.
fn wait(verdict: Verdict, fruitless: u32, sure: u32) -> Duration {
    let doubled = |times: u32, at_most| Duration::from_secs(1 << times.min(16)).min(at_most);
    match verdict {
        Verdict::Reject if sure <= SURE => doubled(fruitless, AT_MOST_AFTER_REJECT),
        // 8 s after the fifth.
        Verdict::Reject => doubled(sure - SURE + 2, AT_MOST),
        _ => doubled(fruitless, AT_MOST),
    }
}

impl Judged {
    /// The first refusal of a token, or its long life, judges the refresh that has brought it, if nobody has.
    fn judge_what_brought(&mut self, token: Generation, by: Target, verdict: Verdict) {
        if self.unjudged.take_if(|(refused, _)| token > *refused).is_some() {
            self.count(by, verdict);
        }
    }

    /// Each refresh counts as fruitless once at most.
    fn judge(&mut self, refused: Generation, target: Target, verdict: Verdict) {
        let is_first = self.unjudged.take_if(|unjudged| *unjudged == (refused, target)).is_some();
        if verdict == Verdict::Accept || is_first {
            self.count(target, verdict);
        }
    }

    fn count(&mut self, target: Target, verdict: Verdict) {
        if verdict == Verdict::Accept {
            (self.fruitless, self.sure) = (0, 0);
            self.targets.clear();
            return;
        }
        self.fruitless = self.fruitless.saturating_add(1);
        self.sure = self.sure.saturating_add(u32::from(verdict == Verdict::Reject));
        if !self.is_known(target) {
            self.targets.push(target);
        }
    }

    /// How many fruitless refreshes there are for a target to wait for.
    fn waits(&self, target: Target) -> u32 {
        if self.is_known(target) { self.fruitless } else { 0 }
    }

    /// Whether it is one of those that refuse, for all that is known.
    fn is_known(&self, target: Target) -> bool {
        self.targets.len() >= TARGETS || self.targets.contains(&target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Target {
        Target::of(&Method::GET, &format!("https://api.example.com{path}").parse().expect("a URI"))
    }

    fn refuse_in_vain(damper: &Damper, target: Target) {
        let refused = Generation::next();
        damper.leave_unjudged(refused, target);
        damper.judge(refused, target, Verdict::Suspect);
    }

    fn is_damped(damper: &Damper, target: Target) -> bool {
        damper.damps(Verdict::Suspect, target, Generation::next(), Duration::ZERO)
    }

    #[test]
    fn who_has_not_refused_in_vain_is_believed_however_often_others_have() {
        let (damper, uri) = (Damper::default(), "https://api.example.com/a?c=d".parse().expect("a URI"));
        for _ in 0..2 * TARGETS {
            refuse_in_vain(&damper, target("/a?b"));
        }
        assert!(is_damped(&damper, Target::of(&Method::GET, &uri)));
        let elsewhere = "https://example.com/a".parse().expect("a URI");
        for other in [target("/b"), Target::of(&Method::PUT, &uri), Target::of(&Method::GET, &elsewhere)] {
            assert!(!is_damped(&damper, other));
        }
    }

    #[test]
    fn all_are_doubted_when_many_have_refused_in_vain_until_a_refresh_was_good() {
        let damper = Damper::default();
        for path in 1..TARGETS {
            refuse_in_vain(&damper, target(&format!("/{path}")));
            assert!(!is_damped(&damper, target("/0")));
        }
        refuse_in_vain(&damper, target("/8"));
        assert!(is_damped(&damper, target("/0")));
        damper.judge(Generation::next(), target("/0"), Verdict::Accept);
        refuse_in_vain(&damper, target("/1"));
        assert!(!is_damped(&damper, target("/2")));
    }

    #[test]
    fn who_refuses_the_new_token_is_remembered_and_not_who_could_not_tell() {
        let damper = Damper::default();
        damper.leave_unjudged(Generation::next(), target("/upload"));
        assert!(!is_damped(&damper, target("/sick")), "it counts from the next refusal on");
        assert_eq!(damper.fruitless(), 1);
        assert!(is_damped(&damper, target("/sick")));
        assert!(!is_damped(&damper, target("/upload")));
    }

    #[test]
    fn a_sure_refusal_is_doubted_for_long_after_sure_ones_in_vain_only() {
        for (before, is_doubted) in [(Verdict::Suspect, false), (Verdict::Reject, true)] {
            let damper = Damper::default();
            for _ in 0..20 {
                let refused = Generation::next();
                damper.leave_unjudged(refused, target("/a"));
                damper.judge(refused, target("/a"), before);
            }
            let age = AT_MOST_AFTER_REJECT;
            let is_damped = damper.damps(Verdict::Reject, target("/a"), Generation::next(), age);
            assert_eq!(is_damped, is_doubted, "{before:?}");
        }
    }

    #[test]
    fn a_refresh_that_another_has_followed_is_not_held_against_it() {
        let (damper, refused) = (Damper::default(), Generation::next());
        damper.leave_unjudged(refused, target("/a"));
        damper.leave_unjudged(refused, target("/b"));
        damper.judge(refused, target("/a"), Verdict::Suspect);
        assert_eq!(damper.fruitless(), 0);
        damper.judge(refused, target("/b"), Verdict::Suspect);
        assert_eq!(damper.fruitless(), 1);
    }
}
