//! What a process leaves behind that is killed at some step of a save, or while it holds a lease.

use std::{
    env,
    path::Path,
    process::{self, Command},
    sync::mpsc,
    thread,
};

use super::*;
use crate::{
    secret::Secret,
    store::{SessionId, StoredToken},
};

/// Set in a child process: the step at which it dies, and its file.
const STEP: &str = "TOKEN_REFRESH_TEST_STEP";
const FILE: &str = "TOKEN_REFRESH_TEST_FILE";

const STEPS: [&str; 7] = ["begun", "created", "half written", "written", "synced", "renamed", "done"];

/// Ends the process, if it is a child that is to die here: at once, as a kill would, without destructors.
pub(super) fn reached(step: &str) {
    if env::var(STEP).is_ok_and(|fatal| fatal == step) {
        process::abort();
    }
}

fn pair(number: u64) -> Record {
    let text = |kind: &str| Secret::from(format!("{kind}-{number}"));
    let token = StoredToken { refresh: Some(text("refresh")), ..StoredToken::new(text("access")) };
    Record { session: SessionId(7), revision: number, token: Some(token) }
}

fn numbers(record: &Record) -> (u64, String, String) {
    let token = record.token.as_ref().unwrap();
    let refresh = token.refresh.as_ref().unwrap();
    (record.revision, token.access.expose().to_owned(), refresh.expose().to_owned())
}

/// Runs the test of this name again in a process of its own, until it dies.
fn in_a_child(test: &str, step: &str, file: &Path) {
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(STEP, step)
        .env(FILE, file)
        .output()
        .unwrap()
        .status;
    assert_ne!(status.code(), Some(101), "the child must die at {step:?}, not fail");
    assert!(!status.success(), "the child must die at {step:?}");
}

#[tokio::test]
async fn killed_at_any_step_of_a_save_the_file_holds_the_old_pair_or_the_new_one() {
    if let (Ok(_), Ok(file)) = (env::var(STEP), env::var(FILE)) {
        let store = FileStore::new(file);
        let lease = store.lock().await.unwrap();
        store.save(&pair(2), Some(lease.fence())).await.unwrap();
        return;
    }
    for step in STEPS {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::new(directory.path().join("token.json"));
        store.save(&pair(1), Some(0)).await.unwrap();
        in_a_child(
            "store::file::tests::killed_at_any_step_of_a_save_the_file_holds_the_old_pair_or_the_new_one",
            step,
            &store.path,
        );
        let survived = if matches!(step, "renamed" | "done") { 2 } else { 1 };
        assert_eq!(numbers(&store.load().await.unwrap().unwrap()), numbers(&pair(survived)), "{step}");

        let lease = store.lock().await.unwrap();
        assert_eq!(lease.fence(), 2, "the dead process holds no lock, and its number is not used again");
        store.save(&pair(3), Some(lease.fence())).await.unwrap();
        assert_eq!(numbers(&store.load().await.unwrap().unwrap()), numbers(&pair(3)), "{step}");
        assert!(!store.beside(".tmp").exists(), "what was half written is gone");
    }
}

#[test]
fn a_record_that_cannot_be_put_in_its_place_leaves_no_copy_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token.json");
    fs::create_dir(&path).unwrap();
    let temporary = directory.path().join("token.json.tmp");
    atomic::replace(&path, None, &temporary, b"a record").unwrap_err();
    assert!(!temporary.exists());
}

#[tokio::test]
async fn a_process_that_ends_while_it_holds_the_lease_gives_it_back() {
    if let (Ok(_), Ok(file)) = (env::var(STEP), env::var(FILE)) {
        let _lease = FileStore::new(file).lock().await.unwrap();
        reached("leased");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::new(directory.path().join("token.json"));
    let test = "store::file::tests::a_process_that_ends_while_it_holds_the_lease_gives_it_back";
    in_a_child(test, "leased", &store.path);
    assert_eq!(store.lock().await.unwrap().fence(), 2);
}

#[tokio::test]
async fn the_number_of_a_lease_counts_where_no_revision_stands_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::new(directory.path().join("token.json"));
    fs::write(store.beside(".fence"), "00000000000000000041\n").unwrap();
    assert_eq!(store.lock().await.unwrap().fence(), 42);
    store.save(&pair(5), Some(42)).await.unwrap();
    fs::remove_file(&store.path).unwrap();
    store.save(&pair(1), None).await.unwrap();
    assert_eq!(store.load().await.unwrap().unwrap().revision, 7);
    assert_eq!(store.lock().await.unwrap().fence(), 43);
}

