//! Replaces a file by another, all or nothing.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

#[cfg(test)]
use super::tests::reached;

/// Where the tests end the process.
#[cfg(not(test))]
fn reached(_step: &str) {}

/// Puts a file with this content in the place of `path`. `temporary` is in the same directory and belongs to the
/// caller alone; what a killed process has left there is removed, and nothing is left there by a failure.
///
/// Nothing fails once the file is in its place, where everybody reads it: a save that failed would be owed and made
/// again, and the lease be kept from those who have read what it brought. To make the rename durable is tried, no more;
/// without that a loss of power, and nothing else, may bring the old file back.
pub(super) fn replace(path: &Path, temporary: &Path, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    reached("begun");
    let directory = directory_of(path)?;
    // Never a file, or a link to one, that somebody else has put there.
    let mut file = private().write(true).create_new(true).open(temporary)?;
    reached("created");
    let put_in_place = || {
        let (first, second) = content.split_at(content.len() / 2);
        file.write_all(first)?;
        reached("half written");
        file.write_all(second)?;
        reached("written");
        file.sync_all()?;
        reached("synced");
        drop(file);
        fs::rename(temporary, path)
    };
    put_in_place().inspect_err(|_| drop(fs::remove_file(temporary)))?;
    reached("renamed");
    if let Some(directory) = directory {
        let _ = directory.sync_all();
    }
    reached("done");
    Ok(())
}

/// The same error, with the file that it is about.
pub(super) fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Options for a file that only its owner may read.
#[cfg(unix)]
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Elsewhere the directory says who may read a new file.
#[cfg(not(unix))]
pub(super) fn private() -> OpenOptions {
    OpenOptions::new()
}

/// A handle by which renames in the file's directory are made durable. `None` where the system knows no such thing, and
/// where we may write to the directory and not read it.
#[cfg(unix)]
fn directory_of(path: &Path) -> io::Result<Option<fs::File>> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match fs::File::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        opened => opened.map(Some),
    }
}

#[cfg(not(unix))]
fn directory_of(_path: &Path) -> io::Result<Option<fs::File>> {
    Ok(None)
}
