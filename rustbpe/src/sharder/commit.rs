//! Which segments are finished: a commit record that is whole and belongs to the plan, and files that are what it says.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};

use super::{Plan, SegmentRecord, canonical, hex, record_name};
use crate::shard::format::{FORMAT, HEADER_BYTES, Header};
use crate::shard::write::{FileRecord, Split, part_name};
use crate::{Error, Result};

/// Largest record read: a part takes about 300 bytes.
const MOST_BYTES: u64 = 16 << 20;
const CHECK: &str = "check";

impl SegmentRecord {
    /// Canonical JSON (sorted keys, no spaces) with `check`, the blake3 of all the rest in the same form.
    ///
    /// # Errors
    /// Never for a record of this crate.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut value = serde_json::to_value(self).map_err(|error| Error::Invalid { what: error.to_string() })?;
        let check = format!("blake3:{}", blake3::hash(&canonical(&value)?));
        if let Value::Object(fields) = &mut value {
            fields.insert(CHECK.into(), json!(check));
        }
        canonical(&value)
    }

    /// Read a record: the very bytes that [`SegmentRecord::to_json`] writes, and nothing else.
    ///
    /// # Errors
    /// [`Error::Format`]; `path` names the record in it.
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Self> {
        let refuse = |what: String| Error::Format { path: path.to_owned(), what };
        let mut value: Value = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        if let Value::Object(fields) = &mut value {
            fields.remove(CHECK);
        }
        let record: Self = serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
        if record.to_json()? == bytes { Ok(record) } else { Err(refuse("its content does not match its check".into())) }
    }
}

impl Plan {
    /// The record of a segment that is finished in `folder`. What the files hold past their headers is not read:
    /// [`crate::shard::verify::verify`] does that.
    ///
    /// # Errors
    /// Why the segment does not count as finished.
    pub fn committed(&self, folder: &Path, index: u32) -> Result<SegmentRecord> {
        let path = folder.join(record_name(index));
        let record = SegmentRecord::from_json(&path, &read_whole(&path)?)?;
        let refuse = |what: String| Err(Error::Format { path: path.clone(), what });
        let segment = self.segment(index)?;
        let facts = &record.segment;
        let id = self.segment_id(segment)?;
        let (format, plan, tokenizer) = (&record.format, &record.plan, &record.tokenizer);
        if format != FORMAT || *plan != self.hash || *tokenizer != format!("sha256:{}", hex(&self.tokenizer)) {
            return refuse(format!("of plan {plan}, tokenizer {tokenizer}; this plan is {}", self.hash));
        }
        if (facts.index, facts.files, facts.slice) != (index, segment.files, segment.slice)
            || facts.id != format!("blake3:{}", hex(&id))
        {
            return refuse(format!("of another segment: {}", facts.id));
        }
        let mut parts = [0_u32; 2];
        for file in &record.files {
            let part = &mut parts[usize::from(file.split == Split::Val)];
            let header = read_header(folder, file)?;
            if !self.agrees(&header, file, index, *part, &id) {
                return refuse(format!("does not say of {} what its header says", file.name));
            }
            *part += 1;
        }
        Ok(record)
    }

    fn agrees(&self, header: &Header, file: &FileRecord, index: u32, part: u32, id: &[u8; 32]) -> bool {
        let tokenizer = &self.body.tokenizer;
        file.name == part_name(file.split, index, part as usize)
            && (header.segment, header.part, &header.segment_id) == (index, part, id)
            && (u64::from(header.tokens), header.documents) == (file.n_tokens, file.n_docs)
            && (header.max_id, header.text_bytes) == (file.max_id, file.utf8_bytes)
            && (hex(&header.payload), hex(&header.docs)) == (file.blake3.clone(), file.blake3_docs.clone())
            && (header.dtype, header.vocab_size, header.bos) == (self.dtype, tokenizer.vocab_size, tokenizer.bos)
            && header.tokenizer == self.tokenizer
    }
}

/// The header of a file, its size and that of its sidecar being right.
fn read_header(folder: &Path, file: &FileRecord) -> Result<Header> {
    let path = folder.join(format!("{}.bin", file.name));
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    let open = File::open(&path).map_err(|error| Error::io(&path, error))?;
    let size = open.metadata().map_err(|error| Error::io(&path, error))?.len();
    open.take(HEADER_BYTES as u64).read_to_end(&mut bytes).map_err(|error| Error::io(&path, error))?;
    let header = Header::parse(&path, &bytes, size)?;
    let docs = folder.join(format!("{}.docs.npy", file.name));
    let found = docs.metadata().map_err(|error| Error::io(&docs, error))?.len();
    if found == header.docs_bytes() {
        Ok(header)
    } else {
        let what = format!("{found} bytes; {} documents need {}", header.documents, header.docs_bytes());
        Err(Error::Format { path: docs, what })
    }
}

fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let size = path.metadata().map_err(|error| Error::io(path, error))?.len();
    if size > MOST_BYTES {
        return Err(Error::Format { path: path.to_owned(), what: format!("{size} bytes: no commit record") });
    }
    fs::read(path).map_err(|error| Error::io(path, error))
}