#[tokio::test]
async fn leases_are_numbered_again_whatever_was_put_in_the_place_of_the_number() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::new(directory.path().join("token.json"));
    fs::write(store.beside(".fence"), "no number, and longer than one\n").unwrap();
    let first = store.lock().await.unwrap().fence();
    assert_eq!([first, store.lock().await.unwrap().fence()], [1, 2]);
}

/// Nobody, on most systems.
#[cfg(unix)]
const NOBODY: u32 = 65_534;

/// To root every directory is open, so that the save is made by somebody else then, in a process of its own.
#[cfg(unix)]
#[tokio::test]
async fn a_save_succeeds_where_the_directory_can_be_written_and_not_read() {
    use std::os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    };

    if let Ok(file) = env::var(FILE) {
        return FileStore::new(file).save(&pair(1), Some(0)).await.unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let allow = |mode| fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
    let store = FileStore::new(directory.path().join("token.json"));
    allow(0o300);
    if fs::read_dir(directory.path()).is_ok() {
        chown(directory.path(), Some(NOBODY), None).unwrap();
        let test = "store::file::tests::a_save_succeeds_where_the_directory_can_be_written_and_not_read";
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", test, "--nocapture"]).env(FILE, &*store.path).uid(NOBODY);
        assert!(child.output().unwrap().status.success());
    } else {
        store.save(&pair(1), Some(0)).await.unwrap();
    }
    let stored = store.load().await.unwrap().unwrap();
    allow(0o700);
    assert_eq!(numbers(&stored), numbers(&pair(1)));
}

/// Only root can give files away; others have nothing to see here.
#[cfg(unix)]
#[tokio::test]
async fn what_root_saves_belongs_to_whoever_had_the_file_or_has_the_directory() {
    use std::os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    };

    async fn save_next(store: &FileStore) {
        let lease = store.lock().await.unwrap();
        let stored = store.load().await.unwrap().map_or(0, |stored| stored.revision);
        store.save(&pair(stored + 1), Some(lease.fence())).await.unwrap();
    }
    if let Ok(file) = env::var(FILE) {
        return save_next(&FileStore::new(file)).await;
    }
    for root_is_first in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        if chown(directory.path(), Some(NOBODY), Some(NOBODY)).is_err()
            || fs::read_dir(directory.path()).is_err()
        {
            return;
        }
        let store = FileStore::new(directory.path().join("token.json"));
        let owner_saves = || {
            let test =
                "store::file::tests::what_root_saves_belongs_to_whoever_had_the_file_or_has_the_directory";
            let mut child = Command::new(env::current_exe().unwrap());
            child.args(["--exact", test, "--nocapture"]).env(FILE, &*store.path).uid(NOBODY).gid(NOBODY);
            let output = child.output().unwrap();
            assert!(output.status.success(), "{root_is_first} {}", String::from_utf8_lossy(&output.stdout));
        };
        if !root_is_first {
            owner_saves();
        }
        save_next(&store).await;
        owner_saves();
        save_next(&store).await;
        for suffix in ["", ".lock", ".fence"] {
            let file = fs::metadata(store.beside(suffix)).unwrap();
            assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (NOBODY, NOBODY, 0o600), "{suffix:?}");
        }
    }
}

/// There a record may be a trap that somebody else has set, as a link in the place of a helper may be anywhere.
#[cfg(unix)]
#[tokio::test]
async fn root_gives_nothing_away_that_was_there_or_where_everybody_may_put_files() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};

    #[derive(Debug)]
    enum There {
        Record,
        Damaged,
        Link,
    }
    use There::{Damaged, Link, Record};
    for (mode, directorys, files, expected) in [
        (0o700, NOBODY, None, NOBODY),
        (0o770, 0, Some((NOBODY, Record)), NOBODY),
        (0o770, 0, Some((NOBODY, Damaged)), NOBODY),
        (0o770, 0, Some((NOBODY, Link)), 0),
        (0o700, NOBODY, Some((0, Record)), 0),
        (0o700, 0, None, 0),
        (0o1777, 0, Some((NOBODY, Record)), 0),
        (0o1777, NOBODY, None, 0),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::new(directory.path().join("token.json"));
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        if chown(directory.path(), Some(directorys), None).is_err() {
            return;
        }
        if let Some((owner, there)) = &files {
            let roots = directory.path().join("roots");
            match there {
                Record => fs::write(&store.path, format::encode(&pair(1))).unwrap(),
                Damaged => fs::write(&store.path, "{").unwrap(),
                Link => {
                    fs::write(&roots, format::encode(&pair(1))).unwrap();
                    symlink(&roots, &store.path).unwrap();
                }
            }
            lchown(&store.path, Some(*owner), None).unwrap();
        }
        store.save(&pair(2), None).await.unwrap();
        let owners = ["", ".fence"].map(|suffix| fs::metadata(store.beside(suffix)).unwrap().uid());
        assert_eq!(owners, [expected; 2], "{mode:o} {directorys} {files:?}");

        let others = directory.path().join("others");
        fs::write(&others, "").unwrap();
        symlink(&others, store.beside(".lock")).unwrap();
        store.lock().await.unwrap_err();
        assert_eq!(fs::metadata(&others).unwrap().uid(), 0);
    }
}

