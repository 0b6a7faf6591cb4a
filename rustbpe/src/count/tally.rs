//! A growing table of pieces and counts; past its share of memory it goes to disk as a sorted run.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};

use rustc_hash::FxHashMap;

use super::ShortPiece;
use crate::prefetch::prefetch;
use crate::split::{Pattern, Sink, feed};
use crate::{Error, Result};

/// Short pieces by number in one flat array, long ones by their bytes.
#[derive(Default)]
pub(super) struct Tally {
    slots: Vec<(ShortPiece, u64)>,
    used: usize,
    long: FxHashMap<Box<[u8]>, u64>,
    long_bytes: usize,
    queue: Vec<ShortPiece>,
    runs: Vec<File>,
}

/// Takes what the splitter cuts; keeps the last failure.
struct Pieces<'a> {
    tally: &'a mut Tally,
    outcome: Result<()>,
}

impl<'t> Sink<'t> for &mut Pieces<'_> {
    #[inline(always)]
    fn piece(&mut self, text: &'t [u8], start: usize, end: usize) {
        if let Err(error) = self.tally.queue(text, start, end) {
            self.outcome = Err(error);
        }
    }
}

/// Pieces cut before the first of them is counted, so that its place in the table is there by then.
const QUEUE: usize = 64;
/// What the map and the allocator add to a long piece.
const LONG_OVERHEAD: usize = 64;

/// Pieces in byte order with their counts, short ones (at most 15 bytes) before long ones.
pub(super) type Sorted = (Vec<(ShortPiece, u64)>, Vec<(Box<[u8]>, u64)>);

impl Tally {
    /// Count the pieces of a text.
    pub(super) fn count(&mut self, pattern: Pattern, text: &[u8]) -> Result<()> {
        let mut pieces = Pieces { tally: self, outcome: Ok(()) };
        feed(pattern, text, &mut pieces);
        pieces.outcome?;
        self.settle()
    }

    /// Count one piece, in a while.
    #[inline(always)]
    fn queue(&mut self, text: &[u8], start: usize, end: usize) -> Result<()> {
        let Some(piece) = ShortPiece::new(text, start, end) else {
            return self.add_long(&text[start..end], 1);
        };
        if let Some(slot) = self.slots.get(self.home(piece)) {
            prefetch(slot);
        }
        self.queue.push(piece);
        if self.queue.len() >= QUEUE { self.settle() } else { Ok(()) }
    }

    /// Count what is queued.
    #[inline(never)]
    fn settle(&mut self) -> Result<()> {
        let mut queue = std::mem::take(&mut self.queue);
        for &piece in &queue {
            self.add_short(piece, 1)?;
        }
        queue.clear();
        self.queue = queue;
        Ok(())
    }

    pub(super) fn add(&mut self, piece: &[u8], count: u64) -> Result<()> {
        match ShortPiece::new(piece, 0, piece.len()) {
            Some(piece) if piece.is_none() => Ok(()),
            Some(piece) => self.add_short(piece, count),
            None => self.add_long(piece, count),
        }
    }

    #[inline]
    fn add_short(&mut self, piece: ShortPiece, count: u64) -> Result<()> {
        if self.is_full(1) {
            self.grow();
        }
        let slot = self.slot_of(piece);
        if slot.0.is_none() {
            *slot = (piece, count);
            self.used += 1;
            return Ok(());
        }
        add_to(&mut slot.1, count)
    }

    fn add_long(&mut self, piece: &[u8], count: u64) -> Result<()> {
        if let Some(sum) = self.long.get_mut(piece) {
            return add_to(sum, count);
        }
        self.long.insert(piece.into(), count);
        self.long_bytes += piece.len() + LONG_OVERHEAD;
        Ok(())
    }

    #[inline(always)]
    fn home(&self, piece: ShortPiece) -> usize {
        (piece.hash() >> 32) as usize & self.slots.len().wrapping_sub(1)
    }

    #[inline(always)]
    fn slot_of(&mut self, piece: ShortPiece) -> &mut (ShortPiece, u64) {
        let mask = self.slots.len() - 1;
        let mut at = self.home(piece);
        while !self.slots[at].0.is_none() && self.slots[at].0 != piece {
            at = (at + 1) & mask;
        }
        &mut self.slots[at]
    }

    /// Whether so many more pieces would fill three quarters of it.
    #[inline(always)]
    fn is_full(&self, more: usize) -> bool {
        (self.used + more) * 4 > self.slots.len() * 3
    }

