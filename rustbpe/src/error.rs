//! Every way this crate can fail, with the facts of the failure.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure. `Display` says what happened and where; [`Error::hint`] says what to do next;
/// [`Error::kind`] names the class it becomes in Python (`picollm.errors`).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read, written, synced or renamed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A source file is not what its name says: truncated, damaged or undecodable.
    #[error("{path}: {what}", path = path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and where in the file.
        what: String,
    },
    /// A document is not UTF-8.
    #[error("{path}: {place}: not valid UTF-8", path = path.display())]
    BadUtf8 {
        /// The file.
        path: PathBuf,
        /// Row or line.
        place: String,
    },
    /// The text column is missing or has a type that holds no text.
    #[error("{path}: {what}", path = path.display())]
    TextColumn {
        /// The file.
        path: PathBuf,
        /// Which column, and which columns and types there are.
        what: String,
    },
    /// A file changed after it was planned or committed.
    #[error("{path}: {what}", path = path.display())]
    SourceChanged {
        /// The file.
        path: PathBuf,
        /// The two values that differ.
        what: String,
    },
    /// A file of ours (shard, sidecar, manifest, tokenizer) breaks its own format.
    #[error("{path}: {what}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The field and what it says.
        what: String,
    },
    /// A file of ours has the right form and the wrong content (checksum, id out of range).
    #[error("{path}: {what}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        what: String,
    },
    /// Something needed is not there.
    #[error("{what}")]
    Missing {
        /// What is missing.
        what: String,
    },
    /// The disk is full, or will be.
    #[error("{path}: no space left, {needed} more bytes needed", path = path.display())]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// Bytes that did not fit.
        needed: u64,
    },
    /// The corpus ran out of pairs before the vocabulary was full.
    #[error("the corpus yields {got} tokens, {wanted} were asked for")]
    CorpusTooSmall {
        /// Tokens that could be made, specials included.
        got: u32,
        /// Tokens asked for.
        wanted: u32,
    },
    /// A value that cannot be used, whatever the data.
    #[error("{what}")]
    Invalid {
        /// Which value, and what is allowed.
        what: String,
    },
    /// A loader state that belongs to another data set, order or version.
    #[error("loader state: {field} is {found} here and {saved} in the state")]
    LoaderState {
        /// The field.
        field: &'static str,
        /// The value in the state.
        saved: String,
        /// The value of this loader.
        found: String,
    },
    /// The shards are not the data set that was asked for.
    #[error("{path}: data set {found}, not {wanted}", path = path.display())]
    Fingerprint {
        /// The manifest.
        path: PathBuf,
        /// Fingerprint found.
        found: String,
        /// Fingerprint asked for.
        wanted: String,
    },
    /// A file was made with another tokenizer.
    #[error("{path}: made with tokenizer {found}, not {wanted}", path = path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// sha256 found.
        found: String,
        /// sha256 asked for.
        wanted: String,
    },
    /// A loader was used in a child of the process that opened it; its threads stayed behind.
    #[error("this loader was opened in process {opener} and used in its child {user}")]
    Forked {
        /// Process that opened it.
        opener: u32,
        /// Process that used it.
        user: u32,
    },
    /// A worker thread died. A bug in this crate.
    #[error("worker panicked: {what}")]
    Panic {
        /// The panic message.
        what: String,
    },
    /// The job was asked to stop.
    #[error("stopped")]
    Cancelled,
}

impl Error {
    /// An I/O failure at a path; `ENOSPC` becomes [`Error::DiskFull`].
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            std::io::ErrorKind::StorageFull => Error::DiskFull { path, needed: 1 },
            _ => Error::Io { path, source },
        }
    }

    /// Name of the class in `picollm.errors` that this failure becomes.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Io { .. } | Error::Panic { .. } => "PicoError",
            Error::BadFile { .. } | Error::BadUtf8 { .. } => "SourceError",
            Error::TextColumn { .. } => "TextColumnError",
            Error::SourceChanged { .. } => "SourceChangedError",
            Error::Format { .. } => "ShardFormatError",
            Error::Corrupt { .. } => "ShardCorruptError",
            Error::Missing { .. } => "MissingError",
            Error::DiskFull { .. } => "DiskFullError",
            Error::CorpusTooSmall { .. } => "CorpusTooSmallError",
            Error::Invalid { .. } => "UsageError",
            Error::LoaderState { .. } => "LoaderStateError",
            Error::Fingerprint { .. } => "FingerprintMismatch",
            Error::Tokenizer { .. } => "TokenizerMismatch",
            Error::Forked { .. } => "ForkedProcessError",
            Error::Cancelled => "KeyboardInterrupt",
        }
    }

    /// The next step for the user, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::BadFile { .. } => Some("fetch or write the file again, or pass --on-bad-file skip".into()),
            Error::BadUtf8 { .. } => {
                Some("pass --bad-utf8 skip or --bad-utf8 replace; both count what they touch".into())
            }
            Error::TextColumn { .. } => Some(
                "name the column that holds the text: --text-column NAME; conversations are for picollm sft".into(),
            ),
            Error::CorpusTooSmall { got, .. } => {
                Some(format!("ask for --vocab-size {got} or fewer, or give more text"))
            }
            Error::DiskFull { .. } => {
                Some("free some space and run the same command again: finished segments are kept".into())
            }
            Error::LoaderState { .. } => {
                Some("use the shards and options of the saved run, or --reset-data-order".into())
            }
            Error::Forked { .. } => Some("open a new loader in the child, or start it with spawn".into()),
            _ => None,
        }
    }
}
