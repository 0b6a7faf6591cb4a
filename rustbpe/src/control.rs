//! What a running job shares with whoever watches it: counters to read, one flag to raise.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::{Error, Result};

/// Progress of a job and the wish to stop it. Shared by reference between threads; every field is
/// a plain counter, so a reader may see them a moment apart.
#[derive(Debug, Default)]
pub struct Control {
    cancelled: AtomicBool,
    /// Units (segments, merges, …) finished and wanted.
    pub done: AtomicU64,
    /// Units wanted in all; 0 while unknown.
    pub total: AtomicU64,
    /// UTF-8 bytes of document text read.
    pub bytes: AtomicU64,
    /// Documents read.
    pub documents: AtomicU64,
    /// Tokens written.
    pub tokens: AtomicU64,
    /// Nanoseconds of encoding, summed over workers.
    pub encode_ns: AtomicU64,
    /// Nanoseconds of writing: splitting off validation, hashing, files.
    pub write_ns: AtomicU64,
}

impl Control {
    /// Ask the job to stop at its next check.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether someone asked the job to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// # Errors
    /// [`Error::Cancelled`] once [`Control::cancel`] was called. Jobs call this at least every 4 MiB of text.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}
