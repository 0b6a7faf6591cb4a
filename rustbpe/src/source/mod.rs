//! Files → documents. A source is a list of files cut into segments; a segment is read by one
//! thread, in order, with bounded memory.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Control, Result};

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
    /// Leave the file out and record it.
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
///
/// # Errors
/// What reading can fail with, what `each` returns, [`crate::Error::Cancelled`].
pub fn read_segment(
    _root: &Path,
    _files: &[FileEntry],
    _segment: &Segment,
    _options: &ReadOptions,
    _ctl: &Control,
    _each: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<ReadReport> {
    todo!("R2")
}
