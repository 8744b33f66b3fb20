//! A token in a file, for one process or many; and what stores that are shared owe to those who share them.

use std::{
    collections::BTreeMap,
    env, fs,
    future::Future,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, UNIX_EPOCH},
};

use http::StatusCode;
use tempfile::TempDir;
use tokio_test::{assert_pending, task};
use tower_token_refresh::{
    BoxError, Error, ErrorKind, FetchContext, FetchError, Session, Token,
    event::Event,
    session::SessionBuilder,
    source_fn,
    store::{Damaged, FileStore, MemoryStore, Record, SessionId, StoredToken, Superseded, TokenStore},
    test_util::{Endpoint, Failure, ModelAuthority, TestClock},
};

use crate::{watched::Wordy, world::World};

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.beside("")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.directory.path().join(format!("token.json{suffix}"))
    }

    fn store(&self) -> FileStore {
        FileStore::new(self.path())
    }

    fn world(&self, authority: &ModelAuthority) -> World {
        world(self.store(), authority)
    }

    /// Another process stops in the middle of a save, until this is dropped.
    fn stop_saves(&self) -> fs::File {
        let stopped = fs::OpenOptions::new().write(true).open(self.beside(".fence")).unwrap();
        fs4::FileExt::try_lock(&stopped).unwrap();
        stopped
    }

    /// A refresh that succeeds and is not saved.
    async fn refresh_without_saving(&self, world: &World) -> fs::File {
        let gate = world.authority.hold(Endpoint::Refresh);
        let mut refresh = task::spawn(world.session.refresh());
        assert_pending!(refresh.poll());
        in_time(gate.waiting(1)).await;
        let stopped = self.stop_saves();
        gate.open();
        in_time(refresh).await.expect("a store that hangs stops no refresh");
        stopped
    }
}

fn world(store: impl TokenStore, authority: &ModelAuthority) -> World {
    World::with(authority.clone(), |session| session.store(store), |layer| layer)
}

fn record(revision: u64) -> Record {
    let mut token = StoredToken::new(format!("access-{revision}"));
    token.refresh = Some(format!("refresh-{revision}").into());
    token.expires_at = Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    token.refresh_expires_at = Some(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    Record::new(SessionId(0xfeed), revision, token)
}

fn refresh_token(record: &Record) -> Option<&str> {
    record.token.as_ref()?.refresh.as_ref().map(|refresh| refresh.expose())
}

async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(3600), future).await.expect("an answer within the virtual hour")
}

