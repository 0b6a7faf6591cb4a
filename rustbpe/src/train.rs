//! Counts → merges, by incremental byte-pair encoding.
//!
//! Distinct pieces lie in one string of symbols. Each pair keeps its exact weight and the positions
//! where it was born: a pair holds its newest symbol, so all its positions appear in the one pass
//! that makes that symbol, in order, and afterwards only go stale. A merge touches its own
//! occurrences and their neighbours and nothing else. The queue's entries are upper bounds, since a
//! pair's weight only falls after its birth; an entry that is too high is lowered and put back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::atomic::Ordering::Relaxed;

use rustc_hash::FxHashMap;

use crate::count::Counts;
use crate::prefetch::prefetch;
use crate::spans::{Spans, WALL};
use crate::vocab::{SMALLEST_VOCAB, SPECIALS, Vocab};
use crate::{Control, Error, Result};

/// Which of two equally frequent pairs is merged first: the one with the smaller (left, right).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TieOrder {
    /// A byte compares by its value, as in rustbpe and bpeasy.
    #[default]
    Rustbpe,
    /// A byte compares by the character that stands for it in `tokenizer.json`, as in Hugging Face's trainer.
    HuggingFace,
}

impl TieOrder {
    /// The name users say.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rustbpe => "rustbpe",
            Self::HuggingFace => "huggingface",
        }
    }

    /// # Errors
    /// [`Error::Invalid`] with the names there are.
    pub fn from_name(name: &str) -> Result<Self> {
        [Self::Rustbpe, Self::HuggingFace].into_iter().find(|order| order.name() == name).ok_or_else(|| {
            Error::Invalid { what: format!("{name:?} is no tie order; there are rustbpe and huggingface") }
        })
    }

    /// All bytes, in the order in which they compare.
    fn bytes(self) -> [u8; 256] {
        let mut bytes = std::array::from_fn(|byte| byte as u8);
        if self == Self::HuggingFace {
            bytes.sort_by_key(|&byte| crate::vocab::byte_char(byte));
        }
        bytes
    }
}

/// Learn merges until the vocabulary, bytes and specials included, holds `vocab_size` tokens.
///
/// # Errors
/// [`Error::Invalid`] below [`SMALLEST_VOCAB`] or when counts pass 2⁶⁴, [`Error::CorpusTooSmall`] when no
/// pair is left, [`Error::Cancelled`].
pub fn train(counts: &Counts, vocab_size: u32, ties: TieOrder, ctl: &Control) -> Result<Vocab> {
    if vocab_size < SMALLEST_VOCAB {
        let what = format!("a vocabulary of {vocab_size} is too small: 256 bytes and 9 specials make {SMALLEST_VOCAB}");
        return Err(Error::Invalid { what });
    }
    let wanted = vocab_size - SMALLEST_VOCAB;
    ctl.done.store(0, Relaxed);
    ctl.total.store(u64::from(wanted), Relaxed);
    let byte_of = ties.bytes();
    let mut trainer = Trainer::new(counts, &byte_of, ctl)?;
    let mut merges = Vec::new();
    for made in 0..wanted {
        ctl.check()?;
        let Some((left, right)) = trainer.best() else {
            return Err(Error::CorpusTooSmall { got: made + SMALLEST_VOCAB, wanted: vocab_size });
        };
        trainer.merge(left, right);
        let id = |symbol: u32| byte_of.get(symbol as usize).map_or(symbol, |byte| u32::from(*byte));
        merges.push((id(left), id(right)));
        ctl.done.store(u64::from(made) + 1, Relaxed);
        ctl.tokens.store(u64::from(made) + 257 + SPECIALS.len() as u64, Relaxed);
    }
    Vocab::from_merges(merges)
}

/// Two neighbouring symbols, the left one in the high half: compares as (left, right).
type Pair = u64;

fn pair(left: u32, right: u32) -> Pair {
    Pair::from(left) << 32 | Pair::from(right)
}

/// Live weight of a pair, and the part of `Trainer::births` that holds its positions.
#[derive(Clone, Copy)]
struct Stock {
    weight: u64,
    first: usize,
    positions: u32,
}