    #[cold]
    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(1 << 12);
        let old = std::mem::replace(&mut self.slots, vec![Default::default(); size]);
        for (piece, count) in old {
            if !piece.is_none() {
                *self.slot_of(piece) = (piece, count);
            }
        }
    }

    pub(super) fn absorb(&mut self, other: Self) -> Result<()> {
        if self.used == 0 && self.long.is_empty() && self.runs.is_empty() {
            *self = other;
            return Ok(());
        }
        self.runs.extend(other.runs);
        for (piece, count) in other.slots {
            if !piece.is_none() {
                self.add_short(piece, count)?;
            }
        }
        other.long.iter().try_for_each(|(piece, count)| self.add_long(piece, *count))
    }

    /// Bytes of memory in use, of which a table about to grow counts what it will take then.
    fn memory(&self) -> usize {
        let size = size_of::<(ShortPiece, u64)>();
        let growing = if self.is_full(2 * QUEUE) { 2 } else { 0 };
        self.slots.len() * size * (1 + growing) + self.long_bytes
    }

    /// Past `most` bytes, write everything to an unnamed temporary file and start again.
    pub(super) fn spill_over(&mut self, most: usize) -> Result<()> {
        if self.memory() <= most || self.used + self.long.len() == 0 {
            return Ok(());
        }
        let (short, long) = std::mem::take(self).keep_runs(&mut self.runs).sorted();
        let fail = |error| Error::io(std::env::temp_dir(), error);
        let mut run = BufWriter::with_capacity(1 << 18, tempfile::tempfile().map_err(fail)?);
        for (piece, count) in &short {
            write_entry(&mut run, &piece.bytes()[..piece.len()], *count).map_err(fail)?;
        }
        for (piece, count) in &long {
            write_entry(&mut run, piece, *count).map_err(fail)?;
        }
        self.runs.push(run.into_inner().map_err(|error| fail(error.into_error()))?);
        Ok(())
    }

    fn keep_runs(mut self, runs: &mut Vec<File>) -> Self {
        runs.append(&mut self.runs);
        self
    }

    fn sorted(self) -> Sorted {
        let mut short = self.slots;
        short.retain(|(piece, _)| !piece.is_none());
        short.sort_unstable();
        let mut long: Vec<_> = self.long.into_iter().collect();
        long.sort_unstable();
        (short, long)
    }

    pub(super) fn has_runs(&self) -> bool {
        !self.runs.is_empty()
    }

    /// What was counted in memory, and the runs on disk.
    pub(super) fn finish(mut self) -> (Sorted, Vec<File>) {
        let runs = std::mem::take(&mut self.runs);
        (self.sorted(), runs)
    }
}

pub(super) fn add_to(sum: &mut u64, count: u64) -> Result<()> {
    let what = || Error::Invalid { what: "a piece occurs more than 2^64 times".into() };
    *sum = sum.checked_add(count).ok_or_else(what)?;
    Ok(())
}

fn write_entry(run: &mut impl Write, piece: &[u8], count: u64) -> std::io::Result<()> {
    run.write_all(&(piece.len() as u64).to_le_bytes())?;
    run.write_all(&count.to_le_bytes())?;
    run.write_all(piece)
}

/// One sorted run, read back.
struct Run {
    file: BufReader<File>,
    next: Option<(Key, u64)>,
}

/// Sorts as [`Sorted`] does: short pieces first.
type Key = (bool, Vec<u8>);

impl Run {
    fn open(mut file: File) -> std::io::Result<Self> {
        file.rewind()?;
        let mut run = Self { file: BufReader::with_capacity(1 << 16, file), next: None };
        run.step()?;
        Ok(run)
    }

    fn step(&mut self) -> std::io::Result<()> {
        let mut head = [0; 16];
        self.next = match self.file.read_exact(&mut head) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
            Ok(()) => {
                let (length, count) = head.split_at(8);
                let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
                let mut piece = vec![0; number(length) as usize];
                self.file.read_exact(&mut piece)?;
                Some(((piece.len() > 15, piece), number(count)))
            }
        };
        Ok(())
    }
}

/// Every piece of the runs once, in order, with the sum of its counts.
pub(super) fn merge_runs(runs: &[File], each: &mut dyn FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
    let fail = |error| Error::io(std::env::temp_dir(), error);
    let mut open = Vec::new();
    for run in runs {
        open.push(Run::open(run.try_clone().map_err(fail)?).map_err(fail)?);
    }
    loop {
        let Some(least) = open.iter().filter_map(|run| run.next.as_ref().map(|(key, _)| key)).min().cloned() else {
            return Ok(());
        };
        let mut sum = 0;
        for run in &mut open {
            if let Some((key, count)) = &run.next
                && *key == least
            {
                add_to(&mut sum, *count)?;
                run.step().map_err(fail)?;
            }
        }
        each(&least.1, sum)?;
    }
}
