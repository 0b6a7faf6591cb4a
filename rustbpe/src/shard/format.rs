//! The bytes of a shard: the 1,024-byte header of a `.bin` file and the prefix of its `.docs.npy`.
//! `shards/README.md` is the authority; this file is its only implementation.

use std::path::Path;

use crate::{Error, Result};

/// Bytes before the first token.
pub const HEADER_BYTES: usize = 1024;
/// Largest payload of one file: llm.c keeps byte offsets in an `int`, and one Linux `read` moves at most 0x7ffff000 bytes.
pub const MAX_PAYLOAD_BYTES: u64 = (1 << 31) - 4096;
/// Bytes before the first offset of a `.docs.npy`.
pub const DOCS_PREFIX_BYTES: usize = 128;
/// Name of the format, in every JSON file beside the shards.
pub const FORMAT: &str = "picollm-shards/1";

const WORDS: usize = HEADER_BYTES / 4;
const EXTENSION: u32 = u32::from_le_bytes(*b"PICO");
const VERSION: u32 = 1;
const BEGINS_WITH_BOS: u32 = 1;
const PERMUTED: u32 = 4;
const NO_EOS: u32 = u32::MAX;
/// First word of the checksum: xxh3-64 of all bytes before it.
const CHECKSUM: usize = 254;
const RESERVED: std::ops::Range<usize> = 48..CHECKSUM;

/// What one token is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// Two bytes; vocabularies up to and including 65,536.
    U16,
    /// Four bytes.
    U32,
}

impl Dtype {
    /// Bytes per token.
    pub const fn size(self) -> u64 {
        match self {
            Dtype::U16 => 2,
            Dtype::U32 => 4,
        }
    }

    /// Largest vocabulary, special tokens included.
    pub const fn max_vocab(self) -> u64 {
        1 << (8 * self.size())
    }

    /// NumPy's name: `uint16` or `uint32`.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::U16 => "uint16",
            Dtype::U32 => "uint32",
        }
    }

    /// # Errors
    /// [`Error::Invalid`] for any name but `uint16` and `uint32`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "uint16" => Ok(Dtype::U16),
            "uint32" => Ok(Dtype::U32),
            _ => Err(Error::Invalid { what: format!("dtype {name:?}: shards hold uint16 or uint32") }),
        }
    }

    /// llm.c's magic number and version.
    const fn magic(self) -> (u32, u32) {
        match self {
            Dtype::U16 => (20_240_520, 1),
            Dtype::U32 => (20_240_801, 7),
        }
    }
}

/// The facts of one `.bin` file. A value that [`Header::parse`] returned is consistent in itself and
/// with the size of its file; only the payload and the sidecar are still to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Token type.
    pub dtype: Dtype,
    /// Whether documents were permuted when they were written.
    pub permuted: bool,
    /// Tokens in the file, BOS included. At least 1.
    pub tokens: u32,
    /// Documents in the file. At least 1.
    pub documents: u64,
    /// Ids of the tokenizer, special tokens included.
    pub vocab_size: u32,
    /// Id that begins every document.
    pub bos: u32,
    /// Largest id in the file.
    pub max_id: u32,
    /// UTF-8 bytes of the documents' text.
    pub text_bytes: u64,
    /// Segment of the plan.
    pub segment: u32,
    /// Part of the segment.
    pub part: u32,
    /// sha256 of `tokenizer.json`.
    pub tokenizer: [u8; 32],
    /// blake3 that names the segment.
    pub segment_id: [u8; 32],
    /// blake3 of the payload.
    pub payload: [u8; 32],
    /// blake3 of the whole `.docs.npy` file.
    pub docs: [u8; 32],
}

impl Header {
    /// Bytes of the payload.
    pub fn payload_bytes(&self) -> u64 {
        u64::from(self.tokens) * self.dtype.size()
    }

