//! A folder that shards are written to: private names first, synced, then renamed into place.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

use crate::{Error, Result};

/// Files in the making of another host, or of a process number in use again, are kept this long.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Mode of everything in place: a shard never changes.
#[cfg(unix)]
const READ_ONLY: u32 = 0o444;

/// Where a shard set is written.
#[derive(Debug)]
pub struct OutDir {
    root: PathBuf,
    partial: PathBuf,
    owner: String,
}

impl OutDir {
    /// Create the folder where it is missing.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn open(root: &Path) -> Result<Self> {
        let partial = root.join(".picollm").join("partial");
        fs::create_dir_all(&partial).map_err(|error| Error::io(&partial, error))?;
        Ok(Self { root: root.to_owned(), partial, owner: format!("{}.{}", host(), std::process::id()) })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// An empty file under a private name; it is removed again unless it is put in place.
    pub(crate) fn create(&self, name: &str) -> Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(&format!("{name}.{}.", self.owner))
            .rand_bytes(12)
            .tempfile_in(&self.partial)
            .map_err(|error| failed(&self.partial, error, 1))
    }

    /// Rename a synced file to its final name, over an equal one if there is one.
    pub(crate) fn place(&self, file: NamedTempFile, name: &str) -> Result<()> {
        let path = self.root.join(name);
        file.persist(&path).map(drop).map_err(|error| Error::io(path, error.error))
    }

    /// Make the names in the folder durable.
    pub(crate) fn sync(&self) -> Result<()> {
        File::open(&self.root).and_then(|folder| folder.sync_all()).map_err(|error| Error::io(&self.root, error))
    }

    /// Write one small file, durably: after the return it survives a power cut, before it the old one stands.
    ///
    /// # Errors
    /// [`Error::DiskFull`] or [`Error::Io`]; then nothing has changed.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.create(name.rsplit('/').next().unwrap_or(name))?;
        file.write_all(bytes).map_err(|error| failed(file.path(), error, bytes.len() as u64))?;
        seal(&file)?;
        if let Some(folder) = self.root.join(name).parent() {
            fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
            self.place(file, name)?;
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| Error::io(folder, error))?;
        }
        Ok(())
    }

    /// Remove what dead writers left: files of processes of this host that are gone, or older than a day.
    /// Returns how many.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be listed.
    pub fn clean(&self) -> Result<usize> {
        let entries = fs::read_dir(&self.partial).map_err(|error| Error::io(&self.partial, error))?;
        let orphans = entries.flatten().filter(|entry| orphan(&entry.path()));
        Ok(orphans.filter(|entry| fs::remove_file(entry.path()).is_ok()).count())
    }
}

/// Make a file's content durable and read-only. A failed sync is final: the caller drops the file.
pub(crate) fn seal(file: &NamedTempFile) -> Result<()> {
    let synced = || -> io::Result<()> {
        #[cfg(unix)]
        file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(READ_ONLY))?;
        file.as_file().sync_all()
    };
    synced().map_err(|error| failed(file.path(), error, 1))
}

/// A failed write; every way to say "no room" is [`Error::DiskFull`].
pub(crate) fn failed(path: &Path, error: io::Error, needed: u64) -> Error {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => Error::DiskFull { path: path.to_owned(), needed },
        _ => Error::io(path, error),
    }
}

fn orphan(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let mut parts = name.rsplit('.');
    let (_random, pid, from) = (parts.next(), parts.next(), parts.next());
    let pid = pid.and_then(|pid| pid.parse().ok()).and_then(rustix::process::Pid::from_raw);
    let gone = from == Some(&host())
        && pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH));
    let modified = path.metadata().and_then(|meta| meta.modified()).ok();
    let age = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
    gone || age.is_some_and(|age| age > STALE)
}

/// This machine's name, without the dots that separate the parts of a private name.
fn host() -> String {
    let name = rustix::system::uname();
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
    name.nodename().to_string_lossy().chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_dead_writers_go_and_those_of_living_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let out = OutDir::open(dir.path()).unwrap();
        let mine = out.create("train_000000.bin").unwrap();
        let dead = out.partial.join(format!("train_000001.bin.{}.{}.abc", host(), i32::MAX));
        let far = out.partial.join("train_000002.bin.elsewhere.1.abc");
        let old = out.partial.join("train_000003.bin.elsewhere.1.abc");
        for path in [&dead, &far, &old] {
            fs::write(path, "x").unwrap();
        }
        File::options().write(true).open(&old).unwrap().set_modified(SystemTime::now() - 2 * STALE).unwrap();
        assert_eq!(out.clean().unwrap(), 2);
        assert!(mine.path().exists() && far.exists() && !dead.exists() && !old.exists());
    }

    #[test]
    fn what_is_published_is_whole_and_read_only_and_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let out = OutDir::open(dir.path()).unwrap();
        for text in ["one", "two"] {
            out.publish("manifests/a.json", text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("manifests/a.json")).unwrap(), text);
        }
        assert!(dir.path().join("manifests/a.json").metadata().unwrap().permissions().readonly());
        assert_eq!(fs::read_dir(&out.partial).unwrap().count(), 0);
    }
}