/// What it may give away it could not read any more. Where nobody can have one right of root's, there is nothing to see.
#[cfg(unix)]
#[tokio::test]
async fn a_service_that_may_give_files_away_keeps_its_own() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    if let Ok(file) = env::var(FILE) {
        return FileStore::new(file).save(&pair(1), Some(0)).await.unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::new(directory.path().join("token.json"));
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o770)).unwrap();
    let as_service = |command: &Path| {
        let mut child = Command::new("setpriv");
        child.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]);
        child.args(["--inh-caps=+chown", "--ambient-caps=+chown"]).arg(command).env(FILE, &*store.path);
        child
    };
    let is_possible = chown(directory.path(), Some(0), Some(NOBODY)).is_ok()
        && as_service(Path::new("true")).status().is_ok_and(|status| status.success());
    if !is_possible {
        return;
    }
    let output = as_service(&env::current_exe().unwrap())
        .args([
            "--exact",
            "store::file::tests::a_service_that_may_give_files_away_keeps_its_own",
            "--nocapture",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let owners = ["", ".fence"].map(|suffix| fs::metadata(store.beside(suffix)).unwrap().uid());
    assert_eq!(owners, [NOBODY; 2]);
}

/// Whoever has the directory may have put it there for root.
#[cfg(unix)]
#[tokio::test]
async fn a_lock_file_that_is_a_link_or_no_regular_file_is_refused_and_not_written() {
    for suffix in [".lock", ".fence"] {
        for link_to in [Some("others"), Some("/dev/null"), None] {
            let directory = tempfile::tempdir().unwrap();
            let store = FileStore::new(directory.path().join("token.json"));
            let others = directory.path().join("others");
            fs::write(&others, "of others").unwrap();
            match link_to {
                Some(target) => {
                    let target = directory.path().join(target);
                    std::os::unix::fs::symlink(target, store.beside(suffix)).unwrap();
                }
                None => assert!(Command::new("mkfifo").arg(store.beside(suffix)).status().unwrap().success()),
            }
            let save = store.save(&pair(1), None).await;
            assert_eq!(save.is_ok(), suffix == ".lock");
            for error in save.err().into_iter().chain(store.lock().await.err()) {
                let error = error.to_string();
                assert!(error.contains(suffix) && error.contains("no regular file"), "{error}");
            }
            store.lock().await.unwrap_err();
            assert_eq!(fs::read_to_string(&others).unwrap(), "of others");
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_lock_file_is_not_made_through_a_link() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::new(directory.path().join("token.json"));
    let elsewhere = directory.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, store.beside(".lock")).unwrap();
    store.lock().await.unwrap_err();
    assert!(!elsewhere.exists());
}

/// To open a device may do something, or never end. What reads a pipe notices that somebody has opened it to write.
#[cfg(unix)]
#[tokio::test]
async fn what_a_lock_file_is_a_link_to_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::new(directory.path().join("token.json"));
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for suffix in [".lock", ".fence"] {
        std::os::unix::fs::symlink(&pipe, store.beside(suffix)).unwrap();
    }
    let (has_opened, opened) = mpsc::channel();
    let to_read = pipe.clone();
    let reader = thread::spawn(move || has_opened.send(fs::File::open(to_read)));
    for _ in 0..100 {
        store.lock().await.unwrap_err();
    }
    assert!(opened.try_recv().is_err(), "nobody has opened it to write");
    let writer = fs::File::options().write(true).open(&pipe).unwrap();
    reader.join().unwrap().unwrap();
    opened.recv().unwrap().unwrap();
    drop(writer);
}