/// Occurrences between the one that is merged and the one that is asked for.
const AHEAD: usize = 8;

struct Trainer {
    spans: Spans,
    word_of: Vec<u32>,
    weight_of: Vec<u64>,
    lengths: Vec<u32>,
    stocks: FxHashMap<Pair, Stock>,
    births: Vec<u32>,
    queue: Queue,
    fresh: Fresh,
}

/// Pairs by weight, the heaviest first. The weights that come out never rise, so only pairs about as heavy as the heaviest
/// are kept in order; most others are never asked for.
struct Queue {
    /// Pairs of at least 2^`level`, with an upper bound of their weight.
    heap: BinaryHeap<(u64, Reverse<Pair>)>,
    level: u32,
    /// Lighter ones, by the logarithm of what they weighed when they came.
    lighter: [Vec<Pair>; 64],
}

impl Default for Queue {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), level: u64::BITS, lighter: std::array::from_fn(|_| Vec::new()) }
    }
}

impl Queue {
    /// `weight` is above 0.
    fn push(&mut self, pair: Pair, weight: u64) {
        match self.lighter.get_mut(weight.ilog2() as usize) {
            Some(lighter) if weight.ilog2() < self.level => lighter.push(pair),
            _ => self.heap.push((weight, Reverse(pair))),
        }
    }

    /// Put the next lighter pairs in order, as heavy as they are now; those gone are taken from `stocks`. False if there are none.
    fn descend(&mut self, stocks: &mut FxHashMap<Pair, Stock>) -> bool {
        let Some(level) = self.lighter[..self.level as usize].iter().rposition(|lighter| !lighter.is_empty()) else {
            return false;
        };
        self.level = level as u32;
        let mut entries = Vec::new();
        for pair in std::mem::take(&mut self.lighter[level]) {
            match stocks.get(&pair).map_or(0, |stock| stock.weight) {
                0 => drop(stocks.remove(&pair)),
                weight if weight.ilog2() < self.level => self.lighter[weight.ilog2() as usize].push(pair),
                weight => entries.push((weight, Reverse(pair))),
            }
        }
        self.heap = entries.into();
        true
    }
}

/// What one merge brings into being: pairs, numbered as they appear, and their occurrences.
#[derive(Default)]
struct Fresh {
    pairs: Vec<Pair>,
    occurrences: Vec<(u32, u32)>,
}

impl Trainer {
    fn new(counts: &Counts, byte_of: &[u8; 256], ctl: &Control) -> Result<Self> {
        let mut symbol_of = [0_u32; 256];
        for (symbol, byte) in (0..).zip(byte_of) {
            symbol_of[usize::from(*byte)] = symbol;
        }
        let (mut slots, mut word_of, mut weight_of) = (vec![WALL], vec![0], Vec::new());
        let mut total = 0_u128;
        counts.for_each(|piece, weight| {
            if piece.len() < 2 || weight == 0 {
                return; // nothing to merge
            }
            total += piece.len() as u128 * u128::from(weight);
            let word = weight_of.len() as u32;
            slots.extend(piece.iter().map(|byte| symbol_of[usize::from(*byte)]));
            slots.push(WALL);
            word_of.resize(slots.len(), word);
            weight_of.push(weight);
        });
        if total > u128::from(u64::MAX) {
            return Err(Error::Invalid { what: format!("the pieces hold {total} bytes, more than 64 bits count") });
        }
        if u32::try_from(slots.len()).is_err() {
            return Err(Error::Invalid { what: "the distinct pieces hold more than 4 GiB; lower --max-chars".into() });
        }
        let mut trainer = Self {
            spans: Spans::new(slots),
            word_of,
            weight_of,
            lengths: vec![1; 256],
            stocks: FxHashMap::default(),
            births: Vec::new(),
            queue: Queue::default(),
            fresh: Fresh::default(),
        };
        for at in 1..trainer.spans.len() {
            if at % (1 << 20) == 0 {
                ctl.check()?;
            }
            if let (Some(left), Some(right)) = (trainer.spans.get(at), trainer.spans.get(at + 1)) {
                trainer.gain(pair(left, right), at, trainer.weight_of[trainer.word_of[at] as usize]);
            }
        }
        trainer.settle();
        Ok(trainer)
    }

