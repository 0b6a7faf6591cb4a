//! Pieces → distinct pieces with 64-bit counts, in an order no thread can change.
//!
//! Threads take segments in order and count each into a table of its own; tables are added up in
//! segment order, so that a limit on the text falls on the same segment whatever the speed of the threads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;

use crate::source::{self, FileEntry, ReadOptions, ReadReport, Segment, Supply, await_files};
use crate::split::{Pattern, for_each_piece};
use crate::{Control, Error, Result};

/// Documents of a source, and which of them are for training.
#[derive(Clone, Copy, Debug)]
pub struct Corpus<'a> {
    /// Directory that paths are relative to.
    pub root: &'a Path,
    /// All files.
    pub files: &'a [FileEntry],
    /// All segments, in order.
    pub segments: &'a [Segment],
    /// How documents are read.
    pub options: &'a ReadOptions,
    /// Share of documents kept for validation, in millionths; they are not counted.
    pub val_ppm: u32,
    /// Brings the files; `None`: they are in place.
    pub supply: Option<&'a dyn Supply>,
}

/// Distinct pieces and how often each occurs, with what was read for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pattern: Pattern,
    short: Vec<(ShortPiece, u64)>,
    long: Vec<(Box<[u8]>, u64)>,
    /// What was read.
    pub seen: Seen,
}

/// What was read, over the segments that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Training documents.
    pub documents: u64,
    /// UTF-8 bytes of training text.
    pub bytes: u64,
    /// Characters (code points) of training text.
    pub chars: u64,
    /// Segments counted.
    pub segments: u64,
    /// What the reader saw, validation documents included.
    pub report: ReadReport,
}

impl Counts {
    /// Weighted pieces, for tests and for counts made elsewhere. Equal pieces add up.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a sum passes 2⁶⁴.
    pub fn from_pieces<'p>(pattern: Pattern, pieces: impl IntoIterator<Item = (&'p [u8], u64)>) -> Result<Self> {
        let mut tally = Tally::default();
        for (piece, count) in pieces {
            tally.add(piece, 0, piece.len(), count)?;
        }
        Ok(tally.into_counts(pattern, Seen::default()))
    }

    /// The pattern that cut the pieces.
    pub fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// Distinct pieces.
    pub fn len(&self) -> usize {
        self.short.len() + self.long.len()
    }

    /// Whether there is no piece at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every piece with its count, short ones first, each group in byte order.
    pub fn for_each(&self, mut each: impl FnMut(&[u8], u64)) {
        for (piece, count) in &self.short {
            each(&piece.bytes()[..piece.len()], *count);
        }
        for (piece, count) in &self.long {
            each(piece, *count);
        }
    }
}

/// A piece of at most 15 bytes as one number: its bytes from the top, its length in the lowest byte.
/// Numbers sort as the bytes do; 0 is no piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShortPiece(u128);

impl ShortPiece {
    /// `text[start..end]`, or `None` if it is longer than 15 bytes. Reads 16 bytes at once where there are as many.
    #[inline(always)]
    pub(crate) fn new(text: &[u8], start: usize, end: usize) -> Option<Self> {
        let length = end - start;
        if length > 15 {
            return None;
        }
        let bytes = match text.get(start..start + 16).and_then(|window| <[u8; 16]>::try_from(window).ok()) {
            Some(window) => window,
            None => {
                let mut window = [0; 16];
                window[..length].copy_from_slice(&text[start..end]);
                window
            }
        };
        let kept = !(u128::MAX >> (8 * length));
        Some(Self(u128::from_be_bytes(bytes) & kept | length as u128))
    }

    #[inline(always)]
    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn len(self) -> usize {
        (self.0 & 0xff) as usize
    }

