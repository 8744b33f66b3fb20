//! The refresh tokens that a session has presented, as far as it has to know one again.

use crate::{secret::Secret, token::Token};

/// How many spent refresh tokens are known again.
pub(super) const REMEMBERED: usize = 16;

#[derive(Default)]
pub(super) struct Presented {
    /// Those that the authority has refused, which are not presented again.
    refused: Vec<Secret>,
    /// The last ones that refreshes have spent, here or elsewhere: whoever says one of them again has it from before that.
    spent: Vec<Secret>,
}

impl Presented {
    pub(super) fn refused(&self) -> &[Secret] {
        &self.refused
    }

    pub(super) fn has_refused(&self, refresh_token: Option<&Secret>) -> bool {
        refresh_token.is_some_and(|token| token.is_among(&self.refused))
    }

    /// The authority has refused these.
    pub(super) fn refuse(&mut self, refresh_tokens: Vec<Secret>) {
        for token in refresh_tokens {
            if !self.has_refused(Some(&token)) {
                self.refused.push(token);
            }
        }
    }

    /// Another identity: what was refused was not its own.
    pub(super) fn forget_refused(&mut self) {
        self.refused.clear();
    }

    /// `next` is in use, and not spent: an authority may keep a refresh token.
    pub(super) fn spend(&mut self, spent: Vec<Secret>, next: Option<&Secret>) {
        self.spent.retain(|before| !before.is_among(&spent));
        self.spent.extend(spent);
        self.spent.retain(|spent| !next.is_some_and(|next| next.same_as(spent)));
        let too_many = self.spent.len().saturating_sub(REMEMBERED);
        self.spent.drain(..too_many);
    }

    /// Whether a replacement that says this keeps the session's own refresh token: it says none, or that one, or one from
    /// before the last refreshes. Those may still be good, and are better than none, or one that was refused.
    pub(super) fn is_kept(&self, own: Option<&Secret>, said: &Token) -> bool {
        let is_own = |said: &Secret| own.is_some_and(|own| own.same_as(said));
        let has_better = own.is_some() && !self.has_refused(own);
        let is_known = |said: &Secret| is_own(said) || (has_better && said.is_among(&self.spent));
        said.keeps_refresh_token() || said.refresh().is_some_and(is_known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_kept(presented: &Presented, said: &str) -> bool {
        presented.is_kept(Some(&"own".into()), &Token::new("token").refresh_token(said))
    }

    #[test]
    fn what_was_spent_is_known_again_unless_it_is_in_use_or_nothing_better_is() {
        let mut presented = Presented::default();
        presented.spend(vec!["a".into(), "b".into()], Some(&"b".into()));
        assert!(is_kept(&presented, "a"));
        assert!(!is_kept(&presented, "b"), "the authority has kept it");
        assert!(!is_kept(&presented, "new"));
        presented.refuse(vec!["own".into()]);
        assert!(!is_kept(&presented, "a"), "it may still be good");
        assert!(is_kept(&presented, "own"));
        presented.forget_refused();
        assert!(is_kept(&presented, "a"));
    }

    #[test]
    fn the_last_ones_that_were_spent_are_remembered_each_once() {
        let mut presented = Presented::default();
        for number in 0..=REMEMBERED {
            presented.spend(vec![number.to_string().as_str().into()], None);
            presented.spend(vec!["again".into()], None);
        }
        assert!(is_kept(&presented, "again"));
        assert!(is_kept(&presented, "2"));
        assert!(!is_kept(&presented, "1"));
    }
}