    /// Bytes of the whole `.bin` file.
    pub fn file_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.payload_bytes()
    }

    /// Bytes of the whole `.docs.npy` file.
    pub fn docs_bytes(&self) -> u64 {
        DOCS_PREFIX_BYTES as u64 + 4 * (self.documents + 1)
    }

    /// The header as it lies in the file.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut words = [0_u32; WORDS];
        (words[0], words[1]) = self.dtype.magic();
        words[2] = self.tokens;
        words[3] = EXTENSION;
        words[4] = VERSION;
        words[5] = BEGINS_WITH_BOS | if self.permuted { PERMUTED } else { 0 };
        (words[6], words[7]) = halves(self.documents);
        words[8..12].copy_from_slice(&[self.vocab_size, self.bos, NO_EOS, self.max_id]);
        (words[12], words[13]) = halves(self.text_bytes);
        words[14] = self.segment;
        words[15] = self.part;
        let mut bytes = [0; HEADER_BYTES];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        for (first, hash) in [(16, &self.tokenizer), (24, &self.segment_id), (32, &self.payload), (40, &self.docs)] {
            bytes[4 * first..4 * first + 32].copy_from_slice(hash);
        }
        let checksum = twox_hash::XxHash3_64::oneshot(&bytes[..4 * CHECKSUM]);
        bytes[4 * CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Read and check a header. `bytes` are the first bytes of the file (at least 1,024 unless the
    /// file is shorter), `file_bytes` its whole size; `path` only names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`] that names the first thing wrong. Nothing is allocated from a value in the file.
    pub fn parse(path: &Path, bytes: &[u8], file_bytes: u64) -> Result<Self> {
        let refuse = |what: String| Error::Format { path: path.to_owned(), what };
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(refuse(format!("{file_bytes} bytes; a shard has a header of {HEADER_BYTES}")));
        };
        let header = Self::read_fields(bytes).map_err(refuse)?;
        header.check().map_err(refuse)?;
        if file_bytes != header.file_bytes() {
            return Err(refuse(format!(
                "header says {} tokens, so {} bytes; the file has {file_bytes}",
                header.tokens,
                header.file_bytes()
            )));
        }
        Ok(header)
    }

    fn read_fields(bytes: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        let word = |index: usize| u32_at(bytes, 4 * index);
        let dtype = [Dtype::U16, Dtype::U32]
            .into_iter()
            .find(|dtype| dtype.magic() == (word(0), word(1)))
            .ok_or_else(|| format!("words 0 and 1 are {} and {}: not a token shard", word(0), word(1)))?;
        if word(3) != EXTENSION {
            return Err("an llm.c file without picollm's part of the header (word 3 is not PICO)".into());
        }
        let (low, high) = halves(twox_hash::XxHash3_64::oneshot(&bytes[..4 * CHECKSUM]));
        if (low, high) != (word(CHECKSUM), word(CHECKSUM + 1)) {
            return Err("the header does not match its own checksum (words 254 and 255)".into());
        }
        if word(4) != VERSION {
            return Err(format!("made by a later picollm: extension version {}, this one reads {VERSION}", word(4)));
        }
        if word(5) & !PERMUTED != BEGINS_WITH_BOS {
            return Err(format!("flags {:#x} (word 5) are not known", word(5)));
        }
        if word(10) != NO_EOS {
            return Err(format!("word 10 is {}; this version has no end-of-document token", word(10)));
        }
        if let Some(index) = RESERVED.into_iter().find(|&index| word(index) != 0) {
            return Err(format!("reserved word {index} is {}, not 0", word(index)));
        }
        let hash = |first: usize| std::array::from_fn(|index| bytes[4 * first + index]);
        Ok(Self {
            dtype,
            permuted: word(5) & PERMUTED != 0,
            tokens: word(2),
            documents: whole(word(6), word(7)),
            vocab_size: word(8),
            bos: word(9),
            max_id: word(11),
            text_bytes: whole(word(12), word(13)),
            segment: word(14),
            part: word(15),
            tokenizer: hash(16),
            segment_id: hash(24),
            payload: hash(32),
            docs: hash(40),
        })
    }

    /// Whether the fields can all be true of one file.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { tokens, documents, vocab_size, bos, max_id, text_bytes, .. } = *self;
        if u64::from(vocab_size) > self.dtype.max_vocab() {
            return Err(format!("vocabulary of {vocab_size} ids (word 8) in {} tokens", self.dtype.name()));
        }
        if max_id >= vocab_size {
            return Err(format!("largest id {max_id} (word 11) in a vocabulary of {vocab_size}"));
        }
        if bos > max_id {
            return Err(format!("BOS {bos} (word 9) is above the largest id {max_id} (word 11)"));
        }
        if self.payload_bytes() > MAX_PAYLOAD_BYTES {
            return Err(format!("{tokens} tokens (word 2) are more than {MAX_PAYLOAD_BYTES} bytes"));
        }
        if documents == 0 || documents > u64::from(tokens) {
            return Err(format!("{documents} documents (words 6, 7) in {tokens} tokens"));
        }
        if text_bytes < documents {
            return Err(format!("{text_bytes} bytes of text (words 12, 13) in {documents} documents"));
        }
        Ok(())
    }
}

