//! Where every kind of file hands its texts: one place for counting, UTF-8 and stopping.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use super::{BadUtf8, Coding, ReadOptions, ReadReport};
use crate::{Control, Error, Result};

/// Longest text of one document. Bounds memory when a separator or a line end is missing.
pub const MAX_DOCUMENT_BYTES: u64 = 1 << 30;
/// Text and rows between two looks at whether to stop.
const CHECK_BYTES: u64 = 4 << 20;
const CHECK_ROWS: u64 = 256;

pub struct Documents<'a> {
    pub ctl: &'a Control,
    pub report: ReadReport,
    bad_utf8: BadUtf8,
    each: &'a mut dyn FnMut(&str) -> Result<()>,
    unchecked_bytes: u64,
    unchecked_rows: u64,
}

impl<'a> Documents<'a> {
    pub fn new(options: &ReadOptions, ctl: &'a Control, each: &'a mut dyn FnMut(&str) -> Result<()>) -> Self {
        Self {
            ctl,
            report: ReadReport::default(),
            bad_utf8: options.bad_utf8,
            each,
            unchecked_bytes: 0,
            unchecked_rows: 0,
        }
    }

    /// A row without text.
    pub fn null(&mut self) -> Result<()> {
        self.report.null += 1;
        self.row(0)
    }

    /// A row's text; `place` names it in `path` for an error.
    pub fn text(&mut self, bytes: &[u8], path: &Path, place: impl FnOnce() -> String) -> Result<()> {
        self.row(bytes.len() as u64)?;
        if bytes.is_empty() {
            self.report.empty += 1;
            return Ok(());
        }
        let text = match simdutf8::basic::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) if self.bad_utf8 == BadUtf8::Error => {
                return Err(Error::BadUtf8 { path: path.to_owned(), place: place() });
            }
            Err(_) => {
                self.report.bad_utf8 += 1;
                if self.bad_utf8 == BadUtf8::Skip {
                    return Ok(());
                }
                String::from_utf8_lossy(bytes)
            }
        };
        self.ctl.bytes.fetch_add(text.len() as u64, Relaxed);
        self.ctl.documents.fetch_add(1, Relaxed);
        (self.each)(&text)
    }

    fn row(&mut self, bytes: u64) -> Result<()> {
        self.report.rows += 1;
        self.unchecked_rows += 1;
        self.unchecked_bytes += bytes;
        if self.unchecked_rows >= CHECK_ROWS || self.unchecked_bytes >= CHECK_BYTES {
            (self.unchecked_rows, self.unchecked_bytes) = (0, 0);
            self.ctl.check()?;
        }
        Ok(())
    }
}

/// Buffer between a file and the lines or pieces taken from it.
const BUFFER_BYTES: usize = 256 << 10;

pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| Error::io(path, error))
}

/// The decompressed bytes of a file.
pub fn open_coded(path: &Path, coding: Coding) -> Result<Box<dyn BufRead>> {
    let file = BufReader::with_capacity(BUFFER_BYTES, open(path)?);
    Ok(match coding {
        Coding::Plain => Box::new(file),
        Coding::Gzip => Box::new(BufReader::with_capacity(BUFFER_BYTES, flate2::bufread::MultiGzDecoder::new(file))),
        Coding::Zstd => {
            let decoder = zstd::Decoder::with_buffer(file).map_err(|error| Error::io(path, error))?;
            Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
        }
    })
}

/// What a failed read means: the system's fault, or the file's when a decoder complains.
pub fn read_error(path: &Path, place: &str, error: io::Error) -> Error {
    if error.raw_os_error().is_some() {
        Error::io(path, error)
    } else {
        Error::BadFile { path: path.to_owned(), what: format!("{place}: {error}") }
    }
}
