//! Shards → tokens of documents: open checks, then bytes by `mmap` or `pread`, which answer alike.
#![allow(unsafe_code)] // one mapping of a file

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::format::{DOCS_PREFIX_BYTES, Dtype, HEADER_BYTES, Header, docs_prefix};
use crate::{Error, Result};

/// How bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// Mapped: no copies, no system calls. A file cut under a running process is a SIGBUS.
    Mmap,
    /// Read into a buffer: a file cut under a running process is [`Error::Corrupt`].
    Pread,
}

impl Io {
    /// # Errors
    /// [`Error::Invalid`] for any name but `mmap` and `pread`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "mmap" => Ok(Io::Mmap),
            "pread" => Ok(Io::Pread),
            _ => Err(Error::Invalid { what: format!("io {name:?} is neither \"mmap\" nor \"pread\"") }),
        }
    }
}

/// Bytes of one file, at any place.
trait Bytes: std::fmt::Debug + Send + Sync {
    /// `length` bytes from `start`, borrowed from the file or from `scratch`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the file ends before, [`Error::Io`] where it cannot be read.
    fn get<'a>(&'a self, start: u64, length: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]>;
}

#[derive(Debug)]
struct Mapped {
    path: PathBuf,
    map: memmap2::Mmap,
}

impl Bytes for Mapped {
    fn get<'a>(&'a self, start: u64, length: usize, _: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        usize::try_from(start)
            .ok()
            .and_then(|start| self.map.get(start..start.checked_add(length)?))
            .ok_or_else(|| past_the_end(&self.path, start, length))
    }
}

#[derive(Debug)]
struct Positioned {
    path: PathBuf,
    files: Arc<OpenFiles>,
}

impl Bytes for Positioned {
    fn get<'a>(&'a self, start: u64, length: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        scratch.resize(length, 0);
        let file = self.files.get(&self.path)?;
        file.read_exact_at(scratch, start).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => past_the_end(&self.path, start, length),
            _ => Error::io(&self.path, error),
        })?;
        Ok(scratch)
    }
}

fn past_the_end(path: &Path, start: u64, length: usize) -> Error {
    let what = format!("{length} bytes at {start} are past the end of the file: it was cut while in use");
    Error::Corrupt { path: path.to_owned(), what }
}

/// Files kept open for `pread`, the least recently used one closed first.
#[derive(Debug, Default)]
pub struct OpenFiles(Mutex<Vec<(PathBuf, Arc<File>)>>);

impl OpenFiles {
    /// Most files open at once: a quarter of the usual limit of 1,024.
    const MOST: usize = 256;

    fn get(&self, path: &Path) -> Result<Arc<File>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = open.iter().rposition(|(known, _)| known == path) {
            let entry = open.remove(index);
            let file = entry.1.clone();
            open.push(entry);
            return Ok(file);
        }
        let file = Arc::new(File::open(path).map_err(|error| Error::io(path, error))?);
        if open.len() == Self::MOST {
            open.remove(0);
        }
        open.push((path.to_owned(), file.clone()));
        Ok(file)
    }
}

/// Map a file, or read it by `pread` if asked to or where mapping is refused.
fn open_bytes(path: &Path, file: &File, io: Io, files: &Arc<OpenFiles>) -> Box<dyn Bytes> {
    if io == Io::Mmap {
        // SAFETY: shards are written once and published by rename, mode 0444, so nobody writes into a
        // mapped one. Whoever cuts the file anyway gets the documented SIGBUS; `Io::Pread` is the way around.
        if let Ok(map) = unsafe { memmap2::Mmap::map(file) } {
            return Box::new(Mapped { path: path.to_owned(), map });
        }
    }
    Box::new(Positioned { path: path.to_owned(), files: files.clone() })
}

/// One shard, open for reading.
#[derive(Debug)]
pub struct ShardReader {
    path: PathBuf,
    header: Header,
    tokens: Box<dyn Bytes>,
    docs: Box<dyn Bytes>,
}

impl ShardReader {
    /// Open `<stem>.bin` and `<stem>.docs.npy` and check header, sizes, sidecar prefix, first and last offset.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`], or [`Error::Format`] that names the first thing wrong.
    pub fn open(directory: &Path, stem: &str, io: Io, files: &Arc<OpenFiles>) -> Result<Self> {
        let path = directory.join(format!("{stem}.bin"));
        let (file, size) = open_file(&path)?;
        let mut head = vec![0; (HEADER_BYTES as u64).min(size) as usize];
        file.read_exact_at(&mut head, 0).map_err(|error| Error::io(&path, error))?;
        let header = Header::parse(&path, &head, size)?;

        let docs_path = directory.join(format!("{stem}.docs.npy"));
        let (docs_file, docs_size) = open_file(&docs_path)?;
        let refuse = |what: String| Err(Error::Format { path: docs_path.clone(), what });
        if docs_size != header.docs_bytes() {
            let (wants, documents) = (header.docs_bytes(), header.documents);
            return refuse(format!("{docs_size} bytes; {documents} documents need {wants}"));
        }
        let reader = ShardReader {
            tokens: open_bytes(&path, &file, io, files),
            docs: open_bytes(&docs_path, &docs_file, io, files),
            path,
            header,
        };
        let documents = reader.header.documents;
        let mut scratch = vec![];
        if *reader.docs.get(0, DOCS_PREFIX_BYTES, &mut scratch)? != docs_prefix(documents) {
            return refuse("not the NumPy header of a one-dimensional <u4 array of this length".into());
        }
        let (first, last) = (reader.offset(0, &mut scratch)?, reader.offset(documents, &mut scratch)?);
        if (first, last) != (0, reader.header.tokens) {
            let tokens = reader.header.tokens;
            return refuse(format!("offsets go from {first} to {last}; the file holds {tokens} tokens"));
        }
        Ok(reader)
    }