/// First 128 bytes of a `.docs.npy` for this many documents: what `np.save` writes before
/// `documents + 1` little-endian 32-bit offsets.
pub fn docs_prefix(documents: u64) -> [u8; DOCS_PREFIX_BYTES] {
    let mut prefix = [b' '; DOCS_PREFIX_BYTES];
    prefix[..10].copy_from_slice(b"\x93NUMPY\x01\x00\x76\x00"); // 0x76 = 118 bytes of description follow
    let text = format!("{{'descr': '<u4', 'fortran_order': False, 'shape': ({},), }}", documents + 1);
    prefix[10..10 + text.len()].copy_from_slice(text.as_bytes());
    prefix[DOCS_PREFIX_BYTES - 1] = b'\n';
    prefix
}

/// Check the form of a `.docs.npy` file: `bytes` are all of it.
///
/// # Errors
/// [`Error::Format`] unless it is the sidecar that `header` asks for: exact length and prefix, first
/// offset 0, last the number of tokens, strictly increasing. The hash is not looked at.
pub fn check_docs(path: &Path, bytes: &[u8], header: &Header) -> Result<()> {
    let refuse = |what: String| Err(Error::Format { path: path.to_owned(), what });
    if bytes.len() as u64 != header.docs_bytes() {
        let (has, wants) = (bytes.len(), header.docs_bytes());
        return refuse(format!("{has} bytes; {} documents need {wants}", header.documents));
    }
    let (prefix, offsets) = bytes.split_at(DOCS_PREFIX_BYTES);
    if prefix != docs_prefix(header.documents) {
        return refuse("not the NumPy header of a one-dimensional <u4 array of this length".into());
    }
    let mut offsets = offsets.chunks_exact(4).map(|word| u32_at(word, 0));
    let mut last = offsets.next().unwrap_or(u32::MAX);
    if last != 0 {
        return refuse(format!("first offset is {last}, not 0"));
    }
    for (document, end) in offsets.enumerate() {
        if end <= last {
            return refuse(format!("document {document} goes from {last} to {end}"));
        }
        last = end;
    }
    if last != header.tokens {
        return refuse(format!("last offset is {last}; the file has {} tokens", header.tokens));
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
const fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

fn whole(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Header {
        Header {
            dtype: Dtype::U16,
            permuted: false,
            tokens: 1000,
            documents: 10,
            vocab_size: 65_536,
            bos: 65_527,
            max_id: 65_535,
            text_bytes: 4321,
            segment: 7,
            part: 1,
            tokenizer: [1; 32],
            segment_id: [2; 32],
            payload: [3; 32],
            docs: [4; 32],
        }
    }

    fn parse(bytes: &[u8], size: u64) -> Result<Header> {
        Header::parse(Path::new("x.bin"), bytes, size)
    }

    /// The checksum made right again after a field was changed, as a hostile writer would.
    fn resealed(mut bytes: [u8; HEADER_BYTES], word: usize, value: u32) -> [u8; HEADER_BYTES] {
        bytes[4 * word..4 * word + 4].copy_from_slice(&value.to_le_bytes());
        let checksum = twox_hash::XxHash3_64::oneshot(&bytes[..4 * CHECKSUM]);
        bytes[4 * CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        for dtype in [Dtype::U16, Dtype::U32] {
            let header = Header { dtype, ..sample() };
            assert_eq!(parse(&header.encode(), header.file_bytes()).unwrap(), header);
        }
    }

    /// Rows S7 and 18.
    #[test]
    fn every_flipped_bit_is_refused() {
        let header = sample();
        let good = header.encode();
        for bit in 0..8 * HEADER_BYTES {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad, header.file_bytes()).is_err(), "bit {bit}");
        }
    }

    /// Row S8: with the checksum made right, only meanings that the format has are accepted.
    #[test]
    fn impossible_fields_are_refused_even_with_a_right_checksum() {
        let header = sample();
        let cases = [
            (0, 20_240_801, "not a token shard"),
            (2, u32::MAX, "more than"),
            (2, 9, "documents"),
            (2, 999, "header says"),
            (3, 0, "llm.c file"),
            (4, 2, "later picollm"),
            (5, 0, "flags"),
            (5, 3, "flags"),
            (6, 0, "documents"),
            (7, 1, "documents"),
            (8, 65_537, "vocabulary"),
            (8, 65_535, "largest id"),
            (9, 65_536, "BOS"),
            (10, 0, "end-of-document"),
            (11, 65_536, "largest id"),
            (12, 3, "bytes of text"),
            (48, 1, "reserved"),
            (253, 1, "reserved"),
        ];
        for (word, value, says) in cases {
            let error = parse(&resealed(header.encode(), word, value), header.file_bytes()).unwrap_err();
            assert!(error.to_string().contains(says), "word {word}: {error}");
        }
    }

    #[test]
    fn the_length_must_be_exact() {
        let header = sample();
        let bytes = header.encode();
        for size in [0, 1023, 1024, header.file_bytes() - 1, header.file_bytes() + 1, u64::MAX] {
            assert!(parse(&bytes, size).is_err(), "{size}");
        }
        assert!(parse(&bytes[..1023], 1023).is_err());
    }

    #[test]
    fn a_docs_file_must_be_what_its_header_says() {
        let header = Header { documents: 3, tokens: 9, ..sample() };
        let docs = |offsets: &[u32]| -> Vec<u8> {
            docs_prefix(3).into_iter().chain(offsets.iter().flat_map(|end| end.to_le_bytes())).collect()
        };
        let check = |bytes: &[u8]| check_docs(Path::new("x.docs.npy"), bytes, &header);
        assert!(check(&docs(&[0, 2, 5, 9])).is_ok());
        for wrong in [&[0, 2, 5, 8][..], &[1, 2, 5, 9], &[0, 5, 5, 9], &[0, 6, 5, 9], &[0, 5, 9], &[0, 2, 5, 7, 9]] {
            assert!(check(&docs(wrong)).is_err(), "{wrong:?}");
        }
        assert!(check(&[]).is_err());
    }

    /// Row S8: 100,000 headers with random words under a right checksum.
    #[test]
    fn random_words_are_refused_or_mean_what_they_say() {
        let good = sample();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..100_000 {
            let random = next();
            let value = [0, 1, u32::MAX, 1 << 31, (random >> 32) as u32][(random % 5) as usize];
            let bytes = resealed(good.encode(), (next() % CHECKSUM as u64) as usize, value);
            if let Ok(header) = parse(&bytes, good.file_bytes()) {
                assert_eq!(header.encode(), bytes);
            }
        }
    }

    proptest! {
        /// Rows S8 and 18: arbitrary bytes never panic, and what is accepted encodes to the same bytes.
        #[test]
        fn accepted_means_canonical(word in 0_usize..254, value: u32, second in 0_usize..254, other: u32) {
            let bytes = resealed(resealed(sample().encode(), word, value), second, other);
            if let Ok(header) = parse(&bytes, sample().file_bytes()) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }
}
