//! Files → documents. A source is a list of files cut into segments; a segment is read by one
//! thread, in order, with bounded memory.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Control, Error, Result};

mod column;
mod documents;
mod hash;
mod jsonl;
mod parquet;
mod sniff;
mod text;

pub use column::{Column, choose_text_column};
use documents::Documents;
pub use hash::sha256_files;
pub use sniff::{Sniff, sniff};

/// One file of a source, relative to the source's root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path below the root, `/` between parts.
    pub path: String,
    /// Size in bytes when it was planned.
    pub size: u64,
    /// sha256 in lower-case hex, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A part of a source that becomes one shard: a run of whole files, or slice `slice.0` of `slice.1`
/// of a single file (row groups of parquet, byte ranges of jsonl).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Position in the plan.
    pub index: u32,
    /// First file and one past the last, as indices into the plan's files.
    pub files: (u32, u32),
    /// Slice j of k; `(0, 1)` is all of it. Only single-file segments are sliced.
    pub slice: (u32, u32),
}

/// What to do with bytes that are not UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadUtf8 {
    /// Stop with [`crate::Error::BadUtf8`].
    #[default]
    Error,
    /// Leave the document out and count it.
    Skip,
    /// Put U+FFFD in place of each maximal bad sequence and count the document.
    Replace,
}

/// What to do with a file that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadFile {
    /// Stop with [`crate::Error::BadFile`].
    #[default]
    Error,
    /// Leave out what cannot be read, from the fault to the end of the file or slice, and record the file.
    Skip,
}

/// How documents are taken out of files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadOptions {
    /// Column of parquet, key of jsonl. `None`: see [`choose_text_column`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_column: Option<String>,
    /// Literal that separates documents inside text files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doc_sep: Option<String>,
    /// Bad UTF-8.
    pub bad_utf8: BadUtf8,
    /// Unreadable files.
    pub on_bad_file: OnBadFile,
}

/// What was read and what was left out. Sums are exact, whatever the worker count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReport {
    /// Rows, lines or files seen.
    pub rows: u64,
    /// Rows whose text was null.
    pub null: u64,
    /// Rows whose text was empty.
    pub empty: u64,
    /// Documents touched by [`BadUtf8::Skip`] or [`BadUtf8::Replace`].
    pub bad_utf8: u64,
    /// Files left out by [`OnBadFile::Skip`].
    pub bad_files: Vec<String>,
}

/// Brings files into place while a job runs: downloads, for example.
pub trait Supply: std::fmt::Debug + Sync {
    /// Whether the files of a segment are in place; waits for them about a tenth of a second at most.
    ///
    /// # Errors
    /// What keeps the supply from being asked. That it failed is for the one who started it to know.
    fn ready(&self, segment: u32) -> Result<bool>;

    /// The segment needs its files no more; it gave so much of what the job counts (training tokens, characters).
    ///
    /// # Errors
    /// As above.
    fn done(&self, segment: u32, amount: u64) -> Result<()>;
}

