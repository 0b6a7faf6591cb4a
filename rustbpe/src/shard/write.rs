//! Documents → the files of one split of one segment, in parts, under private names until all is well.

use std::io::{Seek, SeekFrom, Write};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::format::{Dtype, HEADER_BYTES, Header, MAX_PAYLOAD_BYTES, docs_prefix};
use super::out::{OutDir, failed, seal};
use crate::{Error, Result};

/// Payload held before it is hashed and written: little enough to be in the core's cache still.
const BUFFER_BYTES: usize = 256 << 10;

/// Training or validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Documents to learn from.
    Train,
    /// Documents to measure on; chosen by hash, never learnt from.
    Val,
}

impl Split {
    /// `train` or `val`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
        }
    }
}

/// What is the same in every file of a segment.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Token type.
    pub dtype: Dtype,
    /// Ids of the tokenizer, special tokens included.
    pub vocab_size: u32,
    /// Id that begins every document.
    pub bos: u32,
    /// Position of the segment in the plan.
    pub segment: u32,
    /// sha256 of `tokenizer.json`.
    pub tokenizer: [u8; 32],
    /// Name of the segment.
    pub segment_id: [u8; 32],
    /// A part is closed before the document that would take it past this many tokens.
    pub part_tokens: u64,
}

/// One `.bin` and its sidecar, as commit records and manifests describe them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// blake3 of the tokens, hex.
    pub blake3: String,
    /// blake3 of the `.docs.npy` file, hex.
    pub blake3_docs: String,
    /// Largest id.
    pub max_id: u32,
    /// Documents.
    pub n_docs: u64,
    /// Tokens, BOS included.
    pub n_tokens: u64,
    /// File name without `.bin`.
    pub name: String,
    /// Split.
    pub split: Split,
    /// UTF-8 bytes of text.
    pub utf8_bytes: u64,
}

/// A part that is written and synced, and waits for its final name.
pub struct Finished {
    bin: NamedTempFile,
    docs: NamedTempFile,
    /// What it holds.
    pub record: FileRecord,
}

impl Finished {
    /// Give both files their names, offsets first. Durable after [`OutDir::sync`].
    pub(crate) fn place(self, out: &OutDir) -> Result<FileRecord> {
        out.place(self.docs, &format!("{}.docs.npy", self.record.name))?;
        out.place(self.bin, &format!("{}.bin", self.record.name))?;
        Ok(self.record)
    }
}

/// Writes the documents of one split. Nothing has a final name before [`Finished::place`].
pub struct SplitWriter<'a> {
    out: &'a OutDir,
    facts: &'a Facts,
    split: Split,
    open: Option<Part>,
    finished: Vec<Finished>,
}

impl<'a> SplitWriter<'a> {
    /// A writer that makes no file before the first document.
    pub fn new(out: &'a OutDir, facts: &'a Facts, split: Split) -> Self {
        Self { out, facts, split, open: None, finished: Vec::new() }
    }

    /// Append one document: `ids` with BOS in front, made from `text_bytes` bytes of UTF-8.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for an id outside the vocabulary, [`Error::Invalid`] for a document that no
    /// file can hold, [`Error::DiskFull`], [`Error::Io`].
    pub fn push(&mut self, ids: &[u32], text_bytes: u64) -> Result<()> {
        let limit = MAX_PAYLOAD_BYTES / self.facts.dtype.size();
        let count = ids.len() as u64;
        if count > limit {
            let what = format!("a document of {count} tokens; one file holds {limit}");
            return Err(Error::Invalid { what });
        }
        let full = |part: &Part| u64::from(part.tokens) + count > self.facts.part_tokens.min(limit);
        if let Some(part) = self.open.take_if(|part| full(part)) {
            self.close(part)?;
        }
        if self.open.is_none() {
            self.open = Some(Part::create(self.out, &self.name())?);
        }
        self.open.as_mut().map_or(Ok(()), |part| part.push(ids, text_bytes, self.facts))
    }

    /// Close the last part and hand over all of them, in order.
    ///
    /// # Errors
    /// As [`SplitWriter::push`].
    pub fn finish(mut self) -> Result<Vec<Finished>> {
        if let Some(part) = self.open.take() {
            self.close(part)?;
        }
        Ok(self.finished)
    }

    fn close(&mut self, part: Part) -> Result<()> {
        let done = part.finish(self.out, self.facts, self.split, self.name(), self.finished.len())?;
        self.finished.push(done);
        Ok(())
    }

    fn name(&self) -> String {
        part_name(self.split, self.facts.segment, self.finished.len())
    }
}

/// Name of a part of a segment, without `.bin`.
pub(crate) fn part_name(split: Split, segment: u32, part: usize) -> String {
    match part {
        0 => format!("{}_{segment:06}", split.name()),
        part => format!("{}_{segment:06}_{part:02}", split.name()),
    }
}

