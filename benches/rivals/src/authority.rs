use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::gate::Gate;

/// A model of an authority that keeps only the newest token alive.
#[derive(Debug, Clone)]
pub struct Authority {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    conduct: Conduct,
    book: Mutex<Book>,
    answers: Gate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// Gives a token to everybody who asks.
    Generous,
    /// Each refresh token can be used once. One that is used again ends everything that came from it.
    Rotating,
    /// Gives the first token, and fails from then on, each time after as long as a call over a network takes.
    FailingAfterTheFirst(Duration),
}

#[derive(Debug, Default)]
struct Book {
    issued: usize,
    revoked: bool,
    family_killed: bool,
}

#[derive(Debug)]
pub struct Grant {
    pub access: String,
    pub refresh: String,
}

/// No token was given.
#[derive(Debug, Clone, Copy)]
pub struct Failure;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the authority gave no token")
    }
}

impl std::error::Error for Failure {}

impl Authority {
    pub fn new(conduct: Conduct) -> Self {
        let state = State { conduct, book: Mutex::default(), answers: Gate::new(true) };
        Authority { state: Arc::new(state) }
    }

    /// Gives a new token. It is decided at once and answered when the [gate](Self::answers) is open, so that a caller who
    /// leaves in between loses an answer that counts.
    pub async fn fetch(&self, refresh: Option<&str>) -> Result<Grant, Failure> {
        let decision = self.decide(refresh);
        self.state.answers.pass().await;
        if let (Err(_), Conduct::FailingAfterTheFirst(latency)) = (&decision, self.state.conduct) {
            tokio::time::sleep(latency).await;
        }
        decision
    }

    fn decide(&self, refresh: Option<&str>) -> Result<Grant, Failure> {
        let mut book = self.state.book.lock().expect("nobody panics with the book");
        let is_first = book.issued == 0;
        match self.state.conduct {
            Conduct::FailingAfterTheFirst(_) if !is_first => return Err(Failure),
            Conduct::Rotating if !is_first && refresh != Some(&refresh_token(book.issued)) => {
                book.family_killed = true;
                return Err(Failure);
            }
            _ => {}
        }
        book.issued += 1;
        book.revoked = false;
        Ok(Grant { access: access_token(book.issued), refresh: refresh_token(book.issued) })
    }

    pub fn accepts(&self, access: &str) -> bool {
        let book = self.state.book.lock().expect("nobody panics with the book");
        !book.revoked && !book.family_killed && access == access_token(book.issued)
    }

    pub fn revoke(&self) {
        self.state.book.lock().expect("nobody panics with the book").revoked = true;
    }

    pub fn has_killed_the_family(&self) -> bool {
        self.state.book.lock().expect("nobody panics with the book").family_killed
    }

    pub fn answers(&self) -> &Gate {
        &self.state.answers
    }

    pub fn fetches(&self) -> usize {
        self.state.answers.arrivals()
    }
}

fn access_token(number: usize) -> String {
    format!("access-{number}")
}

fn refresh_token(number: usize) -> String {
    format!("refresh-{number}")
}