    /// The facts of the file.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The `.bin` file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of documents.
    pub fn documents(&self) -> u64 {
        self.header.documents
    }

    /// First token of a document and its number of tokens.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the offsets do not increase; [`Error::Io`].
    ///
    /// # Panics
    /// Where there is no such document.
    pub fn document(&self, document: u64, scratch: &mut Vec<u8>) -> Result<(u32, u32)> {
        assert!(document < self.documents(), "document {document} of {}", self.documents());
        let bytes = self.docs.get(DOCS_PREFIX_BYTES as u64 + 4 * document, 8, scratch)?;
        let (start, end) = (u32_at(bytes, 0), u32_at(bytes, 4));
        match end.checked_sub(start) {
            Some(length) if length > 0 && end <= self.header.tokens => Ok((start, length)),
            _ => Err(Error::Corrupt {
                path: self.path.with_extension("docs.npy"),
                what: format!("document {document} goes from {start} to {end}"),
            }),
        }
    }

    /// Documents whose tokens all lie before `limit`, plus the one that reaches it: the shortest prefix
    /// of documents that holds at least `limit` tokens, or all.
    ///
    /// # Errors
    /// As [`ShardReader::document`].
    pub fn documents_reaching(&self, limit: u32, scratch: &mut Vec<u8>) -> Result<u64> {
        let (mut low, mut high) = (0, self.documents()); // offset(low) < limit, or low is 0
        while low < high {
            let middle = low + (high - low) / 2;
            if self.offset(middle, scratch)? < limit { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// Hand the bytes of `length` tokens from `start` to `use_bytes`: 2 or 4 little-endian bytes a token.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the file was cut; [`Error::Io`].
    pub fn tokens<T>(
        &self,
        start: u32,
        length: u32,
        scratch: &mut Vec<u8>,
        use_bytes: impl FnOnce(Dtype, &[u8]) -> T,
    ) -> Result<T> {
        let size = self.header.dtype.size();
        let place = HEADER_BYTES as u64 + u64::from(start) * size;
        let bytes = self.tokens.get(place, (u64::from(length) * size) as usize, scratch)?;
        Ok(use_bytes(self.header.dtype, bytes))
    }

    /// The file, and where in it token `start` stands.
    pub fn byte_of(&self, start: u32) -> (PathBuf, u64) {
        (self.path.clone(), HEADER_BYTES as u64 + u64::from(start) * self.header.dtype.size())
    }

    /// The error for an id that the vocabulary does not have.
    pub fn bad_id(&self, id: u32, start: u32) -> Error {
        let what = format!("id {id} after token {start}; the vocabulary has {} ids", self.header.vocab_size);
        Error::Corrupt { path: self.path.clone(), what }
    }

    fn offset(&self, index: u64, scratch: &mut Vec<u8>) -> Result<u32> {
        Ok(u32_at(self.docs.get(DOCS_PREFIX_BYTES as u64 + 4 * index, 4, scratch)?, 0))
    }
}

fn open_file(path: &Path) -> Result<(File, u64)> {
    let opened = File::open(path).and_then(|file| file.metadata().map(|facts| (file, facts.len())));
    opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { what: format!("{}: no such file", path.display()) },
        _ => Error::io(path, error),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LENGTHS: [u32; 5] = [3, 1, 700, 2, 9];

    /// A shard of documents of these lengths whose token i has the id i mod 60,000.
    pub(crate) fn write_shard(directory: &Path, stem: &str, lengths: &[u32], dtype: Dtype) -> Vec<u32> {
        let ids: Vec<u32> = (0..lengths.iter().sum()).map(|i: u32| i % 60_000).collect();
        let header = Header {
            dtype,
            permuted: false,
            tokens: ids.len() as u32,
            documents: lengths.len() as u64,
            vocab_size: 65_536,
            bos: 0,
            max_id: 65_535,
            text_bytes: 1 << 20,
            segment: 0,
            part: 0,
            tokenizer: [1; 32],
            segment_id: [2; 32],
            payload: [0; 32],
            docs: [0; 32],
        };
        let mut bytes = header.encode().to_vec();
        for id in &ids {
            bytes.extend_from_slice(&id.to_le_bytes()[..dtype.size() as usize]);
        }
        std::fs::write(directory.join(format!("{stem}.bin")), bytes).unwrap();
        let mut docs = docs_prefix(header.documents).to_vec();
        let mut end = 0_u32;
        docs.extend_from_slice(&end.to_le_bytes());
        for length in lengths {
            end += length;
            docs.extend_from_slice(&end.to_le_bytes());
        }
        std::fs::write(directory.join(format!("{stem}.docs.npy")), docs).unwrap();
        ids
    }

    fn ids_of(reader: &ShardReader, start: u32, length: u32) -> Result<Vec<u32>> {
        let widen = |dtype: Dtype, bytes: &[u8]| {
            let whole = |token: &[u8]| token.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte));
            bytes.chunks_exact(dtype.size() as usize).map(whole).collect()
        };
        reader.tokens(start, length, &mut vec![], widen)
    }

    fn open(directory: &Path, io: Io) -> Result<ShardReader> {
        ShardReader::open(directory, "train_000000", io, &Arc::default())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn both_ways_to_read_give_the_tokens_that_were_written(
            lengths in prop::collection::vec(1_u32..500, 1..20), wide: bool, limit in 0_u32..9000,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let dtype = if wide { Dtype::U32 } else { Dtype::U16 };
            let ids = write_shard(directory.path(), "train_000000", &lengths, dtype);
            let (mapped, read) = (open(directory.path(), Io::Mmap).unwrap(), open(directory.path(), Io::Pread).unwrap());
            let mut at = 0;
            for (document, &length) in lengths.iter().enumerate() {
                for reader in [&mapped, &read] {
                    prop_assert_eq!(reader.document(document as u64, &mut vec![]).unwrap(), (at, length));
                    prop_assert_eq!(ids_of(reader, at, length).unwrap(), &ids[at as usize..(at + length) as usize]);
                }
                at += length;
            }
            let prefix = mapped.documents_reaching(limit, &mut vec![]).unwrap();
            let total = |documents: u64| lengths[..documents as usize].iter().sum::<u32>();
            prop_assert!(total(prefix) >= limit || prefix == lengths.len() as u64);
            prop_assert!(prefix == 0 || total(prefix - 1) < limit);
        }
    }

    #[test]
    fn a_damaged_sidecar_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        write_shard(directory.path(), "train_000000", &LENGTHS, Dtype::U16);
        let path = directory.path().join("train_000000.docs.npy");
        let good = std::fs::read(&path).unwrap();
        for (at, what) in [(20, "NumPy"), (128, "offsets go"), (128 + 4 * 5, "offsets go")] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, bad).unwrap();
            for io in [Io::Mmap, Io::Pread] {
                let error = open(directory.path(), io).unwrap_err();
                assert!(matches!(&error, Error::Format { .. }) && error.to_string().contains(what), "{error}");
            }
        }
        std::fs::write(&path, &good[..good.len() - 4]).unwrap();
        assert!(open(directory.path(), Io::Mmap).unwrap_err().to_string().contains("documents need"));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(open(directory.path(), Io::Mmap), Err(Error::Missing { .. })));
    }

    #[test]
    fn an_offset_that_steps_back_is_refused_when_it_is_used() {
        let directory = tempfile::tempdir().unwrap();
        write_shard(directory.path(), "train_000000", &LENGTHS, Dtype::U16);
        let path = directory.path().join("train_000000.docs.npy");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[132..136].copy_from_slice(&500_u32.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let reader = open(directory.path(), Io::Mmap).unwrap();
        assert!(matches!(reader.document(1, &mut vec![]), Err(Error::Corrupt { .. })));
    }

    /// Rows L5 and 19.
    #[test]
    fn a_file_cut_while_open_is_a_typed_error_by_pread() {
        let directory = tempfile::tempdir().unwrap();
        write_shard(directory.path(), "train_000000", &LENGTHS, Dtype::U16);
        for keep in [1023, 1024, 1026, 1800] {
            write_shard(directory.path(), "train_000000", &LENGTHS, Dtype::U16);
            let reader = open(directory.path(), Io::Pread).unwrap();
            assert_eq!(ids_of(&reader, 0, 3).unwrap(), [0, 1, 2]);
            let file = File::options().write(true).open(reader.path()).unwrap();
            file.set_len(keep).unwrap();
            assert!(matches!(ids_of(&reader, 4, 700), Err(Error::Corrupt { .. })), "{keep}");
        }
    }

    #[test]
    fn few_files_are_open_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let files = OpenFiles::default();
        for index in 0..OpenFiles::MOST + 5 {
            let path = directory.path().join(index.to_string());
            std::fs::write(&path, [index as u8]).unwrap();
            files.get(&path).unwrap();
        }
        assert_eq!(files.0.lock().unwrap().len(), OpenFiles::MOST);
        files.get(&directory.path().join("0")).unwrap(); // opened again
    }
}
