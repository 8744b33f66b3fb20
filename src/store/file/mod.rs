//! A record in a file.

mod atomic;
mod format;
mod lock;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::task::spawn_blocking;

use self::{atomic::at, lock::Locked};
use super::{Damaged, Lease, Numbers, Record, TokenStore};
use crate::error::BoxError;

/// Keeps the record in a file, which any number of processes may share.
///
/// A save writes a new file beside the old one, makes it durable and puts it in the old one's place, so a process that is
/// killed at any moment leaves the old record or the new one. The directory must exist and is left as it is. `path` should
/// not be a symbolic link, because the link would be replaced. Nor should it be a file that is mounted by itself, into a
/// container, say: such a file cannot be replaced, and its lock files are shared with nobody. Mount its directory. If
/// `path` is no regular file (a device, a pipe), every call fails. A call that needs a lock file fails, too, if that is no
/// regular file, or a link.
///
/// On Unix the file is readable by its owner only, so all these processes must run as one user. Root may use the store as
/// well: the files that it makes are given to the owner of the record or, if there is none yet, of the directory (but not
/// in a directory that everybody may write to). A root that may not open the files of other users, as in some containers,
/// should not use it.
///
/// A file that cannot be read as a record (damaged, cut short, of a later version of the format) is [`Damaged`]: the
/// session reports it and goes on as if nobody had logged in. The next save moves such a file to `path.corrupt`, in the
/// place of an earlier one. If somebody logs in or out after that, or after the file was removed, the processes that still
/// run obey.
///
/// | file | holds |
/// |---|---|
/// | `path` | the record, as JSON |
/// | `path.tmp` | a record that is being written |
/// | `path.corrupt` | the last file that was there and was no record |
/// | `path.lock` | nothing; locked by whoever holds the [`Lease`] |
/// | `path.fence` | the number of the last lease and the highest revision of a record; locked while a record is saved or a lease handed out |
///
/// A `path` with one of these four endings, in upper or lower case, is refused: every call fails, because another store may
/// have its lock there. Where each of many users has a file, no user may choose its name. `../bob` is somebody else's file,
/// and so may `Bob` be, on a file system that ignores case. Name the file after a number, or after the hexadecimal digits
/// of a hash of the user's name: the digits of the name itself may be too many for a file's name.
///
/// Where the file cannot be written (a directory that is mounted for reading only, a disk that is full), a refresh goes on
/// all the same, and the refresh token that it spends is spent for the next process, too: give the program a place to
/// write, or no refresh token.
///
/// The locks are the operating system's, which releases them however a process ends. One that is stopped in a refresh keeps
/// its own, and the others go without a new token until it goes on. A wait for a lock polls, with growing
/// pauses, so it can be given up at any time. Do not delete the two lock files while a process uses the store. File work
/// runs on tokio's blocking threads (if all of them are busy for long, say with jobs that wait for this very session, it
/// fails at its time limit); a runtime with time is needed. One call is made on the current thread: the release of
/// a lock. On a file system that hangs, as NFS may, that thread waits.
///
/// It does not tell of [changes](TokenStore::changed): what another process has saved is found by the next refresh. A
/// session that is over looks for it when it is asked for a token, every five seconds at most.
///
/// # Security
///
/// The token is stored as it is. Whoever can read the file has it.
///
/// ```
/// use tower_token_refresh::{Session, Token, source_fn, store::FileStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = std::env::temp_dir().join(format!("file-store-example-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// let build = || {
///     let source = source_fn(|_| async { Ok(Token::new("from-the-authority")) });
///     Session::builder(source).store(FileStore::new(directory.join("token.json"))).build()
/// };
/// build().login(Token::new("from-a-login")).await?;
///
/// // Another process, later:
/// assert_eq!(build().token().await?.access().expose(), "from-a-login");
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FileStore {
    path: Arc<Path>,
}

impl FileStore {
    /// A store in this file. Nothing is read or written before it is used. A relative path is looked up by each call, from
    /// where the process is then: a daemon that goes elsewhere should give an absolute one.
    ///
    /// The directory must exist; otherwise each save fails. The session goes on in memory then, and only
    /// [observers](crate::event::Event::StoreFailed) and [`settle`](crate::Session::settle) tell that a refresh was not
    /// saved.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        FileStore { path: path.into().into() }
    }

    /// Fails where the record could be in the place of another store's helper (to some file systems all cases are one), or
    /// of something that has no end, or that others need: a pipe, a device.
    fn check(&self) -> io::Result<()> {
        let refuse = |why| Err(at(&self.path, io::Error::new(io::ErrorKind::InvalidInput, why)));
        let name = self.path.file_name().unwrap_or_default().to_ascii_lowercase();
        let is_helper = |ending: &str| name.as_encoded_bytes().ends_with(ending.as_bytes());
        if name.is_empty() || [".tmp", ".corrupt", ".lock", ".fence"].into_iter().any(is_helper) {
            return refuse(
                "a token file needs a name that does not end with `.tmp`, `.corrupt`, `.lock` or `.fence`",
            );
        }
        if fs::metadata(&self.path).is_ok_and(|there| !there.is_file()) {
            return refuse("what is there is no regular file");
        }
        Ok(())
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    }

    /// What the file holds: a record, or none, or something that is no record.
    fn read(&self) -> io::Result<Result<Option<Record>, Damaged>> {
        self.check()?;
        match fs::read(&self.path) {
            Ok(bytes) => Ok(format::decode(&bytes).map(Some)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(None)),
            Err(error) => Err(at(&self.path, error)),
        }
    }

    fn write(&self, record: &Record, fence: Option<u64>, mut locked: Locked) -> Result<(), BoxError> {
        let (stored, aside) = match self.read()? {
            Ok(stored) => (stored.map_or(0, |stored| stored.revision), None),
            Err(_damaged) => (0, Some(self.beside(".corrupt"))),
        };
        let last = locked.numbers()?;
        let highest = last.revision.max(stored);
        // The file may have been lost, and what was in it still be known to others, whom a login has to outdo.
        let outdone = if fence.is_some() { stored } else { highest };
        let record = record.admit(fence, Numbers { revision: outdone, ..last })?;
        locked.put(Numbers { revision: highest.max(record.revision), ..last })?;
        let temporary = self.beside(".tmp");
        let replaced = atomic::replace(&self.path, aside.as_deref(), &temporary, &format::encode(&record));
        Ok(replaced.map_err(|error| at(&self.path, error))?)
    }
}

impl TokenStore for FileStore {
    async fn load(&self) -> Result<Option<Record>, BoxError> {
        let store = self.clone();
        Ok(spawn_blocking(move || store.read()).await???)
    }

    /// Two saves never overlap: one that was given up for being late keeps the lock until it is over, so it cannot
    /// come after the next.
    async fn save(&self, record: &Record, fence: Option<u64>) -> Result<(), BoxError> {
        let locked = Locked::acquire(self, ".fence").await?;
        let (store, record) = (self.clone(), record.clone());
        spawn_blocking(move || store.write(&record, fence, locked)).await?
    }

    async fn lock(&self) -> Result<Lease, BoxError> {
        let lease = Locked::acquire(self, ".lock").await?;
        let mut locked = Locked::acquire(self, ".fence").await?;
        let store = self.clone();
        let number = spawn_blocking(move || {
            // Whoever has the lease reads next, and goes by that revision from then on, however the record has come there.
            let stored = store.read().ok().and_then(Result::ok).flatten();
            locked.advance(stored.map_or(0, |stored| stored.revision))
        });
        Ok(Lease::new(number.await??, lease))
    }
}
