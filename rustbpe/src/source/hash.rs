//! Which bytes a source is made of.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::documents::open;
use crate::sharder::hex;
use crate::threads::on_threads;
use crate::{Control, Error, Result};

const CHUNK_BYTES: usize = 1 << 20;

/// sha256 of each file in hex, `workers` files at a time. Counts files in `ctl.done`, bytes in `ctl.bytes`.
///
/// # Errors
/// [`Error::Io`] with the path, [`Error::Cancelled`].
pub fn sha256_files(paths: &[PathBuf], workers: usize, ctl: &Control) -> Result<Vec<String>> {
    ctl.total.store(paths.len() as u64, Relaxed);
    let todo = Mutex::new(paths.iter().enumerate());
    let hashes = Mutex::new(BTreeMap::new());
    on_threads(workers.clamp(1, paths.len().max(1)), "hash", || {
        let take = || todo.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some((index, path)) = take() {
            let hash = sha256(path, ctl);
            hashes.lock().unwrap_or_else(PoisonError::into_inner).insert(index, hash);
            ctl.done.fetch_add(1, Relaxed);
        }
    });
    hashes.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

fn sha256(path: &Path, ctl: &Control) -> Result<String> {
    let mut file = open(path)?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        ctl.check()?;
        let got = file.read(&mut chunk).map_err(|error| Error::io(path, error))?;
        if got == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&chunk[..got]);
        ctl.bytes.fetch_add(got as u64, Relaxed);
    }
}
