//! Merging one piece by rank: the pair table, a scan for short pieces and a walk over the ranks for endless ones.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::Id;
use crate::spans::Spans;

/// (left, right) → id of their merge: a flat table of 8-byte entries, 21 bits to each id.
#[derive(Clone, Debug)]
struct Pairs {
    slots: Vec<u64>,
    /// Eight bits to each pair, of which it sets one: most pairs that are asked for have no merge, and this is small
    /// enough to stay near.
    sieve: Vec<u64>,
    used: usize,
}

const ID_BITS: u32 = 21;

impl Pairs {
    fn with_capacity(pairs: usize) -> Self {
        let size = (pairs * 2).max(16).next_power_of_two();
        Self { slots: vec![0; size], sieve: vec![0; size / 16 + 1], used: 0 }
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
        let (hash, bit) = Self::hash(slot >> ID_BITS);
        let word = hash & (self.sieve.len() - 2);
        self.sieve[word] |= bit;
        let at = self.find(slot >> ID_BITS, hash);
        if self.slots[at] == 0 {
            self.slots[at] = slot;
            self.used += 1;
        }
    }

    /// Id of the merge, or `u32::MAX`.
    #[inline(always)]
    fn get(&self, left: u32, right: u32) -> u32 {
        let key = Self::key(left, right);
        let (hash, bit) = Self::hash(key);
        if self.sieve[hash & (self.sieve.len() - 2)] & bit == 0 {
            return u32::MAX;
        }
        let slot = self.slots[self.find(key, hash)];
        if slot == 0 { u32::MAX } else { slot as u32 & ((1 << ID_BITS) - 1) }
    }

    /// A hash, and its bit in a word of the sieve.
    #[inline(always)]
    fn hash(key: u64) -> (usize, u64) {
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((hash >> 32) as usize, 1 << (hash >> 26 & 63))
    }

    fn key(left: u32, right: u32) -> u64 {
        u64::from(left) << ID_BITS | u64::from(right)
    }

    /// Where a key is, or the free slot where it would go. Ids of merges are above 0, so no entry is 0.
    #[inline(always)]
    fn find(&self, key: u64, hash: usize) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash & mask;
        while self.slots[at] != 0 && self.slots[at] >> ID_BITS != key {
            at = (at + 1) & mask;
        }
        at
    }
}

/// Up to here a scan for the smallest rank beats the walk over ranks.
const SHORT: usize = 1 << PLACES;
const PLACES: u32 = 6;

/// What merging needs: the id of each byte, of each pair, and the length of each id.
#[derive(Clone, Debug)]
pub(crate) struct Merger {
    byte_ids: [u32; 256],
    pairs: Pairs,
    /// Merges of two bytes, by the bytes: what every piece asks first.
    grid: Vec<u32>,
    lengths: Vec<u32>,
    /// First and last byte of each id.
    edges: Vec<(u8, u8)>,
    /// One bit for two bytes: they stand side by side in some id. Where they do not, no merge ever crosses.
    joints: Vec<u64>,
}

impl Merger {
    /// The bytes alone, with room for `merges`.
    pub(crate) fn new(byte_ids: &[u32; 256], merges: usize) -> Self {
        let (pairs, grid) = (Pairs::with_capacity(merges), vec![u32::MAX; 1 << 16]);
        let mut edges = vec![(0, 0); 256];
        for (byte, id) in (0..=255).zip(byte_ids) {
            edges[*id as usize] = (byte, byte);
        }
        Self { byte_ids: *byte_ids, pairs, grid, lengths: vec![1; 256], edges, joints: vec![0; 1 << 10] }
    }

    /// The next merge: it makes the id after the last one.
    pub(crate) fn push(&mut self, left: u32, right: u32) {
        let id = self.lengths.len() as u32;
        self.pairs.insert(left, right, id);
        let byte = |symbol: u32| self.byte_ids.iter().position(|id| *id == symbol);
        if left < 256
            && right < 256
            && let (Some(left), Some(right)) = (byte(left), byte(right))
        {
            let first = &mut self.grid[left << 8 | right];
            *first = id.min(*first);
        }
        self.lengths.push(self.lengths[left as usize] + self.lengths[right as usize]);
        let (left, right) = (self.edges[left as usize], self.edges[right as usize]);
        self.edges.push((left.0, right.1));
        self.joints[usize::from(left.1) << 2 | usize::from(right.0 >> 6)] |= 1 << (right.0 & 63);
    }

    /// Whether any merge can cross from one byte to the next.
    #[inline(always)]
    fn joins(&self, left: u8, right: u8) -> bool {
        self.joints[usize::from(left) << 2 | usize::from(right >> 6)] >> (right & 63) & 1 != 0
    }

    /// Whether there is no place in the piece that no merge can cross.
    pub(super) fn holds_together(&self, piece: &[u8]) -> bool {
        piece.windows(2).all(|pair| self.joins(pair[0], pair[1]))
    }

