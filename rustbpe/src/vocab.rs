//! Ids ↔ bytes: 256 bytes, then merges by rank, then the nine special tokens. Checked once when
//! built, immutable after.

pub(crate) mod json;

use rustc_hash::{FxBuildHasher, FxHashSet};

use crate::encode::Merger;
use crate::{Error, Result};

/// The special tokens, last in every vocabulary and in this order. Text never encodes to them.
pub const SPECIALS: [&str; 9] = [
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
];

/// 256 bytes and the specials.
pub const SMALLEST_VOCAB: u32 = 256 + SPECIALS.len() as u32;

/// Ids of ordinary tokens stay below this, so that a pair and its result fit in 64 bits.
pub const MOST_TOKENS: usize = 1 << 21;

/// Ordinary tokens: the bytes, then what each merge makes. Merge i makes id 256 + i, so an id is
/// also a rank. Every vocabulary encodes every byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocab {
    byte_ids: [u32; 256],
    merges: Vec<(u32, u32)>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Vocab {
    /// Ids 0–255 are the bytes in order; merge i joins two earlier ids into id 256 + i.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a merge names a later id or two tokens have the same bytes.
    pub fn from_merges(merges: Vec<(u32, u32)>) -> Result<Self> {
        Self::new(std::array::from_fn(|id| id as u8), merges)
    }

    /// A vocabulary given as tokens and their ranks, as tiktoken keeps it. Ranks 0–255 may hold the
    /// bytes in any order. The merge that makes a token is found by encoding it with those before it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if ranks have gaps, the first 256 are not the bytes, or a token cannot be
    /// made from two earlier ones.
    pub fn from_ranks(mut ranks: Vec<(Vec<u8>, u32)>) -> Result<Self> {
        ranks.sort_unstable_by_key(|(_, rank)| *rank);
        if let Some(at) = (0..ranks.len()).find(|&at| ranks[at].1 as usize != at) {
            return Err(invalid(format!("rank {at} is missing or given twice")));
        }
        let mut byte_of = [0; 256];
        let mut byte_ids = [u32::MAX; 256];
        for (id, byte) in byte_of.iter_mut().enumerate() {
            match ranks.get(id).map(|(token, _)| token.as_slice()) {
                Some(&[single]) => *byte = single,
                _ => return Err(invalid(format!("rank {id} is not a single byte"))),
            }
            byte_ids[usize::from(*byte)] = id as u32;
        }
        let mut merger = Merger::new(&byte_ids, ranks.len());
        let mut merges = Vec::new();
        let mut made = Vec::new();
        for (token, rank) in ranks.iter().skip(256) {
            made.clear();
            if !token.is_empty() {
                merger.merge(token, &mut made);
            }
            let [left, right] = made[..] else {
                return Err(invalid(format!(
                    "token {rank}, {:?}, is not made of two earlier ones",
                    token.escape_ascii().to_string()
                )));
            };
            merger.push(left, right);
            merges.push((left, right));
        }
        Self::new(byte_of, merges)
    }

    fn new(byte_of: [u8; 256], merges: Vec<(u32, u32)>) -> Result<Self> {
        if merges.len() + 256 > MOST_TOKENS {
            return Err(invalid(format!("{} merges, at most {} are possible", merges.len(), MOST_TOKENS - 256)));
        }
        let mut byte_ids = [u32::MAX; 256];
        for (id, byte) in (0..).zip(byte_of) {
            byte_ids[usize::from(byte)] = id;
        }
        if byte_ids.contains(&u32::MAX) {
            return Err(invalid("a byte has no id".into()));
        }
        let mut vocab = Self { byte_ids, merges: Vec::new(), bytes: byte_of.to_vec(), ends: (1..=256).collect() };
        for &(left, right) in &merges {
            let id = vocab.len();
            if left >= id || right >= id {
                return Err(invalid(format!("token {id} is made of {left} and {right}, which do not come before it")));
            }
            for part in [left, right] {
                let (start, end) = vocab.range(part as usize);
                vocab.bytes.extend_from_within(start..end);
            }
            vocab.ends.push(vocab.bytes.len());
        }
        vocab.merges = merges;
        let mut seen = FxHashSet::with_capacity_and_hasher(vocab.ends.len(), FxBuildHasher);
        if let Some(id) = (0..vocab.len()).find(|&id| !seen.insert(vocab.token(id).unwrap_or_default())) {
            return Err(invalid(format!("token {id} has the bytes of an earlier one")));
        }
        Ok(vocab)
    }

    /// Ordinary tokens: bytes and merges.
    pub fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Never: the bytes are always there.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// (left, right) of every merge, by rank.
    pub fn merges(&self) -> &[(u32, u32)] {
        &self.merges
    }

    /// Id of each byte.
    pub fn byte_ids(&self) -> &[u32; 256] {
        &self.byte_ids
    }

    /// Bytes of an ordinary token.
    pub fn token(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        if id >= self.ends.len() {
            return None;
        }
        let (start, end) = self.range(id);
        Some(&self.bytes[start..end])
    }

    fn range(&self, id: usize) -> (usize, usize) {
        (if id == 0 { 0 } else { self.ends[id - 1] }, self.ends[id])
    }
}

fn invalid(what: String) -> Error {
    Error::Invalid { what: format!("vocabulary: {what}") }
}

/// GPT-2's printable character for a byte: itself where it prints, else the next one from U+0100 on.
pub(crate) const fn byte_char(byte: u8) -> char {
    const fn prints(byte: u8) -> bool {
        matches!(byte, 33..=126 | 161..=172 | 174..=255)
    }
    if prints(byte) {
        return byte as char;
    }
    let (mut code, mut below) = (256, 0);
    while below < byte {
        code += !prints(below) as u32;
        below += 1;
    }
    match char::from_u32(code) {
        Some(c) => c,
        None => char::REPLACEMENT_CHARACTER,
    }
}
