//! One of many identities, and the authority that knows it.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tower_token_refresh::{
    Session, Token, TokenSource,
    event::Event,
    store::MemoryStore,
    test_util::{ModelAuthority, TestClock},
};

use crate::{tally::Tally, trouble::Trouble};

/// In the tally.
pub(crate) const FAILED_REFRESHES: &str = "refreshes that failed";

pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) clock: TestClock,
    /// Whether the authority forgives a refresh token that comes again, as it must where an answer can be lost.
    pub(crate) has_grace: bool,
    store: MemoryStore,
    issuer: Mutex<Arc<Issuer>>,
    /// Access tokens that were revoked or have expired.
    pub(crate) endings: Trouble,
    /// Faults of the token endpoint.
    pub(crate) faults: Trouble,
    /// Beginnings and ends of logins, so that an odd number means that one is under way.
    changes: AtomicUsize,
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl User {
    pub(crate) async fn new(number: usize) -> Arc<Self> {
        let (name, clock, has_grace) = (format!("user-{number}"), TestClock::new(), number % 2 == 0);
        let (issuer, _) = Issuer::new(&name, &clock, has_grace).await;
        Arc::new(User {
            name,
            clock,
            has_grace,
            store: MemoryStore::new(),
            issuer: Mutex::new(issuer),
            endings: Trouble::default(),
            faults: Trouble::default(),
            changes: AtomicUsize::new(0),
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// A session that goes on from what is stored.
    pub(crate) fn session(self: &Arc<Self>, source: impl TokenSource, tally: &Arc<Tally>) -> Session {
        tally.count("sessions built");
        let (user, tally) = (self.clone(), tally.clone());
        Session::builder(source)
            .clock(self.clock.clone())
            .store(self.store.clone())
            .observer(move |event: &Event<'_>| match event {
                // A session that is built anew begins with what is stored, which may be older than a refresh that failed.
                Event::Issued { old: Some(_), .. } => {
                    user.endings.is_over();
                    user.faults.is_over();
                }
                Event::RefreshFailed { .. } => tally.count(FAILED_REFRESHES),
                Event::StoreFailed { .. } => tally.violation("a store in memory has failed"),
                _ => {}
            })
            .build()
    }

    pub(crate) fn issuer(&self) -> Arc<Issuer> {
        self.issuer.lock().expect("nothing panics here").clone()
    }

    /// Goes over to an authority that knows nothing of what was before, and logs in there.
    pub(crate) async fn log_in_anew(&self, tally: &Tally) -> Token {
        let (issuer, token) = Issuer::new(&self.name, &self.clock, self.has_grace).await;
        self.issues();
        let before = std::mem::replace(&mut *self.issuer.lock().expect("nothing panics here"), issuer);
        before.judge(&self.name, tally);
        token
    }

    /// The authority is about to issue a token.
    pub(crate) fn issues(&self) {
        self.endings.issues();
        self.faults.issues();
    }

    pub(crate) fn change_begins_or_ends(&self) {
        self.changes.fetch_add(1, SeqCst);
    }

    pub(crate) fn changes(&self) -> usize {
        self.changes.load(SeqCst)
    }

    /// Whether a login was under way at some time since then.
    pub(crate) fn has_changed_since(&self, changes: usize) -> bool {
        changes % 2 == 1 || self.changes() != changes
    }
}

/// A rotating authority with one account, from one login to the next: what a model remembers stays small.
pub(crate) struct Issuer {
    pub(crate) authority: ModelAuthority,
    /// The end of its tokens, which tells them from those of others.
    suffix: String,
    /// Refresh tokens whose answer has gone out.
    pub(crate) answered: Mutex<HashSet<String>>,
    /// Refresh tokens that have come before.
    pub(crate) seen: Mutex<HashSet<String>>,
    pub(crate) is_asked: AtomicBool,
}

impl Issuer {
    async fn new(account: &str, clock: &TestClock, has_grace: bool) -> (Arc<Self>, Token) {
        let authority = ModelAuthority::new().clock(clock.clone()).account(account, "a password");
        let authority = authority.access_lifetime(Duration::from_secs(300));
        let authority = authority.grace(Duration::from_secs(if has_grace { 3600 } else { 0 }));
        let token = authority.login_as(account, "a password").await.expect("a healthy authority");
        let text = token.access().expose();
        let suffix = text[text.find("-of-").expect("tokens of the model name their authority")..].to_owned();
        let issuer = Issuer {
            authority,
            suffix,
            answered: Mutex::default(),
            seen: Mutex::default(),
            is_asked: AtomicBool::new(false),
        };
        (Arc::new(issuer), token)
    }

    pub(crate) fn has_issued(&self, token: &str) -> bool {
        token.ends_with(&self.suffix)
    }

    pub(crate) fn judge(&self, user: &str, tally: &Tally) {
        let counts = self.authority.counts();
        if counts.family_deaths > 0 {
            tally.violation(format_args!("{user}: a spent refresh token came back and ended the session"));
        }
    }
}
