//! Ids of pieces seen before. Bounded, and never wrong: what it holds was made by merging.

use super::{BATCH, Merger, Piece};
use crate::count::ShortPiece;
use crate::prefetch::prefetch;
use crate::vocab::Vocab;

/// Belongs to one thread and one tokenizer. Short pieces of few ids lie in one flat table, two places to a
/// hash; the others in a second one, with their bytes.
#[derive(Clone, Debug)]
pub struct Cache {
    slots: Vec<Slot>,
    long: Long,
}

/// 32 bytes, two to a cache line. The last of `ids` is their number.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    piece: ShortPiece,
    ids: [u32; MOST_IDS + 1],
}

/// Ids of a piece in the first table.
const MOST_IDS: usize = 3;
/// 2¹⁸ slots of 32 bytes: 8 MiB, room for a vocabulary of 65,536 and three times as much.
const SLOT_BITS: u32 = 18;

impl Cache {
    /// Every token of `vocab` that is one piece of at most 15 bytes, the common ones first, as merging makes it.
    pub(super) fn seeded(vocab: &Vocab, merger: &Merger) -> Self {
        let mut cache = Self { slots: vec![Slot::default(); 1 << SLOT_BITS], long: Long::default() };
        let mut made = Vec::new();
        for token in (0..vocab.len()).filter_map(|id| vocab.token(id)) {
            let Some(piece) = ShortPiece::new(token, 0, token.len()) else { continue };
            made.clear();
            merger.merge(token, &mut made);
            let home = cache.home(piece);
            if cache.slots[home..home + 2].iter().any(|slot| slot.piece.is_none()) {
                cache.remember(home, piece, &made);
            }
        }
        cache
    }

    /// The first of the two places of a piece.
    #[inline(always)]
    pub(super) fn home(&self, piece: ShortPiece) -> usize {
        (piece.hash() >> (64 - SLOT_BITS)) as usize & !1
    }

    /// Ask for a home's cache line ahead of its use.
    #[inline(always)]
    pub(super) fn prefetch(&self, home: usize) {
        prefetch(&self.slots[home]);
    }

    /// Append the ids of at most [`BATCH`] pieces.
    #[inline]
    pub(super) fn append(&mut self, pieces: &[Piece<'_>], merger: &Merger, out: &mut Vec<u32>) {
        let mut made = [0; BATCH * MOST_IDS + 1];
        let mut used = 0;
        for piece in pieces {
            let [first, second] = &mut self.slots[piece.home..piece.home + 2] else { continue };
            if first.piece != piece.key || piece.key.is_none() {
                if second.piece != piece.key || piece.key.is_none() {
                    out.extend_from_slice(&made[..used]);
                    used = 0;
                    self.append_new(piece, merger, out);
                    continue;
                }
                std::mem::swap(first, second);
            }
            // All four at once, whatever their number: what is too much is written over by the next.
            made[used..used + MOST_IDS + 1].copy_from_slice(&first.ids);
            used += first.ids[MOST_IDS] as usize;
        }
        out.extend_from_slice(&made[..used]);
    }

    #[inline(never)]
    fn append_new(&mut self, piece: &Piece<'_>, merger: &Merger, out: &mut Vec<u32>) {
        let before = out.len();
        if !self.long.append(piece.bytes, out) {
            merger.merge(piece.bytes, out);
            let made = &out[before..];
            if piece.key.is_none() || made.len() > MOST_IDS {
                self.long.remember(piece.bytes, made);
            } else {
                self.remember(piece.home, piece.key, made);
            }
        }
    }

    /// A newcomer gets the second place and the first one only when it comes back, so that pieces seen
    /// once cannot push out the common ones.
    fn remember(&mut self, home: usize, piece: ShortPiece, made: &[u32]) {
        let mut ids = [0; MOST_IDS + 1];
        if let Some(kept) = ids[..MOST_IDS].get_mut(..made.len()) {
            kept.copy_from_slice(made);
            ids[MOST_IDS] = made.len() as u32;
            let place = home + usize::from(!self.slots[home].piece.is_none());
            self.slots[place] = Slot { piece, ids };
        }
    }
}

/// Pieces with their bytes, one place to a hash. Full, it forgets everything and starts again.
#[derive(Clone, Debug, Default)]
struct Long {
    slots: Vec<LongSlot>,
    bytes: Vec<u8>,
    ids: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct LongSlot {
    hash: u64,
    bytes: (u32, u32),
    ids: (u32, u32),
}

/// 2¹⁶ slots of 24 bytes.
const LONG_BITS: u32 = 16;
/// Longer pieces hardly ever come back.
const MOST_BYTES: usize = 48;
/// Bytes kept before it starts again; the ids take at most four times as much.
const MOST_KEPT: usize = 1 << 21;

impl Long {
    fn append(&self, piece: &[u8], out: &mut Vec<u32>) -> bool {
        if self.slots.is_empty() || piece.len() > MOST_BYTES {
            return false;
        }
        let hash = hash(piece);
        let slot = self.slots[(hash >> (64 - LONG_BITS)) as usize];
        if slot.hash != hash || self.bytes[slot.bytes.0 as usize..slot.bytes.1 as usize] != *piece {
            return false;
        }
        out.extend_from_slice(&self.ids[slot.ids.0 as usize..slot.ids.1 as usize]);
        true
    }

    fn remember(&mut self, piece: &[u8], made: &[u32]) {
        if piece.len() > MOST_BYTES {
            return;
        }
        if self.slots.is_empty() || self.bytes.len() + piece.len() > MOST_KEPT {
            self.slots.clear();
            self.slots.resize(1 << LONG_BITS, LongSlot::default());
            self.bytes.clear();
            self.ids.clear();
        }
        let (bytes, ids) = (self.bytes.len() as u32, self.ids.len() as u32);
        self.bytes.extend_from_slice(piece);
        self.ids.extend_from_slice(made);
        let hash = hash(piece);
        self.slots[(hash >> (64 - LONG_BITS)) as usize] =
            LongSlot { hash, bytes: (bytes, self.bytes.len() as u32), ids: (ids, self.ids.len() as u32) };
    }
}

/// 64 bits, the high ones well mixed. Short of 8 bytes the rest is padded with zeros, so the length counts too.
fn hash(piece: &[u8]) -> u64 {
    let mut all = piece.len() as u64 ^ 0x243f_6a88_85a3_08d3;
    for chunk in piece.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let product = u128::from(all ^ u64::from_le_bytes(word)) * 0x9e37_79b9_7f4a_7c15;
        all = (product >> 64) as u64 ^ product as u64;
    }
    all
}
