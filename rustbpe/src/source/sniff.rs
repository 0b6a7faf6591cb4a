//! A first look at a source, before hours of work: which column, and does it look like text.

use std::path::Path;

use serde::Serialize;

use super::column::{Column, choose_text_column};
use super::documents::Documents;
use super::{FileEntry, Kind, OnBadFile, ReadOptions, jsonl, kind_of, located, parquet, read_file};
use crate::{Control, Error, Result};

/// Documents looked at.
const SAMPLE: usize = 256;
/// Text is longer than this.
const SHORT_CHARACTERS: usize = 64;

/// What the first documents look like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sniff {
    /// Column or key that will be read; `None` where files are plain text.
    pub text_column: Option<String>,
    /// Columns of the first file that has any.
    pub columns: Vec<Column>,
    /// Bytes of text to expect in a thousand bytes of such a file, where its footer tells.
    pub text_permille: Option<u64>,
    /// `name: sentence`, when this may not be the text that was meant.
    pub warnings: Vec<String>,
}

/// Look at the first file that has columns: choose the text column and sample it.
///
/// # Errors
/// [`Error::TextColumn`] when there is no column to read; whatever reading a footer or a line gives.
pub fn sniff(root: &Path, files: &[FileEntry], options: &ReadOptions) -> Result<Sniff> {
    for file in files.iter().filter(|file| file.size > 0 && kind_of(&file.path).0 != Kind::Text) {
        match sniff_file(root, file, options) {
            Ok(None) => {}
            Ok(Some(sniff)) => return Ok(sniff),
            Err(Error::BadFile { .. }) if options.on_bad_file == OnBadFile::Skip => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Sniff::default())
}

/// `None`: a file without a single line.
fn sniff_file(root: &Path, file: &FileEntry, options: &ReadOptions) -> Result<Option<Sniff>> {
    let path = located(root, file)?;
    let columns = match kind_of(&file.path) {
        (Kind::Parquet, _) => parquet::columns_of(&path)?,
        (_, coding) => jsonl::columns(&path, coding)?,
    };
    if columns.is_empty() {
        return Ok(None);
    }
    let name = choose_text_column(&path, &columns, options.text_column.as_deref())?;
    let text_permille = match kind_of(&file.path).0 {
        Kind::Parquet => parquet::text_bytes(&path, &name)?.checked_mul(1000).map(|bytes| bytes / file.size.max(1)),
        _ => None,
    };
    let options = ReadOptions { text_column: Some(name.clone()), ..options.clone() };
    let mut texts: Vec<(usize, bool)> = Vec::new(); // characters; whether it is an address
    let mut take = |text: &str| {
        texts.push((text.chars().count(), text.starts_with("http")));
        if texts.len() < SAMPLE { Ok(()) } else { Err(Error::Cancelled) }
    };
    let ctl = Control::default();
    let mut documents = Documents::new(&options, &ctl, &mut take);
    match read_file(root, file, (0, 1), &options, &mut documents) {
        Ok(()) | Err(Error::Cancelled) => {}
        Err(error) => return Err(error),
    }
    let report = documents.report;
    let warnings = doubts(&name, &mut texts, report.null + report.empty, report.rows);
    Ok(Some(Sniff { text_column: Some(name), columns, text_permille, warnings }))
}

fn doubts(name: &str, texts: &mut [(usize, bool)], without_text: u64, rows: u64) -> Vec<String> {
    let mut doubts = Vec::new();
    texts.sort_unstable();
    if let Some(&(median, _)) = texts.get(texts.len() / 2)
        && median < SHORT_CHARACTERS
    {
        doubts.push(format!("short-text: half of the first texts in {name:?} have {median} characters or fewer"));
    }
    let addresses = texts.iter().filter(|(_, address)| *address).count();
    if addresses * 10 > texts.len() * 9 {
        doubts.push(format!("addresses: {addresses} of the first {} texts in {name:?} begin with http", texts.len()));
    }
    if without_text * 5 > rows {
        doubts.push(format!("empty-text: {without_text} of the first {rows} rows have nothing in {name:?}"));
    }
    doubts
}
