//! Stores, records, and what is wrong with a file.

use std::{fs, time::UNIX_EPOCH};

use tower_token_refresh::{
    FetchContext, FetchError, Session, Token,
    event::Event,
    source_fn,
    store::{FileStore, MemoryStore, Record, SessionId, StoredToken, TokenStore},
};

use super::Seen;

fn record() -> Record {
    let mut token = StoredToken::new("canary-access");
    token.refresh = Some("canary-refresh".into());
    token.kind = Some("canary-kind".into());
    (token.expires_at, token.refresh_expires_at) = (Some(UNIX_EPOCH), Some(UNIX_EPOCH));
    Record::new(SessionId(7), 1, token)
}

#[tokio::test(start_paused = true)]
async fn neither_stores_nor_records_show_a_secret() {
    let seen = Seen::default();
    let directory = tempfile::tempdir().unwrap();
    seen.debug(&record());
    seen.debug(&record().token);
    let (memory, file) = (MemoryStore::new(), FileStore::new(directory.path().join("token.json")));
    memory.save(&record(), None).await.unwrap();
    file.save(&record(), None).await.unwrap();
    seen.debug(&memory);
    seen.debug(&file);
    seen.debug(&memory.load().await.unwrap());
    seen.debug(&file.load().await.unwrap());
    seen.debug(&memory.lock().await.unwrap());
    seen.debug(&file.lock().await.unwrap());
    // A lease that is not the last.
    seen.error(&*memory.save(&record(), Some(0)).await.unwrap_err());
    seen.error(&*file.save(&record(), Some(0)).await.unwrap_err());
    seen.has_no_canary_among(&["Record {", "StoredToken {", "MemoryStore(", "FileStore {", "Lease {"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_file_is_told_without_its_content() {
    let seen = Seen::default();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token.json");
    FileStore::new(&path).save(&record(), None).await.unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    assert!(whole.contains("canary-access"));
    for damaged in [
        whole.replace("\"version\"", "\"canary-version\""),
        whole.replace("\"version\": 1", "\"version\": 2"),
        whole.replace("\"session\": \"", "\"session\": \"canary"),
        whole.replace("\"revision\": ", "\"revision\": \"canary\", \"x\": "),
        whole.replace("\"expires_at\": 0", "\"expires_at\": \"canary\""),
        whole.replace("\"canary-access\"", "[\"canary-access\"]"),
        whole[..whole.find("canary-refresh").unwrap() + 9].to_owned(),
        "canary".to_owned(),
    ] {
        assert_ne!(damaged, whole);
        fs::write(&path, damaged).unwrap();
        let store = FileStore::new(&path);
        seen.error(&*store.load().await.unwrap_err());
        let told = seen.clone();
        let session = Session::builder(source_fn(|_: FetchContext| async {
            Ok::<_, FetchError>(Token::new("canary-access"))
        }))
        .store(store)
        .observer(move |event: &Event<'_>| {
            told.debug(event);
            if let Event::StoreFailed { error, .. } = event {
                told.error(*error);
            }
        })
        .build();
        session.token().await.unwrap();
    }
    seen.has_no_canary_among(&["the token file is damaged", "unknown version", "StoreFailed"]);
}
