//! Bytes → ids. Pieces are merged by rank, left before right, exactly as the textbook loop does it;
//! a cache per encoder answers for the pieces that come back, which is nearly all of them.

mod cache;
mod merge;

use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::Result;
use crate::count::ShortPiece;
use crate::split::{Pattern, Sink, feed};
use crate::vocab::{SPECIALS, Vocab, json};

pub use cache::Cache;
pub(crate) use merge::Merger;

/// A split pattern, a vocabulary and the file that says both. Immutable; share it by `Arc`.
#[derive(Debug)]
pub struct Tokenizer {
    pattern: Pattern,
    vocab: Vocab,
    merger: Merger,
    json: Vec<u8>,
    fingerprint: [u8; 32],
    seed: OnceLock<Cache>,
}

impl Tokenizer {
    /// A tokenizer of these merges, with the nine specials after them.
    pub fn new(pattern: Pattern, vocab: Vocab) -> Self {
        let json = json::write(pattern, &vocab);
        Self::with_json(pattern, vocab, json)
    }

    /// Read a `tokenizer.json`.
    ///
    /// # Errors
    /// [`crate::Error::Format`] for anything but a byte-level BPE with a named split pattern, dense ids, the
    /// bytes first, merges of earlier tokens only and the nine specials last.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let (pattern, vocab) = json::read(bytes)?;
        Ok(Self::with_json(pattern, vocab, bytes.to_vec()))
    }

    fn with_json(pattern: Pattern, vocab: Vocab, json: Vec<u8>) -> Self {
        let mut merger = Merger::new(vocab.byte_ids(), vocab.merges().len());
        for &(left, right) in vocab.merges() {
            merger.push(left, right);
        }
        let fingerprint = Sha256::digest(&json).into();
        Self { pattern, vocab, merger, json, fingerprint, seed: OnceLock::new() }
    }

    /// The bytes of `tokenizer.json`: those it was read from, or the canonical ones.
    pub fn to_json(&self) -> &[u8] {
        &self.json
    }

    /// sha256 of [`Tokenizer::to_json`].
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// How text is cut.
    pub fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// The ordinary tokens.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// All tokens, specials included.
    pub fn vocab_size(&self) -> u32 {
        self.vocab.len() + SPECIALS.len() as u32
    }

    /// Id of `<|bos|>`, the first special.
    pub fn bos(&self) -> u32 {
        self.vocab.len()
    }

    /// Bytes of a token; a special gives its name.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocab.token(id).or_else(|| {
            let special = id.checked_sub(self.vocab.len())?;
            SPECIALS.get(special as usize).map(|name| name.as_bytes())
        })
    }

    /// One for each thread: it owns a cache.
    pub fn encoder(&self) -> Encoder<'_> {
        self.encoder_with(self.cache())
    }

    /// A fresh cache: it knows the vocabulary's own pieces, each as the ids that merging really makes of it.
    pub fn cache(&self) -> Cache {
        self.seed.get_or_init(|| Cache::seeded(&self.vocab, &self.merger)).clone()
    }

    /// An encoder that goes on with a cache, which must come from an encoder of this very tokenizer.
    pub fn encoder_with(&self, cache: Cache) -> Encoder<'_> {
        Encoder { tokenizer: self, cache }
    }
}

/// What ids are handed out as: `u16` or `u32`.
pub trait Id: Copy + Default + Send + Sync + sealed::Sealed {
    /// How many ids there are.
    const COUNT: u32;
    /// The id, which must be below [`Id::COUNT`].
    fn of(id: u32) -> Self;
}

impl Id for u16 {
    const COUNT: u32 = 1 << 16;
    #[inline(always)]
    fn of(id: u32) -> Self {
        id as Self
    }
}

impl Id for u32 {
    const COUNT: u32 = u32::MAX;
    #[inline(always)]
    fn of(id: u32) -> Self {
        id
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
}

/// Encodes for one thread.
#[derive(Debug)]
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    cache: Cache,
}

impl Encoder<'_> {
    /// Append the ids of `text`, which is ordinary text whatever it spells: no special ever comes out.
    /// Any bytes will do; see [`crate::split`] for those that are not UTF-8.
    pub fn encode(&mut self, text: &[u8], out: &mut Vec<u32>) {
        self.encode_as(text, out);
    }

    /// The same as ids of some width, in which all of the vocabulary must fit.
    pub(crate) fn encode_as<I: Id>(&mut self, text: &[u8], out: &mut Vec<I>) {
        let Self { tokenizer, cache } = self;
        let mut batch = Batch { pieces: [Piece::default(); BATCH], used: 0, cache, merger: &tokenizer.merger, out };
        feed(tokenizer.pattern, text, &mut batch);
        batch.cache.append(&batch.pieces[..batch.used], batch.merger, batch.out);
    }

    /// The cache, for a later encoder of the same tokenizer.
    pub fn into_cache(self) -> Cache {
        self.cache
    }
}

/// Pieces cut before the first of them is looked up, so that its place in the cache is there by then.
const BATCH: usize = 64;

struct Batch<'t, 'c, I> {
    pieces: [Piece<'t>; BATCH],
    used: usize,
    cache: &'c mut Cache,
    merger: &'c Merger,
    out: &'c mut Vec<I>,
}

impl<'t, I: Id> Sink<'t> for &mut Batch<'t, '_, I> {
    #[inline(always)]
    fn piece(&mut self, text: &'t [u8], start: usize, end: usize) {
        let key = ShortPiece::new(text, start, end).unwrap_or_default();
        let home = self.cache.home(key);
        self.cache.prefetch(home);
        self.pieces[self.used % BATCH] = Piece { key, home, bytes: &text[start..end] };
        self.used += 1;
        if self.used == BATCH {
            self.used = 0;
            self.cache.append(&self.pieces, self.merger, self.out);
        }
    }
}

/// A piece on its way to the cache. `key` is none for one longer than 15 bytes.
#[derive(Clone, Copy, Default)]
struct Piece<'t> {
    key: ShortPiece,
    home: usize,
    bytes: &'t [u8],
}
