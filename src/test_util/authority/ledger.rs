//! What the authority has handed out. Pure bookkeeping: it is told the time.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

/// What a refresh does to the refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rotation {
    /// It stays good, its life starts anew, and the answer repeats it.
    Off,
    /// As `Off`, but the answer leaves it out (RFC 6749 §6).
    Omitted,
    /// The answer brings a new one; the spent one is refused from then on.
    On,
    /// As `On`, and a spent one that is presented again ends every token that came of the same login
    /// (RFC 9700 §4.14.2). This is the default.
    ReuseKillsFamily,
}

/// An answer of the token endpoint. It holds tokens in clear and has no `Debug`.
pub(super) struct Grant {
    pub(super) access: String,
    pub(super) refresh: Option<String>,
    pub(super) expires_in: Option<Duration>,
}

pub(super) struct Ledger {
    pub(super) access_lifetime: Option<Duration>,
    pub(super) refresh_lifetime: Option<Duration>,
    pub(super) rotation: Rotation,
    pub(super) grace: Duration,
    pub(super) newest_only: bool,
    pub(super) family_deaths: usize,
    pub(super) accounts: Vec<(String, String)>,
    families: Vec<Family>,
    accesses: Vec<Access>,
    refreshes: Vec<Refresh>,
    /// Whether each code has been used.
    codes: Vec<bool>,
    /// Ends every text, so that no authority takes another one's token for its own.
    suffix: String,
}

/// All that came of one login.
struct Family {
    account: usize,
    dead: bool,
}

struct Access {
    family: usize,
    until: Option<Duration>,
    revoked: bool,
}

struct Refresh {
    family: usize,
    until: Option<Duration>,
    revoked: bool,
    spent: Option<Spent>,
}

struct Spent {
    at: Duration,
    pair: Pair,
}

