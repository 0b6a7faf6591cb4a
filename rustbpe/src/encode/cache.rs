//! Ids of pieces seen before. Bounded, and never wrong: what it holds was made by merging.

use super::{BATCH, Id, Merger, Piece};
use crate::count::ShortPiece;
use crate::prefetch::prefetch;
use crate::vocab::Vocab;

/// Belongs to one thread and one tokenizer. Short pieces lie in one flat table, four places to a hash; long ones
/// in a second one, with their bytes.
#[derive(Clone, Debug)]
pub struct Cache {
    slots: Vec<Slot>,
    /// Ids of this vocabulary need more than 16 bits.
    wide: bool,
    long: Long,
    made: Vec<u32>,
}

/// 32 bytes, two to a cache line. The last of `row` is the number of ids before it: up to seven of 16 bits or up to
/// three of 32.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    piece: ShortPiece,
    row: [u16; ROW],
}

const ROW: usize = 8;
/// 2¹⁸ slots of 32 bytes: 8 MiB, room for a vocabulary of 65,536 and three times as much.
const SLOT_BITS: u32 = 18;

impl Slot {
    /// `None` if these are too many ids for a row.
    fn new(piece: ShortPiece, ids: &[u32], wide: bool) -> Option<Self> {
        let mut row = [0; ROW];
        if wide {
            for (pair, id) in row[..ROW - 2].as_chunks_mut().0.iter_mut().zip(ids) {
                *pair = [*id as u16, (id >> 16) as u16];
            }
        } else {
            row.iter_mut().zip(ids).for_each(|(place, id)| *place = *id as u16);
        }
        let most = if wide { ROW / 2 - 1 } else { ROW - 1 };
        row[ROW - 1] = ids.len() as u16;
        (ids.len() <= most).then_some(Self { piece, row })
    }

    /// Its ids, and how many of them count.
    #[inline(always)]
    fn ids<I: Id, const WIDE: bool>(&self) -> ([I; ROW - 1], usize) {
        let row = self.row;
        let id = |at: usize| match (WIDE, at) {
            (false, at) => u32::from(row[at]),
            (true, 0..3) => u32::from(row[2 * at]) | u32::from(row[2 * at + 1]) << 16,
            (true, _) => 0,
        };
        (std::array::from_fn(|at| I::of(id(at))), usize::from(row[ROW - 1]))
    }
}

impl Cache {
    /// Every token of `vocab` that is one piece of at most 15 bytes, the common ones first, as merging makes it.
    pub(super) fn seeded(vocab: &Vocab, merger: &Merger) -> Self {
        let wide = vocab.len() > 1 << 16;
        let mut cache =
            Self { slots: vec![Slot::default(); 1 << SLOT_BITS], wide, long: Long::default(), made: Vec::new() };
        let mut made = Vec::new();
        for token in (0..vocab.len()).filter_map(|id| vocab.token(id)) {
            let Some(piece) = ShortPiece::new(token, 0, token.len()) else { continue };
            let home = cache.home(piece);
            if let Some(place) = cache.free(home) {
                made.clear();
                merger.merge(token, &mut made);
                if let Some(slot) = Slot::new(piece, &made, wide) {
                    cache.slots[place] = slot;
                }
            }
        }
        cache
    }

    /// The first of the two places of a piece in its own cache line. The two others are in the line beside it.
    #[inline(always)]
    pub(super) fn home(&self, piece: ShortPiece) -> usize {
        (piece.hash() >> (64 - SLOT_BITS)) as usize & !1
    }

    /// The free place that a newcomer gets.
    fn free(&self, home: usize) -> Option<usize> {
        [home, home + 1, home ^ 2, (home ^ 2) + 1].into_iter().find(|at| self.slots[*at].piece.is_none())
    }

    /// Ask for a home's cache line ahead of its use.
    #[inline(always)]
    pub(super) fn prefetch(&self, home: usize) {
        prefetch(&self.slots[home]);
    }

