//! A session's events in a log.

use std::{
    fmt::{Debug, Write},
    io,
    sync::{Arc, Mutex},
};

use tower_token_refresh::{
    FetchError, Session, Token,
    event::TracingObserver,
    source::oauth2::{RefreshTokenGrant, TokenEndpoint},
    source_fn,
    store::FileStore,
};
use tracing::{
    Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::set_default,
};

use crate::idp::Idp;

/// A subscriber that keeps each event as a line.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "tower_token_refresh"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn each_event_is_a_line_of_its_level_with_what_cannot_hold_a_secret() {
    let lines = Lines::default();
    let _guard = set_default(lines.clone());
    let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "canary");
    let answers = Mutex::new(vec![
        Err(FetchError::login_required("canary")),
        Err(FetchError::transient(refused)),
        Ok(Token::new("access")),
    ]);
    let source = source_fn(move |_| {
        let answer = answers.lock().unwrap().pop().unwrap();
        async { answer }
    });
    let session = Session::builder(source).observer(TracingObserver::named("crm")).build();
    let first = session.token().await.unwrap();
    session.refresh().await.unwrap_err();
    session.credentials_changed();
    session.refresh().await.unwrap_err();
    session.login(Token::new("another")).await.unwrap();
    session.logout().await.unwrap();
    assert_eq!(first.access().expose(), "access");

    let lines = lines.take();
    let lines: Vec<_> = lines.iter().map(|line| line.split(" new=").next().unwrap()).collect();
    let issued = r#"DEBUG message=another token is in use session="crm""#;
    let expected = [
        issued,
        r#"WARN message=a refresh has failed session="crm" error=no new token could be had for now kind=Transient cause="connection refused""#,
        r#"ERROR message=somebody has to log in session="crm" error=a login is required: there is nothing left to get a token with kind=LoginRequired"#,
        issued,
        r#"INFO message=the session was logged out session="crm""#,
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_store_that_fails_is_told_by_the_kind_of_its_error() {
    let lines = Lines::default();
    let _guard = set_default(lines.clone());
    let directory = tempfile::tempdir().unwrap();
    let nowhere = FileStore::new(directory.path().join("canary").join("token.json"));
    let source = source_fn(|_| async { Ok(Token::new("access")) });
    let session = Session::builder(source).store(nowhere).observer(TracingObserver::default()).build();
    session.login(Token::new("access")).await.unwrap_err();
    let lines = lines.take();
    let told = r#"ERROR message=the token store has failed error=the token store failed kind=Store cause="entity not found""#;
    assert!(lines.iter().any(|line| line == told), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_cause_in_our_own_words_is_told() {
    let lines = Lines::default();
    let _guard = set_default(lines.clone());
    let endpoint = TokenEndpoint::new(Idp::default(), "https://id.test/token".parse().unwrap());
    let observer = TracingObserver::default();
    let session = Session::builder(RefreshTokenGrant::new(endpoint)).observer(observer).build();
    session.token().await.unwrap_err();
    let told = lines.take();
    assert!(told[0].ends_with(r#"kind=LoginRequired cause="there is no refresh token""#), "{told:?}");
}

#[tokio::test]
async fn a_damaged_token_file_is_told_as_such() {
    let lines = Lines::default();
    let _guard = set_default(lines.clone());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "canary").unwrap();
    let source = source_fn(|_| async { Ok(Token::new("access")) });
    let session = Session::builder(source).store(FileStore::new(file.path()));
    session.observer(TracingObserver::default()).build().token().await.unwrap();
    let told = lines.take();
    assert!(told[0].ends_with(r#"kind=Store cause="the token file is damaged""#), "{told:?}");
}
