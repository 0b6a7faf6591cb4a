//! Bytes → ids. Pieces are merged by rank, left before right, exactly as the textbook loop does it;
//! a cache per encoder answers for the pieces that come back, which is nearly all of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use sha2::{Digest, Sha256};

use crate::Result;
use crate::count::ShortPiece;
use crate::spans::Spans;
use crate::split::{Pattern, for_each_piece};
use crate::vocab::{SPECIALS, Vocab, json};

/// A split pattern, a vocabulary and the file that says both. Immutable; share it by `Arc`.
#[derive(Debug)]
pub struct Tokenizer {
    pattern: Pattern,
    vocab: Vocab,
    merger: Merger,
    json: Vec<u8>,
    fingerprint: [u8; 32],
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
        Self { pattern, vocab, merger, json, fingerprint }
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
        self.encoder_with(Cache::default())
    }

    /// An encoder that goes on with a cache, which must come from an encoder of this very tokenizer.
    pub fn encoder_with(&self, cache: Cache) -> Encoder<'_> {
        Encoder { tokenizer: self, cache }
    }
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
        let Self { tokenizer, cache } = self;
        for_each_piece(tokenizer.pattern, text, |text, start, end| {
            let Some(key) = ShortPiece::new(text, start, end) else {
                return tokenizer.merger.merge(&text[start..end], out);
            };
            if cache.append(key, out) {
                return;
            }
            let before = out.len();
            tokenizer.merger.merge(&text[start..end], out);
            cache.remember(key, &out[before..]);
        });
    }

    /// The cache, for a later encoder of the same tokenizer.
    pub fn into_cache(self) -> Cache {
        self.cache
    }
}

/// Ids of short pieces seen before: a fixed table, two places to a hash.
#[derive(Debug)]
pub struct Cache {
    slots: Vec<Slot>,
}

/// 32 bytes, two to a cache line.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    piece: ShortPiece,
    ids: [u32; MOST_CACHED],
    len: u32,
}

/// Pieces of more tokens than this are merged anew each time.
const MOST_CACHED: usize = 3;
/// 2¹⁶ slots of 32 bytes: 2 MiB.
const CACHE_BITS: u32 = 16;

impl Default for Cache {
    fn default() -> Self {
        Self { slots: vec![Slot::default(); 1 << CACHE_BITS] }
    }
}

impl Cache {
    fn home(piece: ShortPiece) -> usize {
        (piece.hash() >> (64 - CACHE_BITS)) as usize & !1
    }

    #[inline(always)]
    fn append(&mut self, piece: ShortPiece, out: &mut Vec<u32>) -> bool {
        let home = Self::home(piece);
        let slot = self.slots[home];
        if slot.piece == piece {
            slot.append_to(out);
            return true;
        }
        let second = self.slots[home + 1];
        if second.piece != piece {
            return false;
        }
        self.slots.swap(home, home + 1);
        second.append_to(out);
        true
    }

    /// A newcomer gets the second place and the first one only when it comes back, so that pieces seen
    /// once cannot push out the common ones.
    fn remember(&mut self, piece: ShortPiece, made: &[u32]) {
        let mut ids = [0; MOST_CACHED];
        if let Some(kept) = ids.get_mut(..made.len()) {
            kept.copy_from_slice(made);
            let home = Self::home(piece);
            let place = home + usize::from(!self.slots[home].piece.is_none());
            self.slots[place] = Slot { piece, ids, len: made.len() as u32 };
        }
    }
}

impl Slot {
    #[inline(always)]
    fn append_to(&self, out: &mut Vec<u32>) {
        match self.len {
            1 => out.push(self.ids[0]),
            len => out.extend_from_slice(&self.ids[..len as usize]),
        }
    }
}

/// (left, right) → id of their merge: a flat table of 8-byte entries, 21 bits to each id.
#[derive(Clone, Debug)]
struct Pairs {
    slots: Vec<u64>,
    used: usize,
}

const ID_BITS: u32 = 21;

impl Pairs {
    fn with_capacity(pairs: usize) -> Self {
        Self { slots: vec![0; (pairs * 2).max(8).next_power_of_two()], used: 0 }
    }

    /// The first id given to a pair stays.
    fn insert(&mut self, left: u32, right: u32, id: u32) {
        if (self.used + 1) * 2 > self.slots.len() {
            let larger = Self::with_capacity(self.slots.len());
            for slot in std::mem::replace(self, larger).slots.into_iter().filter(|slot| *slot != 0) {
                self.place(slot);
            }
        }
        self.place(Self::key(left, right) << ID_BITS | u64::from(id));
    }

    fn place(&mut self, slot: u64) {
        let at = self.find(slot >> ID_BITS);
        if self.slots[at] == 0 {
            self.slots[at] = slot;
            self.used += 1;
        }
    }