    pub(crate) fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// 64 well-mixed bits; take the high ones.
    #[inline(always)]
    pub(crate) fn hash(self) -> u64 {
        // Two odd constants (digits of π and e) keep either half from cancelling the other.
        let high = (self.0 >> 64) as u64 ^ 0x243f_6a88_85a3_08d3;
        let low = self.0 as u64 ^ 0xb7e1_5162_8aed_2a6b;
        let product = u128::from(high) * u128::from(low);
        ((product >> 64) as u64 ^ product as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// A growing table of counts: short pieces by number in one flat array, long ones by their bytes.
#[derive(Default)]
struct Tally {
    slots: Vec<(ShortPiece, u64)>,
    used: usize,
    long: FxHashMap<Box<[u8]>, u64>,
}

impl Tally {
    #[inline]
    fn add(&mut self, text: &[u8], start: usize, end: usize, count: u64) -> Result<()> {
        match ShortPiece::new(text, start, end) {
            Some(piece) if piece.is_none() => Ok(()),
            Some(piece) => self.add_short(piece, count),
            None => self.add_long(&text[start..end], count),
        }
    }

    #[inline]
    fn add_short(&mut self, piece: ShortPiece, count: u64) -> Result<()> {
        if self.used * 2 >= self.slots.len() {
            self.grow();
        }
        let slot = self.slot_of(piece);
        if slot.0.is_none() {
            slot.0 = piece;
            slot.1 = count;
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
        Ok(())
    }

    #[inline]
    fn slot_of(&mut self, piece: ShortPiece) -> &mut (ShortPiece, u64) {
        let mask = self.slots.len() - 1;
        let mut at = (piece.hash() >> 32) as usize & mask;
        while !self.slots[at].0.is_none() && self.slots[at].0 != piece {
            at = (at + 1) & mask;
        }
        &mut self.slots[at]
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

    fn absorb(&mut self, other: Self) -> Result<()> {
        if self.used == 0 && self.long.is_empty() {
            *self = other;
            return Ok(());
        }
        for (piece, count) in other.slots {
            if !piece.is_none() {
                self.add_short(piece, count)?;
            }
        }
        other.long.iter().try_for_each(|(piece, count)| self.add_long(piece, *count))
    }

    fn into_counts(self, pattern: Pattern, seen: Seen) -> Counts {
        let mut short: Vec<_> = self.slots.into_iter().filter(|(piece, _)| !piece.is_none()).collect();
        short.sort_unstable();
        let mut long: Vec<_> = self.long.into_iter().collect();
        long.sort_unstable();
        Counts { pattern, short, long, seen }
    }
}

fn add_to(sum: &mut u64, count: u64) -> Result<()> {
    let what = || Error::Invalid { what: "a piece occurs more than 2^64 times".into() };
    *sum = sum.checked_add(count).ok_or_else(what)?;
    Ok(())
}

/// Count the pieces of the training documents of whole segments, in order, until they hold
/// `max_chars` characters. The result does not depend on `workers`.
///
/// # Errors
/// What reading can fail with, [`Error::Cancelled`].
pub fn count_segments(
    corpus: &Corpus<'_>,
    pattern: Pattern,
    max_chars: Option<u64>,
    workers: usize,
    ctl: &Control,
) -> Result<Counts> {
    let Corpus { root, files, segments, options, val_ppm, supply } = *corpus;
    let read = |job: usize, each: &mut dyn FnMut(&str) -> Result<()>| {
        source::read_segment(root, files, &segments[job], options, ctl, &mut |text| {
            if source::is_validation(text.as_bytes(), val_ppm) { Ok(()) } else { each(text) }
        })
    };
    count_jobs(&Jobs { count: segments.len(), read: &read, supply }, pattern, max_chars, workers, ctl)
}

/// Count the pieces of documents held in memory.
///
/// # Errors
/// [`Error::Cancelled`].
pub fn count_texts<T: AsRef<str> + Sync>(
    texts: &[T],
    pattern: Pattern,
    workers: usize,
    ctl: &Control,
) -> Result<Counts> {
    const TEXTS_PER_JOB: usize = 256;
    let jobs: Vec<&[T]> = texts.chunks(TEXTS_PER_JOB).collect();
    let read = |job: usize, each: &mut dyn FnMut(&str) -> Result<()>| {
        for text in jobs[job] {
            ctl.bytes.fetch_add(text.as_ref().len() as u64, Relaxed);
            ctl.documents.fetch_add(1, Relaxed);
            each(text.as_ref())?;
        }
        Ok(ReadReport::default())
    };
    count_jobs(&Jobs { count: jobs.len(), read: &read, supply: None }, pattern, None, workers, ctl)
}

/// Reads the documents of one job.
type Read<'a> = dyn Fn(usize, &mut dyn FnMut(&str) -> Result<()>) -> Result<ReadReport> + Sync + 'a;

/// What there is to count.
struct Jobs<'a> {
    count: usize,
    read: &'a Read<'a>,
    supply: Option<&'a dyn Supply>,
}

fn count_jobs(
    jobs: &Jobs<'_>,
    pattern: Pattern,
    max_chars: Option<u64>,
    workers: usize,
    ctl: &Control,
) -> Result<Counts> {
    let (taken, enough) = (AtomicUsize::new(0), AtomicBool::new(jobs.count == 0));
    let ledger = Mutex::new(Ledger::default());
    ctl.total.store(jobs.count as u64, Relaxed);
    let work = || {
        while !enough.load(Relaxed) {
            let job = taken.fetch_add(1, Relaxed);
            if job >= jobs.count {
                break;
            }
            let counted = count_job(job, jobs, pattern, &enough, ctl);
            if enough.load(Relaxed) {
                break;
            }
            ctl.done.fetch_add(1, Relaxed);
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.pending.insert(job, counted);
            if ledger.settle(max_chars) {
                enough.store(true, Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers.clamp(1, jobs.count.max(1))).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    ctl.check()?;
    let Ledger { tally, seen, failure, .. } = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or_else(|| Ok(tally.into_counts(pattern, seen)), Err)
}

/// One job. Stops early, with a result nobody will look at, once enough was counted.
fn count_job(
    job: usize,
    jobs: &Jobs<'_>,
    pattern: Pattern,
    enough: &AtomicBool,
    ctl: &Control,
) -> Result<(Tally, Seen)> {
    #[expect(clippy::cast_possible_truncation, reason = "segments are numbered with u32")]
    let segment = job as u32;
    if !await_files(jobs.supply, segment, ctl, &|| enough.load(Relaxed))? {
        return Err(Error::Cancelled);
    }
    let (mut tally, mut seen) = (Tally::default(), Seen { segments: 1, ..Seen::default() });
    seen.report = (jobs.read)(job, &mut |text| {
        ctl.check()?;
        if enough.load(Relaxed) {
            return Err(Error::Cancelled);
        }
        seen.documents += 1;
        seen.bytes += text.len() as u64;
        seen.chars += text.chars().count() as u64;
        let mut outcome = Ok(());
        for_each_piece(pattern, text.as_bytes(), |text, start, end| {
            if let Err(error) = tally.add(text, start, end, 1) {
                outcome = Err(error);
            }
        });
        outcome
    })?;
    jobs.supply.map_or(Ok(()), |supply| supply.done(segment, seen.chars))?;
    Ok((tally, seen))
}

/// Counted jobs waiting for the ones before them, and the sum of those that wait no more.
#[derive(Default)]
struct Ledger {
    next: usize,
    pending: BTreeMap<usize, Result<(Tally, Seen)>>,
    tally: Tally,
    seen: Seen,
    failure: Option<Error>,
}

impl Ledger {
    /// Add what is next in line; true once `max_chars` is reached, or the first failure in line.
    fn settle(&mut self, max_chars: Option<u64>) -> bool {
        while max_chars.is_none_or(|most| self.seen.chars < most) {
            let Some(job) = self.pending.remove(&self.next) else { return false };
            self.next += 1;
            if let Err(error) = job.and_then(|(tally, seen)| self.add(tally, seen)) {
                self.failure = Some(error);
                break;
            }
        }
        self.pending.clear();
        true
    }

    fn add(&mut self, tally: Tally, seen: Seen) -> Result<()> {
        self.tally.absorb(tally)?;
        self.seen.documents += seen.documents;
        self.seen.bytes += seen.bytes;
        self.seen.chars += seen.chars;
        self.seen.segments += seen.segments;
        self.seen.report.rows += seen.report.rows;
        self.seen.report.null += seen.report.null;
        self.seen.report.empty += seen.report.empty;
        self.seen.report.bad_utf8 += seen.report.bad_utf8;
        self.seen.report.bad_files.extend(seen.report.bad_files);
        Ok(())
    }
}