    /// Append the ids of one piece: of all pairs that can merge, the one of lowest rank, the leftmost of
    /// its kind, until none can.
    pub(crate) fn merge<I: Id>(&self, piece: &[u8], out: &mut Vec<I>) {
        let mut from = 0;
        for at in 1..piece.len() {
            if !self.joins(piece[at - 1], piece[at]) {
                self.merge_joined(&piece[from..at], out);
                from = at;
            }
        }
        self.merge_joined(&piece[from..], out);
    }

    #[inline]
    fn merge_joined<I: Id>(&self, piece: &[u8], out: &mut Vec<I>) {
        match piece.len() {
            1 => out.push(I::of(self.byte_ids[usize::from(piece[0])])),
            2 => match self.grid[usize::from(piece[0]) << 8 | usize::from(piece[1])] {
                u32::MAX => out.extend([piece[0], piece[1]].map(|byte| I::of(self.byte_ids[usize::from(byte)]))),
                id => out.push(I::of(id)),
            },
            3..=16 => self.merge_short::<I, 16>(piece, out),
            17..=SHORT => self.merge_short::<I, SHORT>(piece, out),
            0 => {}
            _ => self.merge_long(piece, out),
        }
    }

    /// At most `N` ≤ 64 bytes. A symbol stays where its first byte is; each place that has a symbol after it holds
    /// that pair's rank above its own number, so that the smallest of all is the next merge, the leftmost of its kind.
    fn merge_short<I: Id, const N: usize>(&self, piece: &[u8], out: &mut Vec<I>) {
        const NONE: i32 = i32::MAX;
        let key = |rank: u32, at: usize| if rank == u32::MAX { NONE } else { (rank << PLACES) as i32 | at as i32 };
        let (mut ids, mut keys) = ([0; N], [NONE; N]);
        for (id, byte) in ids.iter_mut().zip(piece) {
            *id = self.byte_ids[usize::from(*byte)];
        }
        for (at, pair) in piece.windows(2).enumerate() {
            keys[at] = key(self.grid[usize::from(pair[0]) << 8 | usize::from(pair[1])], at);
        }
        let mut alive = u64::MAX >> (64 - piece.len());
        loop {
            let least = keys.iter().fold(NONE, |least, key| least.min(*key));
            if least == NONE {
                break;
            }
            let (at, id) = (least as usize & ((1 << PLACES) - 1), least as u32 >> PLACES);
            let above = alive & (u64::MAX - 1) << at;
            let (right, later) = (above.trailing_zeros() as usize, above & above.wrapping_sub(1));
            alive &= !(1 << right);
            (ids[at], keys[right]) = (id, NONE);
            keys[at] = match later {
                0 => NONE,
                later => key(self.pairs.get(id, ids[later.trailing_zeros() as usize]), at),
            };
            let earlier = alive & ((1 << at) - 1);
            if earlier != 0 {
                let left = earlier.ilog2() as usize;
                keys[left] = key(self.pairs.get(ids[left], id), left);
            }
        }
        while alive != 0 {
            out.push(I::of(ids[alive.trailing_zeros() as usize]));
            alive &= alive - 1;
        }
    }

    /// The same for pieces without an end. What a merge makes can only be merged at a higher rank, so the ranks that occur
    /// are gone through once, in order, each with all its places from left to right: linear but for sorting the ranks.
    fn merge_long<I: Id>(&self, piece: &[u8], out: &mut Vec<I>) {
        let slots: Vec<u32> = piece.iter().map(|byte| self.byte_ids[usize::from(*byte)]).collect();
        let mut waiting = Waiting::default();
        for (at, pair) in slots.windows(2).enumerate() {
            waiting.push(self.pairs.get(pair[0], pair[1]), at);
        }
        let mut spans = Spans::new(slots);
        while let Some((rank, mut places)) = waiting.next() {
            // Places come in rising runs, which the stable sort finds. Order matters for "aaa" only.
            places.sort();
            let length = self.lengths[rank as usize] as usize;
            for at in places {
                let Some(left) = spans.get(at) else { continue };
                let second = at + self.lengths[left as usize] as usize;
                let Some(right) = spans.get(second) else { continue };
                if self.pairs.get(left, right) != rank {
                    continue;
                }
                spans.join(at, second, length, rank);
                if let Some((start, before)) = spans.before(at) {
                    waiting.push(self.pairs.get(before, rank), start);
                }
                if let Some(after) = spans.get(at + length) {
                    waiting.push(self.pairs.get(rank, after), at);
                }
            }
        }
        let mut at = 0;
        while let Some(id) = spans.get(at) {
            out.push(I::of(id));
            at += self.lengths[id as usize] as usize;
        }
    }
}

/// Places that wait for their rank.
#[derive(Default)]
struct Waiting {
    ranks: BinaryHeap<Reverse<u32>>,
    places: FxHashMap<u32, Vec<usize>>,
}

impl Waiting {
    fn push(&mut self, rank: u32, at: usize) {
        if rank != u32::MAX {
            let places = self.places.entry(rank).or_insert_with(|| {
                self.ranks.push(Reverse(rank));
                Vec::new()
            });
            places.push(at);
        }
    }

    /// The lowest rank, and its places.
    fn next(&mut self) -> Option<(u32, Vec<usize>)> {
        let Reverse(rank) = self.ranks.pop()?;
        Some((rank, self.places.remove(&rank)?))
    }
}