    /// The heaviest pair, ties by the smaller pair; `None` when no pair is left.
    fn best(&mut self) -> Option<(u32, u32)> {
        loop {
            let Some(mut top) = self.queue.heap.peek_mut() else {
                if self.queue.descend(&mut self.stocks) {
                    continue;
                }
                return None;
            };
            let (claimed, Reverse(found)) = *top;
            let weight = self.stocks.get(&found).map_or(0, |stock| stock.weight);
            if weight == claimed {
                PeekMut::pop(top);
                return Some(((found >> 32) as u32, found as u32));
            }
            if weight == 0 {
                PeekMut::pop(top);
                self.stocks.remove(&found);
            } else if weight.ilog2() < self.queue.level {
                PeekMut::pop(top);
                self.queue.push(found, weight);
            } else {
                top.0 = weight;
            }
        }
    }

    /// Join every occurrence of the pair, from left to right: in a run "aaa" the first two.
    fn merge(&mut self, left: u32, right: u32) {
        let id = self.lengths.len() as u32;
        let (left_length, right_length) = (self.lengths[left as usize], self.lengths[right as usize]);
        self.lengths.push(left_length + right_length);
        let (left_length, length) = (left_length as usize, (left_length + right_length) as usize);
        let Some(stock) = self.stocks.remove(&pair(left, right)) else { return };
        for birth in stock.first..stock.first + stock.positions as usize {
            // Positions are far apart: ask for those that come soon.
            if let Some(&soon) = self.births.get(birth + AHEAD) {
                self.spans.prefetch(soon as usize);
                prefetch(&self.word_of[soon as usize]);
            }
            let at = self.births[birth] as usize;
            let second = at + left_length;
            if self.spans.get(at) != Some(left) || self.spans.get(second) != Some(right) {
                continue;
            }
            let weight = self.weight_of[self.word_of[at] as usize];
            let (before, after) = (self.spans.before(at), self.spans.get(at + length));
            self.spans.join(at, second, length, id);
            if let Some((start, symbol)) = before {
                self.lose(pair(symbol, left), weight);
                self.gain(pair(symbol, id), start, weight);
            }
            if let Some(symbol) = after {
                self.lose(pair(right, symbol), weight);
                self.gain(pair(id, symbol), at, weight);
            }
        }
        self.settle();
    }

    fn lose(&mut self, pair: Pair, weight: u64) {
        // The pair being merged is gone from the table already.
        if let Some(stock) = self.stocks.get_mut(&pair) {
            stock.weight -= weight;
        }
    }

    fn gain(&mut self, pair: Pair, at: usize, weight: u64) {
        let fresh = &mut self.fresh;
        let stock = self.stocks.entry(pair).or_insert_with(|| {
            fresh.pairs.push(pair);
            Stock { weight: 0, first: fresh.pairs.len() - 1, positions: 0 } // its number, until `settle`
        });
        stock.weight += weight;
        stock.positions += 1;
        fresh.occurrences.push((stock.first as u32, at as u32));
    }

    /// Give the fresh pairs their place in `births` and in the heap.
    fn settle(&mut self) {
        let mut ends = Vec::with_capacity(self.fresh.pairs.len());
        let mut end = self.births.len();
        for pair in self.fresh.pairs.drain(..) {
            ends.push(end);
            let Some(stock) = self.stocks.get_mut(&pair) else { continue };
            stock.first = end;
            end += stock.positions as usize;
            if stock.weight > 0 {
                self.queue.push(pair, stock.weight);
            } else {
                self.stocks.remove(&pair);
            }
        }
        self.births.resize(end, 0);
        for (number, at) in self.fresh.occurrences.drain(..) {
            let next = &mut ends[number as usize];
            self.births[*next] = at;
            *next += 1;
        }
    }
}