struct Part {
    bin: NamedTempFile,
    /// Of `BUFFER_BYTES`; the first `filled` are waiting.
    buffer: Vec<u8>,
    filled: usize,
    hash: blake3::Hasher,
    ends: Vec<u32>,
    tokens: u32,
    max_id: u32,
    text_bytes: u64,
}

impl Part {
    fn create(out: &OutDir, name: &str) -> Result<Self> {
        let mut bin = out.create(&format!("{name}.bin"))?;
        bin.write_all(&[0; HEADER_BYTES]).map_err(|error| failed(bin.path(), error, HEADER_BYTES as u64))?;
        let (buffer, hash) = (vec![0; BUFFER_BYTES], blake3::Hasher::new());
        Ok(Self { bin, buffer, filled: 0, hash, ends: vec![0], tokens: 0, max_id: 0, text_bytes: 0 })
    }

    fn push(&mut self, ids: &[u32], text_bytes: u64, facts: &Facts) -> Result<()> {
        let Some(max_id) = ids.iter().copied().max().filter(|&id| id < facts.vocab_size) else {
            let what = format!("the tokenizer gave an id outside its vocabulary of {}", facts.vocab_size);
            return Err(Error::Corrupt { path: self.bin.path().to_owned(), what });
        };
        self.max_id = self.max_id.max(max_id);
        self.text_bytes += text_bytes;
        let size = facts.dtype.size() as usize;
        let mut rest = ids;
        while !rest.is_empty() {
            let room = &mut self.buffer[self.filled..];
            let (now, later) = rest.split_at((room.len() / size).min(rest.len()));
            match facts.dtype {
                #[expect(clippy::cast_possible_truncation, reason = "id < vocabulary ≤ 65,536")]
                Dtype::U16 => put(room, now, |id| (id as u16).to_le_bytes()),
                Dtype::U32 => put(room, now, u32::to_le_bytes),
            }
            self.filled += now.len() * size;
            if self.filled + size > BUFFER_BYTES {
                self.flush()?;
            }
            rest = later;
        }
        self.tokens += u32::try_from(ids.len()).unwrap_or(u32::MAX); // at most MAX_PAYLOAD_BYTES / 2 in all
        self.ends.push(self.tokens);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let waiting = &self.buffer[..self.filled];
        self.hash.update(waiting);
        let written = self.bin.write_all(waiting);
        written.map_err(|error| failed(self.bin.path(), error, self.filled as u64))?;
        self.filled = 0;
        Ok(())
    }

    /// The header is filled last: until then the file is no shard, even under its private name.
    fn finish(mut self, out: &OutDir, facts: &Facts, split: Split, name: String, part: usize) -> Result<Finished> {
        self.flush()?;
        let documents = self.ends.len() as u64 - 1;
        let prefix = docs_prefix(documents);
        let mut sidecar = vec![0; prefix.len() + size_of_val(self.ends.as_slice())];
        sidecar[..prefix.len()].copy_from_slice(&prefix);
        put(&mut sidecar[prefix.len()..], &self.ends, u32::to_le_bytes);
        let (payload_hash, docs_hash) = (self.hash.finalize(), blake3::hash(&sidecar));
        let header = Header {
            dtype: facts.dtype,
            permuted: false,
            tokens: self.tokens,
            documents,
            vocab_size: facts.vocab_size,
            bos: facts.bos,
            max_id: self.max_id,
            text_bytes: self.text_bytes,
            segment: facts.segment,
            part: u32::try_from(part).unwrap_or(u32::MAX),
            tokenizer: facts.tokenizer,
            segment_id: facts.segment_id,
            payload: payload_hash.into(),
            docs: docs_hash.into(),
        };
        header.check().map_err(|what| Error::Corrupt { path: self.bin.path().to_owned(), what })?;
        let mut docs = out.create(&format!("{name}.docs.npy"))?;
        docs.write_all(&sidecar).map_err(|error| failed(docs.path(), error, sidecar.len() as u64))?;
        seal(&docs)?;
        let filled = self.bin.seek(SeekFrom::Start(0)).and_then(|_| self.bin.write_all(&header.encode()));
        filled.map_err(|error| failed(self.bin.path(), error, HEADER_BYTES as u64))?;
        seal(&self.bin)?;
        let record = FileRecord {
            blake3: payload_hash.to_string(),
            blake3_docs: docs_hash.to_string(),
            max_id: self.max_id,
            n_docs: documents,
            n_tokens: self.tokens.into(),
            name,
            split,
            utf8_bytes: self.text_bytes,
        };
        Ok(Finished { bin: self.bin, docs, record })
    }
}

/// The ids at the beginning of `room`, each in N bytes.
fn put<const N: usize>(room: &mut [u8], ids: &[u32], bytes: impl Fn(u32) -> [u8; N]) {
    for (place, &id) in room.chunks_exact_mut(N).zip(ids) {
        place.copy_from_slice(&bytes(id));
    }
}