    /// Id of the merge, or `u32::MAX`.
    #[inline(always)]
    fn get(&self, left: u32, right: u32) -> u32 {
        let slot = self.slots[self.find(Self::key(left, right))];
        if slot == 0 { u32::MAX } else { slot as u32 & ((1 << ID_BITS) - 1) }
    }

    fn key(left: u32, right: u32) -> u64 {
        u64::from(left) << ID_BITS | u64::from(right)
    }

    /// Where a key is, or the free slot where it would go. Ids of merges are above 0, so no entry is 0.
    #[inline(always)]
    fn find(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & mask;
        while self.slots[at] != 0 && self.slots[at] >> ID_BITS != key {
            at = (at + 1) & mask;
        }
        at
    }
}

/// Up to here a scan for the smallest rank beats a heap.
const SHORT: usize = 64;

/// What merging needs: the id of each byte, of each pair, and the length of each id.
#[derive(Clone, Debug)]
pub(crate) struct Merger {
    byte_ids: [u32; 256],
    pairs: Pairs,
    lengths: Vec<u32>,
}

impl Merger {
    /// The bytes alone, with room for `merges`.
    pub(crate) fn new(byte_ids: &[u32; 256], merges: usize) -> Self {
        Self { byte_ids: *byte_ids, pairs: Pairs::with_capacity(merges), lengths: vec![1; 256] }
    }

    /// The next merge: it makes the id after the last one.
    pub(crate) fn push(&mut self, left: u32, right: u32) {
        self.pairs.insert(left, right, self.lengths.len() as u32);
        self.lengths.push(self.lengths[left as usize] + self.lengths[right as usize]);
    }

    /// Append the ids of one piece: of all pairs that can merge, the one of lowest rank, the leftmost of
    /// its kind, until none can.
    pub(crate) fn merge(&self, piece: &[u8], out: &mut Vec<u32>) {
        match piece.len() {
            1 => out.push(self.byte_ids[usize::from(piece[0])]),
            ..=SHORT => self.merge_short(piece, out),
            _ => self.merge_long(piece, out),
        }
    }

    fn merge_short(&self, piece: &[u8], out: &mut Vec<u32>) {
        let mut ids = [0; SHORT];
        let mut ranks = [u32::MAX; SHORT];
        let mut count = piece.len();
        for (id, byte) in ids.iter_mut().zip(piece) {
            *id = self.byte_ids[usize::from(*byte)];
        }
        for at in 1..count {
            ranks[at - 1] = self.pairs.get(ids[at - 1], ids[at]);
        }
        while count > 1 {
            let (mut at, mut lowest) = (0, ranks[0]);
            for (place, rank) in ranks[..count - 1].iter().enumerate() {
                if *rank < lowest {
                    (at, lowest) = (place, *rank);
                }
            }
            if lowest == u32::MAX {
                break;
            }
            ids[at] = lowest;
            ids.copy_within(at + 2..count, at + 1);
            ranks.copy_within(at + 1..count, at);
            count -= 1;
            if at + 1 < count {
                ranks[at] = self.pairs.get(ids[at], ids[at + 1]);
            }
            if at > 0 {
                ranks[at - 1] = self.pairs.get(ids[at - 1], ids[at]);
            }
        }
        out.extend_from_slice(&ids[..count]);
    }

    /// The same in n log n, for pieces without an end: entries of the heap are (rank, position) in one
    /// number, and an entry that no longer holds is passed over.
    fn merge_long(&self, piece: &[u8], out: &mut Vec<u32>) {
        const PLACE_BITS: u32 = u64::BITS - ID_BITS;
        let slots: Vec<u32> = piece.iter().map(|byte| self.byte_ids[usize::from(*byte)]).collect();
        let entry = |left: u32, right: u32, at: usize| match self.pairs.get(left, right) {
            u32::MAX => None,
            rank => Some(Reverse(u64::from(rank) << PLACE_BITS | at as u64)),
        };
        let mut heap: BinaryHeap<_> =
            (1..slots.len()).filter_map(|next| entry(slots[next - 1], slots[next], next - 1)).collect();
        let mut spans = Spans::new(slots);
        while let Some(Reverse(top)) = heap.pop() {
            let (rank, at) = ((top >> PLACE_BITS) as u32, (top & ((1 << PLACE_BITS) - 1)) as usize);
            let Some(left) = spans.get(at) else { continue };
            let second = at + self.lengths[left as usize] as usize;
            let Some(right) = spans.get(second) else { continue };
            if self.pairs.get(left, right) != rank {
                continue;
            }
            let length = self.lengths[rank as usize] as usize;
            spans.join(at, second, length, rank);
            if let Some((start, before)) = spans.before(at) {
                heap.extend(entry(before, rank, start));
            }
            if let Some(after) = spans.get(at + length) {
                heap.extend(entry(rank, after, at));
            }
        }
        let mut at = 0;
        while let Some(id) = spans.get(at) {
            out.push(id);
            at += self.lengths[id as usize] as usize;
        }
    }
}
