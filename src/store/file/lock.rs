//! Lock files, one of which holds numbers.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use fs4::{FileExt, TryLockError};
use tokio::{task::spawn_blocking, time::sleep};

use super::{
    FileStore,
    atomic::{self, at},
};
use crate::{random, store::Numbers};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// A lock file that is ours until this is dropped.
pub(super) struct Locked {
    file: File,
    path: PathBuf,
}

impl Locked {
    /// Waits for the lock of this helper by trying again and again. The blocking call could not be given up, and would keep
    /// a thread for as long as somebody keeps the lock.
    pub(super) async fn acquire(store: &FileStore, helper: &'static str) -> io::Result<Self> {
        let mut pause = FIRST_PAUSE;
        loop {
            let store = store.clone();
            if let Some(locked) = spawn_blocking(move || Self::attempt(&store, helper)).await?? {
                return Ok(locked);
            }
            sleep(pause.mul_f64(0.5 + random::fraction())).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    fn attempt(store: &FileStore, helper: &str) -> io::Result<Option<Self>> {
        store.check()?;
        let path = store.beside(helper);
        let file = match atomic::create(&path, &store.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Not made: that would be done through a link, too.
                open(&path)
            }
            created => created,
        };
        let file = file.map_err(|error| at(&path, error))?;
        match FileExt::try_lock(&file) {
            Ok(()) => Ok(Some(Locked { file, path })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(at(&path, error)),
        }
    }

    /// What the file holds, which outlives the record beside it; the revision is the highest that a record is known to have
    /// had. What is no number, or is not there, counts as zero: only a power failure, or somebody who removes the file while
    /// nobody uses the store, can leave that. No lease outlives that, and whoever learns of a record after it takes a lease
    /// first.
    pub(super) fn numbers(&mut self) -> io::Result<Numbers> {
        let mut text = Vec::new();
        let read = self.file.rewind().and_then(|()| self.file.read_to_end(&mut text));
        read.map_err(|error| at(&self.path, error))?;
        let text = String::from_utf8_lossy(&text);
        let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Ok(Numbers { lease: next(), revision: next() })
    }

    /// Puts these into the file. Its length never changes, so that one write replaces all of it.
    pub(super) fn put(&mut self, numbers: Numbers) -> io::Result<()> {
        let text = format!("{:020} {:020}\n", numbers.lease, numbers.revision);
        let written = self.file.rewind().and_then(|()| self.file.write_all(text.as_bytes()));
        // What somebody else has put into the file may be longer.
        let whole = written.and_then(|()| self.file.set_len(text.len() as u64));
        whole.map_err(|error| at(&self.path, error))
    }

    /// Puts the number of the next lease into the file, and takes notice of the revision that is stored.
    pub(super) fn advance(&mut self, stored: u64) -> io::Result<u64> {
        let last = self.numbers()?;
        let lease = last.lease.saturating_add(1);
        self.put(Numbers { lease, revision: last.revision.max(stored) })?;
        Ok(lease)
    }
}

/// Opens what is there, unless that is a link or no regular file: where root is a visitor, whoever has the directory may
/// have put it there to have something else overwritten.
fn open(path: &Path) -> io::Result<File> {
    let unfit = || io::Error::new(io::ErrorKind::InvalidInput, "what is there is a link, or no regular file");
    // Before it is opened: to open a device may do something, or never end.
    let there = fs::symlink_metadata(path)?;
    if !there.is_file() {
        return Err(unfit());
    }
    let file = File::options().read(true).write(true).open(path)?;
    if is_same(&file, &there)? { Ok(file) } else { Err(unfit()) }
}

/// Whether a file that was opened is the one that was looked at, which may have come in its place meanwhile.
#[cfg(unix)]
fn is_same(opened: &File, there: &fs::Metadata) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;

    let opened = opened.metadata()?;
    Ok((opened.dev(), opened.ino()) == (there.dev(), there.ino()))
}

/// Elsewhere nobody is a visitor.
#[cfg(not(unix))]
fn is_same(_opened: &File, _there: &fs::Metadata) -> io::Result<bool> {
    Ok(true)
}

impl Drop for Locked {
    /// Closing the file would do, were it not for a child process that is just being started and still has it.
    fn drop(&mut self) {
        // Closing follows in any case.
        let _ = FileExt::unlock(&self.file);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_cannot_be_read_or_written_is_told_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token.fence");
        fs::write(&path, "").unwrap();
        let locked = |file| Locked { file, path: path.clone() };
        let written = locked(File::open(&path).unwrap()).put(Numbers { lease: 1, revision: 1 });
        let read = locked(File::options().write(true).open(&path).unwrap()).numbers();
        for error in [written.unwrap_err(), read.unwrap_err()] {
            assert!(error.to_string().contains("token.fence"), "{error}");
        }
    }

    #[test]
    fn what_has_come_in_the_place_of_a_file_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["one", "other"].map(|name| directory.path().join(name));
        for path in &paths {
            fs::write(path, "").unwrap();
        }
        let opened = File::open(&paths[0]).unwrap();
        let is_there = paths.map(|path| is_same(&opened, &fs::symlink_metadata(path).unwrap()).unwrap());
        assert_eq!(is_there, [true, false]);
    }
}