/// Places in `accesses` and `refreshes`.
#[derive(Clone, Copy)]
struct Pair {
    access: usize,
    refresh: Option<usize>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        Ledger {
            access_lifetime: Some(Duration::from_secs(7200)),
            refresh_lifetime: None,
            rotation: Rotation::ReuseKillsFamily,
            grace: Duration::ZERO,
            newest_only: false,
            family_deaths: 0,
            accounts: vec![("alice".to_owned(), "wonderland".to_owned())],
            families: Vec::new(),
            accesses: Vec::new(),
            refreshes: Vec::new(),
            codes: Vec::new(),
            suffix: format!("-of-authority-{}", LAST.fetch_add(1, Ordering::Relaxed) + 1),
        }
    }

    /// A new family for somebody who knows the password.
    pub(super) fn login(&mut self, account: &str, password: &str, now: Duration) -> Option<Grant> {
        let known = |(name, secret): &(String, String)| name == account && secret == password;
        let account = self.accounts.iter().position(known)?;
        Some(self.found(account, true, now))
    }

    /// A new family for a client, which is taken for the first account.
    pub(super) fn login_client(&mut self, now: Duration) -> Grant {
        self.found(0, false, now)
    }

    /// A code that is good for one exchange.
    pub(super) fn issue_code(&mut self) -> String {
        self.codes.push(false);
        self.text("code", self.codes.len() - 1)
    }

    /// The first account's token for a code that was never used.
    pub(super) fn exchange(&mut self, code: &str, with_refresh: bool, now: Duration) -> Option<Grant> {
        let code = self.place("code", code)?;
        let used = self.codes.get_mut(code)?;
        if std::mem::replace(used, true) {
            return None;
        }
        Some(self.found(0, with_refresh, now))
    }

    pub(super) fn refresh(&mut self, token: &str, now: Duration) -> Option<Grant> {
        let place = self.place("refresh", token)?;
        let token = self.refreshes.get(place)?;
        let family = token.family;
        if self.families[family].dead || token.revoked || token.until.is_some_and(|until| until <= now) {
            return None;
        }
        if let Some(spent) = &token.spent {
            if now < spent.at.saturating_add(self.grace) {
                return Some(self.grant(spent.pair, now));
            }
            if self.rotation == Rotation::ReuseKillsFamily {
                self.families[family].dead = true;
                self.family_deaths += 1;
            }
            return None;
        }
        let access = self.issue_access(family, now);
        let rotates = matches!(self.rotation, Rotation::On | Rotation::ReuseKillsFamily);
        let refresh = if rotates {
            Some(self.issue_refresh(family, now))
        } else {
            self.refreshes[place].until = self.refresh_lifetime.map(|lifetime| now.saturating_add(lifetime));
            (self.rotation == Rotation::Off).then_some(place)
        };
        let pair = Pair { access, refresh };
        if rotates {
            self.refreshes[place].spent = Some(Spent { at: now, pair });
        }
        Some(self.grant(pair, now))
    }

    /// The account of a token that is good now.
    pub(super) fn holder(&self, access: &str, now: Duration) -> Option<&str> {
        let token = self.accesses.get(self.place("access", access)?)?;
        let family = &self.families[token.family];
        let dead = family.dead || token.revoked || token.until.is_some_and(|until| until <= now);
        (!dead).then(|| &*self.accounts[family.account].0)
    }

    pub(super) fn revoke_access(&mut self) {
        self.accesses.iter_mut().for_each(|token| token.revoked = true);
    }

    pub(super) fn revoke_refresh(&mut self) {
        self.refreshes.iter_mut().for_each(|token| token.revoked = true);
    }

    /// The family of the newest token.
    pub(super) fn revoke_family(&mut self) {
        if let Some(newest) = self.accesses.last() {
            self.families[newest.family].dead = true;
        }
    }

    /// The number in a refresh token of ours; zero for any other text.
    pub(super) fn refresh_number(&self, token: &str) -> usize {
        self.place("refresh", token)
            .filter(|&place| place < self.refreshes.len())
            .map_or(0, |place| place + 1)
    }

    /// A new family, and its first tokens.
    fn found(&mut self, account: usize, with_refresh: bool, now: Duration) -> Grant {
        self.families.push(Family { account, dead: false });
        let family = self.families.len() - 1;
        let access = self.issue_access(family, now);
        let refresh = with_refresh.then(|| self.issue_refresh(family, now));
        self.grant(Pair { access, refresh }, now)
    }

    fn issue_access(&mut self, family: usize, now: Duration) -> usize {
        if self.newest_only {
            let account = self.families[family].account;
            for token in
                self.accesses.iter_mut().filter(|token| self.families[token.family].account == account)
            {
                token.revoked = true;
            }
        }
        let until = self.access_lifetime.map(|lifetime| now.saturating_add(lifetime));
        self.accesses.push(Access { family, until, revoked: false });
        self.accesses.len() - 1
    }

    fn issue_refresh(&mut self, family: usize, now: Duration) -> usize {
        let until = self.refresh_lifetime.map(|lifetime| now.saturating_add(lifetime));
        self.refreshes.push(Refresh { family, until, revoked: false, spent: None });
        self.refreshes.len() - 1
    }

    fn grant(&self, pair: Pair, now: Duration) -> Grant {
        Grant {
            access: self.text("access", pair.access),
            refresh: pair.refresh.map(|place| self.text("refresh", place)),
            expires_in: self.accesses[pair.access].until.map(|until| until.saturating_sub(now)),
        }
    }

    /// Texts count from one.
    fn text(&self, kind: &str, place: usize) -> String {
        format!("{kind}-{}{}", place + 1, self.suffix)
    }

    fn place(&self, kind: &str, text: &str) -> Option<usize> {
        let number = text.strip_prefix(kind)?.strip_prefix('-')?.strip_suffix(&self.suffix)?;
        let place = number.parse::<usize>().ok()?.checked_sub(1)?;
        // A number can be written in several ways, a token in one.
        (self.text(kind, place) == text).then_some(place)
    }
}