#[tokio::test]
async fn a_record_comes_back_as_it_was_saved() {
    let place = Place::new();
    let store = place.store();
    assert!(store.load().await.unwrap().is_none());
    store.save(&record(3), Some(1)).await.unwrap();
    let found = place.store().load().await.unwrap().unwrap();
    let (was, is) = (record(3).token.unwrap(), found.token.as_ref().unwrap());
    assert_eq!((found.session, found.revision), (SessionId(0xfeed), 3));
    assert_eq!((is.expires_at, is.refresh_expires_at), (was.expires_at, was.refresh_expires_at));
    assert_eq!(is.access.expose(), "access-3");
    assert_eq!(refresh_token(&found), Some("refresh-3"));

    let bare = StoredToken::new("\"quoted\"\n\u{1f511}");
    store.save(&Record::new(SessionId(0xfeed), 4, bare), Some(1)).await.unwrap();
    let found = store.load().await.unwrap().unwrap().token.unwrap();
    assert_eq!(found.access.expose(), "\"quoted\"\n\u{1f511}");
    assert!(found.refresh.is_none() && found.expires_at.is_none() && found.refresh_expires_at.is_none());

    store.save(&Record::new(SessionId(0xfeed), 5, None), Some(1)).await.unwrap();
    let found = store.load().await.unwrap().unwrap();
    assert_eq!((found.revision, found.token.is_none()), (5, true), "a logout is a record, too");
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_the_files_and_the_directory_is_left_as_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let place = Place::new();
    fs::set_permissions(place.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(place.path(), "readable by all").unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let lease = place.store().lock().await.unwrap();
    place.store().save(&record(1), Some(lease.fence())).await.unwrap();
    for suffix in ["", ".lock", ".fence"] {
        assert_eq!(mode(&place.beside(suffix)), 0o600, "{suffix:?}");
    }
    assert_eq!(mode(place.directory.path()), 0o755);
}

#[tokio::test]
async fn fields_of_a_later_release_are_ignored() {
    let place = Place::new();
    let text = r#"{"version":1,"session":"feed","revision":2,"note":[],"token":{"access":"a","scope":"x"}}"#;
    fs::write(place.path(), text).unwrap();
    let found = place.store().load().await.unwrap().unwrap();
    assert_eq!((found.session, found.revision), (SessionId(0xfeed), 2));
    assert_eq!(found.token.unwrap().access.expose(), "a");
}

/// Contents that are no record.
fn no_records(whole: &[u8]) -> Vec<Vec<u8>> {
    let texts = [
        "",
        "null",
        "[]",
        "\"\"",
        "{}",
        "<html>",
        r#"{"version":2,"session":"feed","revision":2,"token":null}"#,
        r#"{"version":"1","session":"feed","revision":2,"token":null}"#,
        r#"{"session":"feed","revision":2,"token":null}"#,
        r#"{"version":1,"session":"no hex","revision":2,"token":null}"#,
        r#"{"version":1,"session":"feed","revision":-1,"token":null}"#,
        r#"{"version":1,"session":"feed","revision":2}"#,
        r#"{"version":1,"session":"feed","revision":2,"token":"a"}"#,
        r#"{"version":1,"session":"feed","revision":2,"token":{}}"#,
        r#"{"version":1,"session":"feed","revision":2,"token":{"access":1}}"#,
        r#"{"version":1,"session":"feed","revision":2,"token":{"access":"a","refresh":1}}"#,
        r#"{"version":1,"session":"feed","revision":2,"token":{"access":"a","expires_at":"soon"}}"#,
    ];
    let not_text = vec![vec![0xff; 40], vec![0; 4096]];
    // The last byte is the line's end, which may be missing.
    let cut_short = (0..whole.len() - 1).map(|length| whole[..length].to_vec());
    texts.map(|text| text.as_bytes().to_vec()).into_iter().chain(not_text).chain(cut_short).collect()
}

#[tokio::test]
async fn whatever_is_no_record_is_an_error_and_is_kept_aside_by_the_next_save() {
    let place = Place::new();
    place.store().save(&record(1), Some(0)).await.unwrap();
    for content in no_records(&fs::read(place.path()).unwrap()) {
        fs::write(place.path(), &content).unwrap();
        let error = place.store().load().await.unwrap_err();
        assert!(error.is::<Damaged>(), "{error:?}");
        assert!(error.to_string().starts_with("the token file "), "{error}");
        assert_eq!(fs::read(place.path()).unwrap(), content, "looking at it changes nothing");
        place.store().save(&record(1), Some(0)).await.unwrap();
        assert_eq!(fs::read(place.beside(".corrupt")).unwrap(), content);
        assert!(place.store().load().await.unwrap().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_reports_a_damaged_file_and_goes_on_as_logged_out() {
    let place = Place::new();
    fs::write(place.path(), "{\"version\":1,\"tok").unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let authority = ModelAuthority::new();
    let world = World::with(
        authority.clone(),
        |session| {
            session.store(place.store()).observer(move |event: &Event<'_>| {
                if let Event::StoreFailed { error, .. } = event {
                    let cause = std::error::Error::source(error).unwrap().to_string();
                    seen.lock().unwrap().push(cause);
                }
            })
        },
        |layer| layer,
    );
    assert_eq!(in_time(world.get("/")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(authority.counts().logins, 1);
    assert_eq!(*told.lock().unwrap(), ["the token file is damaged"]);
    assert!(place.beside(".corrupt").exists());
    let found = place.store().load().await.unwrap().unwrap();
    assert!(found.token.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_requires_a_login_where_there_is_no_other_way_and_gives_way_to_it() {
    for replaces in [false, true] {
        let place = Place::new();
        fs::write(place.path(), "{\"version\":1,\"tok").unwrap();
        let source = source_fn(|cx: FetchContext| async move {
            assert!(cx.refresh_token().is_none());
            Err::<Token, _>(FetchError::login_required("nothing to refresh with"))
        });
        let session = Session::builder(source).store(place.store()).build();
        let error = in_time(session.token()).await.unwrap_err();
        assert!(error.is_login_required(), "{error:?}");
        let token = Token::new("of-bob");
        let saved = if replaces { session.replace(token).await } else { session.login(token).await };
        saved.unwrap();
        let found = place.store().load().await.unwrap().unwrap().token.unwrap();
        assert_eq!(found.access.expose(), "of-bob");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_record_counts_as_logged_out_although_the_store_says_so_in_its_own_words() {
    let place = Place::new();
    fs::write(place.path(), "{").unwrap();
    let source = source_fn(|_| async { Err(FetchError::login_required("nothing to refresh with")) });
    let session = Session::builder(source).store(Wordy(place.store())).build();
    let error = in_time(session.token()).await.unwrap_err();
    assert!(error.is_login_required(), "{error:?}");
}

/// What may become of the file while a process runs that knows what was in it.
fn losses() -> [fn(&Path); 2] {
    [|path| fs::remove_file(path).unwrap(), |path| fs::write(path, "{").unwrap()]
}

#[tokio::test(start_paused = true)]
async fn a_login_or_logout_after_the_file_was_lost_is_obeyed_by_a_process_that_still_runs() {
    for lose in losses() {
        let place = Place::new();
        let authority = ModelAuthority::new().account("bob", "builder");
        let daemon = place.world(&authority);
        daemon.session.token().await.unwrap();
        for _ in 0..5 {
            in_time(daemon.session.refresh()).await.unwrap();
        }
        lose(&place.path());
        let bob = authority.login_as("bob", "builder").await.unwrap();
        place.world(&authority).session.login(bob.clone()).await.unwrap();
        let found = in_time(daemon.session.refresh()).await.unwrap();
        assert_eq!(found.access().expose(), bob.access().expose());

        lose(&place.path());
        place.world(&authority).session.logout().await.unwrap();
        assert_eq!(in_time(daemon.session.refresh()).await.unwrap_err().kind(), ErrorKind::SessionEnded);
        assert!(place.store().load().await.unwrap().unwrap().token.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_after_the_file_was_lost_is_obeyed_by_a_process_that_has_only_read_it() {
    for lose in losses() {
        let place = Place::new();
        let authority = ModelAuthority::new().account("bob", "builder");
        let before = place.world(&authority);
        before.session.token().await.unwrap();
        for _ in 0..5 {
            in_time(before.session.refresh()).await.unwrap();
        }
        drop(before);
        // Nobody uses the store, and the record may come from a backup.
        fs::remove_file(place.beside(".fence")).unwrap();
        let daemon = place.world(&authority);
        daemon.session.token().await.unwrap();
        lose(&place.path());
        let bob = authority.login_as("bob", "builder").await.unwrap();
        place.world(&authority).session.login(bob.clone()).await.unwrap();
        let found = in_time(daemon.session.refresh()).await.unwrap();
        assert_eq!(found.access().expose(), bob.access().expose());
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_after_the_file_was_lost_is_found_by_a_process_whose_session_is_over() {
    for lose in losses() {
        let place = Place::new();
        let process = || {
            // A refresh token that says how often it can still be used.
            let source = source_fn(|cx: FetchContext| async move {
                let uses: u32 = cx.refresh_token().map_or(0, |refresh| refresh.expose().parse().unwrap());
                let left = uses.checked_sub(1).ok_or_else(|| FetchError::login_required("over"))?;
                Ok(Token::new(format!("first-{left}")).refresh_token(left.to_string()))
            });
            Session::builder(source).store(place.store()).build()
        };
        let daemon = process();
        daemon.login(Token::new("first").refresh_token("5")).await.unwrap();
        for _ in 0..5 {
            in_time(daemon.refresh()).await.unwrap();
        }
        assert!(in_time(daemon.refresh()).await.unwrap_err().is_login_required());
        lose(&place.path());
        process().login(Token::new("second")).await.unwrap();
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(in_time(daemon.refresh()).await.unwrap().access().expose(), "second");
    }
}

#[tokio::test]
async fn a_damaged_file_that_cannot_be_kept_aside_is_an_error_that_says_where() {
    let place = Place::new();
    fs::write(place.path(), "{").unwrap();
    fs::create_dir(place.beside(".corrupt")).unwrap();
    let error = place.store().save(&record(1), Some(0)).await.unwrap_err().to_string();
    assert!(error.contains("token.json.corrupt"), "`{error}` does not say which file");
    assert_eq!(fs::read(place.path()).unwrap(), b"{");
}

#[tokio::test(start_paused = true)]
async fn a_save_that_is_refused_leaves_a_damaged_file_where_it_is() {
    let place = Place::new();
    let first = place.store().lock().await.unwrap().fence();
    drop(place.store().lock().await.unwrap());
    fs::write(place.path(), "{").unwrap();
    place.store().save(&record(1), Some(first)).await.unwrap_err();
    assert_eq!(fs::read(place.path()).unwrap(), b"{");
    assert!(!place.beside(".corrupt").exists());
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_does_not_exist_stops_no_request() {
    let place = Place::new();
    let authority = ModelAuthority::new();
    let world = world(FileStore::new(place.directory.path().join("missing/token.json")), &authority);
    assert_eq!(in_time(world.get("/")).await.unwrap().status(), StatusCode::OK);
    let error = world.session.settle().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("missing/token.json"), "`{cause}` does not say which file");
    assert!(!place.directory.path().join("missing").exists(), "it is not ours to make");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_held_by_one_and_its_number_grows() {
    let place = Place::new();
    let first = place.store().lock().await.unwrap();
    let other = place.store();
    let mut second = task::spawn(other.lock());
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut second).await.is_err());
    drop(first);
    let second = in_time(second).await.unwrap();
    assert_eq!(second.fence(), 2);
    let panicked = tokio::spawn(async move {
        let _lease = second;
        panic!("while it holds the lease");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(in_time(place.store().lock()).await.unwrap().fence(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_the_lease_that_is_given_up_leaves_it_free() {
    let place = Place::new();
    let held = place.store().lock().await.unwrap();
    for _ in 0..20 {
        let waiting = place.store();
        let mut wait = task::spawn(async move { waiting.lock().await.map(drop) });
        assert_pending!(wait.poll());
        drop(wait);
    }
    drop(held);
    assert_eq!(in_time(place.store().lock()).await.unwrap().fence(), 2);
}

#[tokio::test(start_paused = true)]
async fn identities_with_files_in_one_directory_wait_for_no_common_lock() {
    let place = Place::new();
    let store = |name: &str| FileStore::new(place.directory.path().join(name));
    let authority = ModelAuthority::new();
    let (alice, bob) = (world(store("alice.json"), &authority), world(store("bob.json"), &authority));
    let _held = store("alice.json").lock().await.unwrap();
    assert_pending!(task::spawn(alice.session.token()).poll());
    let start = tokio::time::Instant::now();
    in_time(bob.session.token()).await.unwrap();
    in_time(bob.session.refresh()).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(store("alice.json").load().await.unwrap().is_none());
    assert!(store("bob.json").load().await.unwrap().is_some());
}

#[tokio::test]
async fn a_file_that_may_be_the_helper_of_another_store_is_no_place_for_a_record() {
    let place = Place::new();
    let lease = place.store().lock().await.unwrap();
    place.store().save(&record(1), Some(lease.fence())).await.unwrap();
    fs::write(place.beside(".corrupt"), "kept aside").unwrap();
    let files = || {
        let entries = fs::read_dir(place.directory.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect::<BTreeMap<_, _>>()
    };
    let before = files();
    for suffix in [".tmp", ".corrupt", ".lock", ".fence", ".LOCK", ".fence.Fence", "/.lock", "/.."] {
        let store = FileStore::new(place.beside(suffix));
        let load = store.load().await.unwrap_err();
        let save = store.save(&record(9), None).await.unwrap_err();
        let lock = store.lock().await.unwrap_err();
        for error in [load, save, lock].map(|error| error.to_string()) {
            let allowed = "does not end with `.tmp`, `.corrupt`, `.lock` or `.fence`";
            assert!(error.contains(&format!("token.json{suffix}: ")) && error.contains(allowed), "{error}");
        }
    }
    assert!(FileStore::new("").load().await.is_err());
    assert_eq!(files(), before);
    for suffix in [".lock.json", "lock", ".locks"] {
        FileStore::new(place.beside(suffix)).save(&record(1), None).await.unwrap();
    }
}

/// A pipe would be read without an end, a device be replaced: by root, for everybody.
#[cfg(unix)]
#[tokio::test]
async fn what_is_no_regular_file_is_no_place_for_a_record() {
    use std::os::unix::{fs::symlink, net::UnixListener};
    let makes: [fn(&Path); 4] = [
        |path| symlink("/dev/null", path).unwrap(),
        |path| drop(UnixListener::bind(path).unwrap()),
        |path| fs::create_dir(path).unwrap(),
        |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
    ];
    for make in makes {
        let place = Place::new();
        make(&place.path());
        let kind = || fs::symlink_metadata(place.path()).unwrap().file_type();
        let before = kind();
        let load = place.store().load().await.unwrap_err();
        let save = place.store().save(&record(1), None).await.unwrap_err();
        let lock = place.store().lock().await.unwrap_err();
        for error in [load, save, lock].map(|error| error.to_string()) {
            assert!(error.contains("token.json: ") && error.contains("no regular file"), "{error}");
        }
        assert_eq!(kind(), before);
        assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 1, "nothing beside the {before:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_never_released_delays_a_request_for_no_longer_than_the_lease_wait() {
    let place = Place::new();
    let authority = ModelAuthority::new();
    let world = place.world(&authority);
    world.session.token().await.unwrap();
    let lease = place.store().lock().await.unwrap();
    let start = tokio::time::Instant::now();
    assert!(in_time(world.session.refresh()).await.unwrap_err().is_transient());
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    assert_eq!(authority.counts().refreshes, 0, "its holder is spending the refresh token");
    drop(lease);
    tokio::time::advance(Duration::from_secs(2)).await;
    in_time(world.session.refresh()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shared_store_refuses_what_came_too_late() {
    async fn judge(store: impl TokenStore) {
        let first = store.lock().await.unwrap().fence();
        let second = store.lock().await.unwrap().fence();
        store.save(&record(5), Some(second)).await.unwrap();
        let late = store.save(&record(6), Some(first)).await.unwrap_err();
        assert!(!late.is::<Superseded>());
        assert_eq!(store.load().await.unwrap().unwrap().revision, 5);

        store.save(&Record::new(SessionId(0xfeed), 1, None), None).await.unwrap();
        let logout = store.load().await.unwrap().unwrap();
        assert_eq!((logout.revision, logout.token.is_none()), (7, true), "later than the refresh under way");
        assert!(store.save(&record(6), Some(second)).await.unwrap_err().is::<Superseded>());
        assert!(store.load().await.unwrap().unwrap().token.is_none());
    }
    judge(MemoryStore::new()).await;
    judge(Place::new().store()).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_put_there_or_lost_counts_for_what_it_is() {
    let (place, elsewhere) = (Place::new(), Place::new());
    let store = place.store();
    elsewhere.store().save(&record(50), None).await.unwrap();
    fs::copy(elsewhere.path(), place.path()).unwrap();
    store.save(&record(1), None).await.unwrap();
    assert_eq!(store.load().await.unwrap().unwrap().revision, 52, "a login outdoes what was put there");
    let lease = store.lock().await.unwrap();
    fs::remove_file(place.path()).unwrap();
    store.save(&record(6), Some(lease.fence())).await.unwrap();
    assert_eq!(
        store.load().await.unwrap().unwrap().revision,
        6,
        "nothing is there that a refresh gives way to"
    );
}

#[tokio::test(start_paused = true)]
async fn sessions_on_one_file_refresh_once_between_them() {
    let place = Place::new();
    let authority = ModelAuthority::new().newest_only();
    let (one, other) = (place.world(&authority), place.world(&authority));
    one.session.token().await.unwrap();
    other.session.token().await.unwrap();
    assert_eq!(authority.counts().logins, 1, "the second reads what the first has saved");
    authority.revoke_access();
    let (first, second) = tokio::join!(one.get("/"), other.get("/"));
    assert_eq!((first.unwrap().status(), second.unwrap().status()), (StatusCode::OK, StatusCode::OK));
    let counts = authority.counts();
    assert_eq!((counts.logins, counts.refreshes, counts.presented_again()), (1, 1, 0));
}

/// The identity ends in one process while another one refreshes it.
async fn logout_during_a_siblings_refresh(ours: World, siblings: World, store: impl TokenStore) {
    siblings.session.token().await.unwrap();
    let gate = siblings.authority.hold(Endpoint::Refresh);
    let mut refresh = task::spawn(siblings.session.refresh());
    assert_pending!(refresh.poll());
    gate.waiting(1).await;
    in_time(ours.session.logout()).await.unwrap();
    gate.open();
    // It has a token, which it may use until it hears of the logout.
    let _ = in_time(refresh).await;
    in_time(siblings.session.settle()).await.unwrap();
    assert!(store.load().await.unwrap().unwrap().token.is_none(), "the logout stands");
    let ended = in_time(siblings.session.refresh()).await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::SessionEnded);
    assert_eq!(siblings.authority.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_logout_is_not_undone_by_the_refresh_of_a_sibling() {
    let place = Place::new();
    let authority = ModelAuthority::new();
    let ours = place.world(&authority);
    ours.session.token().await.unwrap();
    logout_during_a_siblings_refresh(ours, place.world(&authority), place.store()).await;

    let store = MemoryStore::new();
    let authority = ModelAuthority::new();
    let ours = world(store.clone(), &authority);
    ours.session.token().await.unwrap();
    logout_during_a_siblings_refresh(ours, world(store.clone(), &authority), store).await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_started_to_log_out_ends_the_others() {
    let place = Place::new();
    let authority = ModelAuthority::new();
    logout_during_a_siblings_refresh(place.world(&authority), place.world(&authority), place.store()).await;
}

#[tokio::test(start_paused = true)]
async fn a_login_stands_against_a_sibling_whose_refreshes_it_has_not_seen() {
    let place = Place::new();
    let authority = ModelAuthority::new().account("bob", "builder");
    let (ours, sibling) = (place.world(&authority), place.world(&authority));
    ours.session.token().await.unwrap();
    sibling.session.token().await.unwrap();
    for _ in 0..5 {
        in_time(sibling.session.refresh()).await.unwrap();
    }
    let bob = authority.login_as("bob", "builder").await.unwrap();
    in_time(ours.session.login(bob.clone())).await.unwrap();
    let found = in_time(sibling.session.refresh()).await.unwrap();
    assert_eq!(found.access().expose(), bob.access().expose());
    let rotated = in_time(ours.session.refresh()).await.unwrap();
    let found = in_time(sibling.session.refresh()).await.unwrap();
    assert_eq!(found.access().expose(), rotated.access().expose(), "one identity, one token");
    assert_eq!(authority.counts().presented_again(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_of_another_identity_is_refreshed_before_anybody_gets_it() {
    const MINUTE: Duration = Duration::from_secs(60);
    for fails in [false, true] {
        for ask in ["token", "a token that lasts", "refresh", "request"] {
            let (place, clock) = (Place::new(), TestClock::new());
            let authority = ModelAuthority::new()
                .account("bob", "builder")
                .clock(clock.clone())
                .access_lifetime(120 * MINUTE);
            let process = || {
                let on_file = |session: SessionBuilder| session.store(place.store()).clock(clock.clone());
                World::with(authority.clone(), on_file, |layer| layer)
            };
            let daemon = process();
            daemon.session.token().await.unwrap();
            process().session.login(authority.login_as("bob", "builder").await.unwrap()).await.unwrap();
            clock.advance(180 * MINUTE);
            if fails {
                authority.fail_always(Endpoint::Refresh, Failure::Reset);
            }
            let got = in_time(async {
                Ok(match ask {
                    "token" => daemon.session.token().await?,
                    "a token that lasts" => daemon.session.token_valid_for(5 * MINUTE).await?,
                    "refresh" => daemon.session.refresh().await?,
                    _ => {
                        daemon.get("/").await?;
                        daemon.session.token().await?
                    }
                })
            });
            let got: Result<Token, BoxError> = got.await;
            assert_eq!(authority.counts().refreshes, 1, "{ask}");
            if fails {
                assert!(
                    Error::find(&*got.unwrap_err()).unwrap().is_transient(),
                    "{ask}: nobody gets the dead one"
                );
                assert!(daemon.api.requests().is_empty());
            } else {
                assert_eq!(authority.holder(got.unwrap().access().expose()).as_deref(), Some("bob"), "{ask}");
                assert!(daemon.api.requests().len() <= 1, "the dead token was not even tried");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_that_was_given_up_is_not_made_after_the_next() {
    let place = Place::new();
    let authority = ModelAuthority::new();
    let world = place.world(&authority);
    world.session.token().await.unwrap();
    let stopped = place.refresh_without_saving(&world).await;
    assert_eq!(in_time(world.session.logout()).await.unwrap_err().kind(), ErrorKind::Store);
    drop(stopped);
    in_time(world.session.settle()).await.unwrap();
    assert!(place.store().load().await.unwrap().unwrap().token.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_still_owed_does_not_overwrite_a_siblings_login() {
    let place = Place::new();
    let authority = ModelAuthority::new().account("bob", "builder");
    let world = place.world(&authority);
    world.session.token().await.unwrap();
    drop(place.refresh_without_saving(&world).await);
    let bob = authority.login_as("bob", "builder").await.unwrap();
    place.world(&authority).session.login(bob.clone()).await.unwrap();
    in_time(world.session.settle()).await.unwrap();
    let found = in_time(world.session.refresh()).await.unwrap();
    assert_eq!(found.access().expose(), bob.access().expose());
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_still_owed_stands_against_what_siblings_have_saved() {
    let place = Place::new();
    let authority = ModelAuthority::new().account("bob", "builder");
    let (ours, sibling) = (place.world(&authority), place.world(&authority));
    ours.session.token().await.unwrap();
    sibling.session.token().await.unwrap();
    for _ in 0..5 {
        in_time(sibling.session.refresh()).await.unwrap();
    }
    let bob = authority.login_as("bob", "builder").await.unwrap();
    let stopped = place.stop_saves();
    assert_eq!(in_time(ours.session.login(bob.clone())).await.unwrap_err().kind(), ErrorKind::Store);
    assert!(in_time(ours.session.refresh()).await.unwrap_err().is_transient());
    let used = ours.session.token().await.unwrap();
    assert_eq!(used.access().expose(), bob.access().expose(), "although a later record was found");
    drop(stopped);
    tokio::time::advance(Duration::from_secs(2)).await;
    let rotated = in_time(ours.session.refresh()).await.unwrap();
    assert_eq!(authority.counts().presented_again(), 0);
    let found = in_time(sibling.session.refresh()).await.unwrap();
    assert_eq!(found.access().expose(), rotated.access().expose(), "the sibling is bob now");
}

#[test]
fn debug_shows_the_path_and_nothing_of_the_token() {
    let shown = format!("{:?}", FileStore::new("/somewhere/token.json"));
    assert!(shown.contains("token.json"));
    assert!(!format!("{:?}", record(1)).contains("access-1"));
}

/// Set in a child process: its file, and how often it is to refresh.
const CHILD: &str = "TOKEN_REFRESH_TEST_CHILD";
const ROTATIONS: usize = 500;

/// The authority lives in the parent. A child asks it over its own error output, one refresh token a line, and reads
/// the answer from its input: no sockets, and the test harness's own output is out of the way.
fn ask_parent(refresh_token: &str) -> Token {
    eprintln!("refresh {refresh_token}");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).unwrap();
    let (access, refresh) = answer.trim_end().split_once(' ').unwrap();
    Token::new(access).refresh_token(refresh)
}

async fn be_a_child(path: String) {
    let fetched = Arc::new(Mutex::new(0));
    let counted = fetched.clone();
    let source = source_fn(move |cx: FetchContext| {
        let counted = counted.clone();
        async move {
            let spent = cx.refresh_token().expect("the parent has logged in").expose().to_owned();
            *counted.lock().unwrap() += 1;
            let token = tokio::task::spawn_blocking(move || ask_parent(&spent)).await.unwrap();
            Ok::<_, FetchError>(token)
        }
    });
    let session = Session::builder(source).store(FileStore::new(path)).build();
    while *fetched.lock().unwrap() < ROTATIONS {
        // Half of the time the sibling's token is found in the file, and nothing has to be fetched.
        session.refresh().await.unwrap();
    }
    session.settle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_rotate_one_refresh_token_in_turns_and_never_spend_one_twice() {
    if let Ok(path) = env::var(CHILD) {
        return be_a_child(path).await;
    }
    let place = Place::new();
    let authority = ModelAuthority::new();
    place.world(&authority).session.token().await.unwrap();
    let (asked, questions) = mpsc::channel();
    let mut children = Vec::new();
    for child in 0..2 {
        let test = "file_store::two_processes_rotate_one_refresh_token_in_turns_and_never_spend_one_twice";
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, place.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, asked) = (BufReader::new(process.stderr.take().unwrap()).lines(), asked.clone());
        std::thread::spawn(move || {
            for line in lines {
                asked.send((child, line.unwrap())).unwrap();
            }
        });
        children.push((process.stdin.take().unwrap(), process));
    }
    drop(asked);
    let mut turns = Vec::new();
    while let Ok((child, line)) = questions.recv_timeout(Duration::from_secs(60)) {
        let Some(spent) = line.strip_prefix("refresh ") else { panic!("child {child} says: {line}") };
        let token = authority.refresh(spent).await.expect("a refresh token that nobody has spent");
        let refresh = token.refresh().unwrap().expose();
        writeln!(children[child].0, "{} {refresh}", token.access().expose()).unwrap();
        turns.push(child);
    }
    for (_, mut process) in children {
        assert!(process.wait().unwrap().success());
    }
    let counts = authority.counts();
    assert_eq!((counts.logins, counts.refreshes), (1, 2 * ROTATIONS));
    assert_eq!((counts.family_deaths, counts.presented_again()), (0, 0));
    let changes = turns.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes > 0, "both were at it at the same time");
}