/// Wait until a segment's files are in place; false as soon as `unneeded` says that nobody waits for the segment.
///
/// # Errors
/// [`crate::Error::Cancelled`], and what asking gives.
pub fn await_files(
    supply: Option<&dyn Supply>,
    segment: u32,
    ctl: &Control,
    unneeded: &dyn Fn() -> bool,
) -> Result<bool> {
    let Some(supply) = supply else { return Ok(true) };
    while !supply.ready(segment)? {
        ctl.check()?;
        if unneeded() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a document belongs to validation: `xxh3_64(text, seed 0) mod 1,000,000 < val_ppm`.
///
/// ```
/// use rustbpe::source::is_validation;
/// assert!(is_validation(b"hello", 515_390) && !is_validation(b"hello", 515_389));
/// ```
pub fn is_validation(text: &[u8], val_ppm: u32) -> bool {
    twox_hash::XxHash3_64::oneshot(text) % 1_000_000 < u64::from(val_ppm)
}

/// Read every document of a segment in order and hand each to `each`, as valid UTF-8 and never empty.
/// Adds to `ctl.bytes` and `ctl.documents` as it goes.
///
/// # Errors
/// What reading can fail with, what `each` returns, [`crate::Error::Cancelled`].
pub fn read_segment(
    root: &Path,
    files: &[FileEntry],
    segment: &Segment,
    options: &ReadOptions,
    ctl: &Control,
    each: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<ReadReport> {
    let (first, end) = segment.files;
    let (part, parts) = segment.slice;
    let Some(wanted) = files.get(first as usize..end as usize) else {
        return Err(Error::Invalid { what: format!("segment of files {first}..{end} in a plan of {}", files.len()) });
    };
    if part >= parts || (parts > 1 && wanted.len() != 1) {
        return Err(Error::Invalid { what: format!("slice {part} of {parts} of {} files", wanted.len()) });
    }
    let mut documents = Documents::new(options, ctl, each);
    for file in wanted {
        match read_file(root, file, segment.slice, options, &mut documents) {
            Err(Error::BadFile { .. }) if options.on_bad_file == OnBadFile::Skip => {
                documents.report.bad_files.push(file.path.clone());
            }
            outcome => outcome?,
        }
    }
    Ok(documents.report)
}

fn read_file(
    root: &Path,
    file: &FileEntry,
    slice: (u32, u32),
    options: &ReadOptions,
    documents: &mut Documents<'_>,
) -> Result<()> {
    documents.ctl.check()?;
    let path = located(root, file)?;
    let (kind, coding) = kind_of(&file.path);
    if slice.1 > 1 && !sliceable(kind, coding) {
        return Err(Error::Invalid { what: format!("{}: cannot be read in slices", file.path) });
    }
    match kind {
        Kind::Parquet => parquet::read(&path, slice, options, documents),
        Kind::Jsonl => jsonl::read(&path, coding, file.size, slice, options, documents),
        Kind::Text => text::read(&path, coding, options, documents),
    }
}

/// Where a file lies, once it is known to be below the root and as large as planned.
fn located(root: &Path, file: &FileEntry) -> Result<PathBuf> {
    let relative = Path::new(&file.path);
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::Invalid { what: format!("{:?} is not a path below the source's root", file.path) });
    }
    let path = root.join(relative);
    let found = match path.metadata() {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::SourceChanged { path, what: "is gone since it was planned".into() });
        }
        Err(error) => return Err(Error::io(path, error)),
    };
    if found != file.size {
        let what = format!("{} bytes when it was planned, {found} now", file.size);
        return Err(Error::SourceChanged { path, what });
    }
    Ok(path)
}

/// How documents lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rows of a column.
    Parquet,
    /// One JSON object a line.
    Jsonl,
    /// The file is a document, or several with a separator between them.
    Text,
}

/// How a file's bytes are compressed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Not at all.
    Plain,
    /// gzip, of one or several members.
    Gzip,
    /// Zstandard, of one or several frames.
    Zstd,
}

/// Kind and coding by the file's name: `.parquet`, `.jsonl`, `.ndjson`, anything else is text; `.gz` and `.zst` behind them.
pub fn kind_of(path: &str) -> (Kind, Coding) {
    let (name, coding) = [(".gz", Coding::Gzip), (".zst", Coding::Zstd)]
        .into_iter()
        .find_map(|(suffix, coding)| path.strip_suffix(suffix).map(|name| (name, coding)))
        .unwrap_or((path, Coding::Plain));
    let kind = match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("parquet") if coding == Coding::Plain => Kind::Parquet,
        Some("jsonl" | "ndjson") => Kind::Jsonl,
        _ => Kind::Text,
    };
    (kind, coding)
}

/// Whether a file can be read from the middle.
pub fn sliceable(kind: Kind, coding: Coding) -> bool {
    coding == Coding::Plain && matches!(kind, Kind::Parquet | Kind::Jsonl)
}

/// `[⌊j·n/k⌋, ⌊(j+1)·n/k⌋)`: the part of `n` things that belongs to slice j of k.
pub(crate) fn share(n: u64, (j, k): (u32, u32)) -> (u64, u64) {
    let cut = |j: u64| u128::from(n) * u128::from(j) / u128::from(k.max(1));
    #[expect(clippy::cast_possible_truncation, reason = "a share of n is at most n")]
    let at = |j: u64| cut(j) as u64;
    (at(j.into()), at(u64::from(j) + 1))
}
