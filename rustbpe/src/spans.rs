//! A string under merging: symbols laid over the bytes they stand for, joined in constant time.

use crate::prefetch::prefetch;

/// What a slot holds instead of a symbol. Ids stay below it.
const BACK: u32 = 1 << 31;
/// Marks the end of a word among many in one string.
pub(crate) const WALL: u32 = u32::MAX;

/// One slot per byte. A symbol's id lies in the slot where it starts; if it is longer than a byte,
/// its last slot holds its length, so that both neighbours are one step away. Slots between are stale.
pub(crate) struct Spans {
    slots: Vec<u32>,
}

impl Spans {
    pub(crate) fn new(slots: Vec<u32>) -> Self {
        Self { slots }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The symbol that starts at `at`; `None` past the end, at a wall, or where none starts any more.
    #[inline]
    pub(crate) fn get(&self, at: usize) -> Option<u32> {
        self.slots.get(at).copied().filter(|slot| *slot < BACK)
    }

    /// Ask for a slot ahead of its use.
    #[inline]
    pub(crate) fn prefetch(&self, at: usize) {
        if let Some(slot) = self.slots.get(at) {
            prefetch(slot);
        }
    }

    /// Where the symbol before `at` starts, and its id.
    #[inline]
    pub(crate) fn before(&self, at: usize) -> Option<(usize, u32)> {
        let end = at.checked_sub(1)?;
        match self.slots[end] {
            WALL => None,
            slot if slot >= BACK => {
                let start = at - (slot - BACK) as usize;
                Some((start, self.slots[start]))
            }
            symbol => Some((end, symbol)),
        }
    }

    /// Put `id`, `length` ≥ 2 bytes long, over the two symbols at `at`, of which the second starts at `second`.
    #[inline]
    pub(crate) fn join(&mut self, at: usize, second: usize, length: usize, id: u32) {
        // A stale id at `second` must not look like a symbol that starts there.
        self.slots[second] = BACK;
        self.slots[at + length - 1] = BACK | length as u32;
        self.slots[at] = id;
    }
}
