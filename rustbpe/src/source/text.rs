//! Text files: a file is a document, or several with a literal between them.

use std::io::Read;
use std::path::Path;

use memchr::memmem::Finder;

use super::documents::{Documents, MAX_DOCUMENT_BYTES, open_coded, read_error};
use super::{Coding, ReadOptions};
use crate::{Error, Result};

const CHUNK_BYTES: u64 = 1 << 20;

pub fn read(path: &Path, coding: Coding, options: &ReadOptions, documents: &mut Documents<'_>) -> Result<()> {
    let separator = options.doc_sep.as_deref().unwrap_or("").as_bytes();
    let finder = Finder::new(separator);
    let mut reader = open_coded(path, coding)?;
    let mut held = Vec::new(); // from the start of a document to the end of what was read
    let mut searched = 0;
    let mut index = 0_u64;
    loop {
        documents.ctl.check()?;
        let got = reader
            .by_ref()
            .take(CHUNK_BYTES)
            .read_to_end(&mut held)
            .map_err(|error| read_error(path, &format!("document {index}"), error))?;
        let mut start = 0;
        if !separator.is_empty() {
            while let Some(found) = finder.find(&held[searched..]) {
                documents.text(&held[start..searched + found], path, || format!("document {index}"))?;
                index += 1;
                searched += found + separator.len();
                start = searched;
            }
        }
        if got == 0 {
            return documents.text(&held[start..], path, || format!("document {index}"));
        }
        held.drain(..start);
        searched = held.len().saturating_sub(separator.len().saturating_sub(1)).max(searched - start);
        if held.len() as u64 > MAX_DOCUMENT_BYTES {
            let what = format!("document {index} is over {MAX_DOCUMENT_BYTES} bytes");
            return Err(Error::BadFile { path: path.to_owned(), what });
        }
    }
}