    /// Append the ids of at most [`BATCH`] pieces.
    #[inline]
    pub(super) fn append<I: Id>(&mut self, pieces: &[Piece<'_>], merger: &Merger, out: &mut Vec<I>) {
        if self.wide {
            self.append_rows::<I, true>(pieces, merger, out)
        } else {
            self.append_rows::<I, false>(pieces, merger, out)
        }
    }

    fn append_rows<I: Id, const WIDE: bool>(&mut self, pieces: &[Piece<'_>], merger: &Merger, out: &mut Vec<I>) {
        let mut made = [I::default(); BATCH * ROW];
        let mut used = 0;
        for piece in pieces {
            let [first, second] = &mut self.slots[piece.home..piece.home + 2] else { continue };
            if first.piece != piece.key || piece.key.is_none() {
                if second.piece != piece.key || piece.key.is_none() {
                    out.extend_from_slice(&made[..used]);
                    used = 0;
                    self.append_rare::<I, WIDE>(piece, merger, out);
                    continue;
                }
                std::mem::swap(first, second);
            }
            // All of the row at once, whatever its length: what is too much is written over by the next.
            let (ids, count) = first.ids::<I, WIDE>();
            made[used..used + ids.len()].copy_from_slice(&ids);
            used += count;
        }
        out.extend_from_slice(&made[..used]);
    }

    /// One that is not in its own line. A newcomer gets a free place or the second of its line, and the first one only
    /// when it comes back, so that pieces seen once cannot push out the common ones.
    #[inline(never)]
    fn append_rare<I: Id, const WIDE: bool>(&mut self, piece: &Piece<'_>, merger: &Merger, out: &mut Vec<I>) {
        if piece.key.is_none() {
            return self.long.append(piece.bytes, merger, out);
        }
        let (home, beside) = (piece.home, piece.home ^ 2);
        if let Some(found) = [beside, beside + 1].into_iter().find(|at| self.slots[*at].piece == piece.key) {
            self.slots.swap(found, home + 1);
            let (ids, count) = self.slots[home + 1].ids::<I, WIDE>();
            return out.extend_from_slice(&ids[..count]);
        }
        self.made.clear();
        merger.merge(piece.bytes, &mut self.made);
        out.extend(self.made.iter().map(|id| I::of(*id)));
        if let Some(slot) = Slot::new(piece.key, &self.made, WIDE) {
            let place = self.free(home).unwrap_or(home + 1);
            self.slots[place] = slot;
        }
    }
}

/// Pieces above 15 bytes that merging cannot take apart, with their bytes, one place to a hash. Full, it forgets
/// everything and starts again.
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

/// 2¹⁵ slots of 24 bytes.
const LONG_BITS: u32 = 15;
/// Longer pieces are not kept.
const MOST_BYTES: usize = 256;
/// Bytes kept before it starts again; the ids take at most four times as much.
const MOST_KEPT: usize = 1 << 20;

impl Long {
    fn append<I: Id>(&mut self, piece: &[u8], merger: &Merger, out: &mut Vec<I>) {
        if piece.len() > MOST_BYTES || !merger.holds_together(piece) {
            return merger.merge(piece, out);
        }
        let hash = hash(piece);
        if self.slots.is_empty() || self.bytes.len() + piece.len() > MOST_KEPT {
            self.slots.clear();
            self.slots.resize(1 << LONG_BITS, LongSlot::default());
            self.bytes.clear();
            self.ids.clear();
        }
        let slot = &mut self.slots[(hash >> (64 - LONG_BITS)) as usize];
        if slot.hash != hash || self.bytes[slot.bytes.0 as usize..slot.bytes.1 as usize] != *piece {
            let (bytes, ids) = (self.bytes.len() as u32, self.ids.len() as u32);
            self.bytes.extend_from_slice(piece);
            merger.merge(piece, &mut self.ids);
            *slot = LongSlot { hash, bytes: (bytes, self.bytes.len() as u32), ids: (ids, self.ids.len() as u32) };
        }
        out.extend(self.ids[slot.ids.0 as usize..slot.ids.1 as usize].iter().map(|id| I::of(*id)));
    }
}

/// 64 bits, the high ones well mixed, of at least 8 bytes. The last eight count whole, whatever the length.
fn hash(piece: &[u8]) -> u64 {
    let mix = |all: u64, word: [u8; 8]| {
        let product = u128::from(all ^ u64::from_le_bytes(word)) * 0x9e37_79b9_7f4a_7c15;
        (product >> 64) as u64 ^ product as u64
    };
    let all = piece.len() as u64 ^ 0x243f_6a88_85a3_08d3;
    let all = piece.as_chunks().0.iter().fold(all, |all, word| mix(all, *word));
    mix(all, piece.last_chunk().copied().unwrap_or_default())
}
