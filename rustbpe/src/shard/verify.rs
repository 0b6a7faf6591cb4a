//! Read a whole shard and check every promise of its format.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use super::format::{DOCS_PREFIX_BYTES, Dtype, HEADER_BYTES, Header, check_docs};
use crate::{Control, Error, Result};

const CHUNK_BYTES: usize = 4 << 20;

/// Check `NAME.bin` and `NAME.docs.npy` beside it: header, lengths, both hashes, offsets, every id below the
/// vocabulary, and BOS at the start of each document and nowhere else. Adds to `ctl.bytes` and `ctl.tokens`.
///
/// # Errors
/// [`Error::Format`], [`Error::Corrupt`], [`Error::Missing`], [`Error::Io`], [`Error::Cancelled`].
pub fn verify(bin: &Path, ctl: &Control) -> Result<Header> {
    let mut file = File::open(bin).map_err(|error| absent(bin, error))?;
    let size = file.metadata().map_err(|error| Error::io(bin, error))?.len();
    let mut head = Vec::with_capacity(HEADER_BYTES);
    file.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut head).map_err(|error| Error::io(bin, error))?;
    let header = Header::parse(bin, &head, size)?;
    let docs = bin.with_extension("docs.npy");
    let sidecar = read_docs(&docs, &header)?;
    file.seek(SeekFrom::Start(HEADER_BYTES as u64)).map_err(|error| Error::io(bin, error))?;
    let mut starts = sidecar[DOCS_PREFIX_BYTES..]
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .peekable();
    let refuse = |what: String| Error::Corrupt { path: bin.to_owned(), what };
    let mut hash = blake3::Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(header.payload_bytes()).unwrap_or(CHUNK_BYTES))];
    let (mut at, mut max_id, mut left) = (0_u32, 0_u32, header.payload_bytes());
    while left > 0 {
        ctl.check()?;
        let wanted = chunk.len().min(usize::try_from(left).unwrap_or(CHUNK_BYTES));
        let chunk = &mut chunk[..wanted];
        file.read_exact(chunk).map_err(|error| Error::io(bin, error))?;
        hash.update(chunk);
        let mut each = |id: u32| {
            max_id = max_id.max(id);
            let first = starts.next_if_eq(&at).is_some();
            at += 1;
            if first == (id == header.bos) { Ok(()) } else { Err(at - 1) }
        };
        let boundaries = match header.dtype {
            Dtype::U16 => chunk.as_chunks().0.iter().try_for_each(|&token| each(u16::from_le_bytes(token).into())),
            Dtype::U32 => chunk.as_chunks().0.iter().try_for_each(|&token| each(u32::from_le_bytes(token))),
        };
        boundaries.map_err(|at| refuse(format!("token {at}: BOS and the document offsets disagree")))?;
        left -= chunk.len() as u64;
        ctl.bytes.fetch_add(chunk.len() as u64, Relaxed);
        ctl.tokens.fetch_add(chunk.len() as u64 / header.dtype.size(), Relaxed);
    }
    if max_id != header.max_id {
        return Err(refuse(format!("largest id is {max_id}, the header says {}", header.max_id)));
    }
    if *hash.finalize().as_bytes() != header.payload {
        return Err(refuse("the tokens do not match their blake3 in the header".into()));
    }
    Ok(header)
}

fn read_docs(path: &Path, header: &Header) -> Result<Vec<u8>> {
    let size = path.metadata().map_err(|error| absent(path, error))?.len();
    if size != header.docs_bytes() {
        let what = format!("{size} bytes; {} documents need {}", header.documents, header.docs_bytes());
        return Err(Error::Format { path: path.to_owned(), what });
    }
    let bytes = fs::read(path).map_err(|error| absent(path, error))?;
    if *blake3::hash(&bytes).as_bytes() != header.docs {
        let what = "does not match its blake3 in the shard's header".into();
        return Err(Error::Corrupt { path: path.to_owned(), what });
    }
    check_docs(path, &bytes, header)?;
    Ok(bytes)
}

fn absent(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { what: format!("{}: is not there", path.display()) },
        _ => Error::io(path, error),
    }
}
