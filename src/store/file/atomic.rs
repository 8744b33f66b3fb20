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

/// Puts a file with this content in the place of `path`, and what was there `aside`, if that is given. `temporary` is in the
/// same directory and belongs to the caller alone; what a killed process has left there is removed, and nothing is left
/// there by a failure.
///
/// Nothing fails once the file is in its place, where everybody reads it: a save that failed would be owed and made
/// again, and the lease be kept from those who have read what it brought. To make the rename durable is tried, no more;
/// without that a loss of power, and nothing else, may bring the old file back.
pub(super) fn replace(path: &Path, aside: Option<&Path>, temporary: &Path, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    reached("begun");
    let directory = directory_of(path)?;
    let mut file = create(temporary, path)?;
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
        if let Some(aside) = aside {
            fs::rename(path, aside).map_err(|error| at(aside, error))?;
        }
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
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Elsewhere the directory says who may read a new file.
#[cfg(not(unix))]
fn private() -> OpenOptions {
    OpenOptions::new()
}

/// Makes a file for a record, or to help with it: never one, or a link to one, that somebody else has put there.
pub(super) fn create(path: &Path, record: &Path) -> io::Result<fs::File> {
    let file = private().read(true).write(true).create_new(true).open(path)?;
    give_to_owner(&file, record);
    Ok(file)
}

/// Gives a new file to the owner of the record, or of the directory while there is none: what root, who may be a visitor,
/// keeps for itself is lost to everybody else. Anybody else who may do this would lose what they give away. A link may be a
/// trap, and so may a record where everybody may put files.
#[cfg(unix)]
fn give_to_owner(file: &fs::File, record: &Path) {
    use std::os::unix::fs::{MetadataExt, fchown};

    if !file.metadata().is_ok_and(|file| file.uid() == 0) {
        return;
    }
    let Ok(directory) = fs::metadata(parent_of(record)) else { return };
    let is_open_to_all = directory.mode() & 0o002 != 0;
    let owner = fs::symlink_metadata(record).ok().filter(fs::Metadata::is_file).unwrap_or(directory);
    if !is_open_to_all && owner.uid() != 0 {
        let _ = fchown(file, Some(owner.uid()), Some(owner.gid()));
    }
}

#[cfg(not(unix))]
fn give_to_owner(_file: &fs::File, _record: &Path) {}

#[cfg(unix)]
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A handle by which renames in the file's directory are made durable. `None` where the system knows no such thing, and
/// where we may write to the directory and not read it.
#[cfg(unix)]
fn directory_of(path: &Path) -> io::Result<Option<fs::File>> {
    match fs::File::open(parent_of(path)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        opened => opened.map(Some),
    }
}

#[cfg(not(unix))]
fn directory_of(_path: &Path) -> io::Result<Option<fs::File>> {
    Ok(None)
}
