//! Pieces → distinct pieces with 64-bit counts, in an order no thread can change.
//!
//! Threads take segments in order. Whether a segment counts depends on the text of those before it and on nothing else, so
//! that a limit falls on the same segment whatever the speed of the threads: while one of those is still being counted, the
//! segment waits in a table of its own, and goes into its thread's table after that. Threads share numbers, and tables at the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

mod piece;
mod tally;

pub(crate) use piece::ShortPiece;
use tally::{Tally, merge_runs};

use crate::source::{self, FileEntry, ReadOptions, ReadReport, Segment, Supply, await_files};
use crate::split::Pattern;
use crate::threads::on_threads;
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
    /// What was done to stay within memory.
    pub thrift: Thrift,
}

/// Where counting stops, and what it may use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Characters of training text, rounded up to whole segments.
    pub max_chars: Option<u64>,
    /// Bytes of memory for counting and the training after it. Past its share a table goes to a temporary
    /// file; pieces too rare to fit in training are left out, and [`Counts::thrift`] says how many.
    pub max_ram: Option<u64>,
}

/// What was done to stay within [`Limits::max_ram`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thrift {
    /// Sorted runs written to temporary files; nothing is lost by them.
    pub runs: u64,
    /// Pieces that occur less often than this were left out; 0 or 1: none.
    pub least: u64,
    /// Distinct pieces left out.
    pub pieces: u64,
    /// Their bytes, as often as they occur.
    pub bytes: u64,
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
            tally.add(piece, count)?;
        }
        Self::from_tally(tally, pattern, Seen::default(), None)
    }

    fn from_tally(mut tally: Tally, pattern: Pattern, seen: Seen, max_ram: Option<u64>) -> Result<Self> {
        if tally.has_runs() {
            tally.spill_over(0)?;
        }
        let ((short, long), runs) = tally.finish();
        let mut counts = Self { pattern, short, long, seen, thrift: Thrift::default() };
        counts.thrift.runs = runs.len() as u64;
        let mut sizes = Sizes::default();
        counts.for_each(|piece, count| sizes.add(piece, count));
        merge_runs(&runs, &mut |piece, count| {
            sizes.add(piece, count);
            Ok(())
        })?;
        let least = max_ram.map_or(0, |most| sizes.least_that_fits(most / 10 * 6));
        let mut left_out = Sizes::default();
        merge_runs(&runs, &mut |piece, count| {
            match ShortPiece::new(piece, 0, piece.len()) {
                _ if count < least => left_out.add(piece, count),
                Some(short) => counts.short.push((short, count)),
                None => counts.long.push((piece.into(), count)),
            }
            Ok(())
        })?;
        counts.leave_out(least, &mut left_out);
        Ok(counts)
    }

    fn leave_out(&mut self, least: u64, left_out: &mut Sizes) {
        if least > 1 {
            let mut keep = |piece: &[u8], count: u64| {
                if count < least {
                    left_out.add(piece, count);
                }
                count >= least
            };
            self.short.retain(|(piece, count)| keep(&piece.bytes()[..piece.len()], *count));
            self.long.retain(|(piece, count)| keep(piece, *count));
            let Sizes { pieces, bytes, .. } = *left_out;
            self.thrift = Thrift { least, pieces, bytes, ..self.thrift };
        }
    }

    /// The pattern that cut the pieces.
    pub fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// Distinct pieces.
    pub fn len(&self) -> usize {
        self.short.len() + self.long.len()
    }

    /// Bytes that training will take, counts included: an upper estimate.
    pub fn training_memory(&self) -> u64 {
        let (mut pieces, mut bytes) = (0, 0);
        self.for_each(|piece, _| (pieces, bytes) = (pieces + 1, bytes + piece.len() as u64));
        training_memory(pieces, bytes)
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

/// How much training would hold, by how often pieces occur.
struct Sizes {
    by_count: [(u64, u64); 256],
    pieces: u64,
    bytes: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { by_count: [(0, 0); 256], pieces: 0, bytes: 0 }
    }
}

impl Sizes {
    fn add(&mut self, piece: &[u8], count: u64) {
        let (pieces, bytes) = &mut self.by_count[count.min(255) as usize];
        *pieces += 1;
        *bytes += piece.len() as u64;
        self.pieces += 1;
        self.bytes = self.bytes.saturating_add(count.saturating_mul(piece.len() as u64));
    }

    /// The smallest count whose pieces, with all more frequent ones, train in `most` bytes; at most 255.
    fn least_that_fits(&self, most: u64) -> u64 {
        let mut needed = 0;
        for (count, (pieces, bytes)) in self.by_count.iter().enumerate().rev() {
            needed += training_memory(*pieces, *bytes);
            if needed > most {
                return (count as u64 + 1).min(255);
            }
        }
        0
    }
}

/// Bytes that `pieces` distinct pieces of `bytes` take in training.
fn training_memory(pieces: u64, bytes: u64) -> u64 {
    80 * pieces + 28 * (bytes + pieces)
}

/// Count the pieces of the training documents of whole segments, in order, up to `limits`. The counts do not
/// depend on `workers`.
///
/// # Errors
/// What reading can fail with, [`Error::Cancelled`].
pub fn count_segments(
    corpus: &Corpus<'_>,
    pattern: Pattern,
    limits: Limits,
    workers: usize,
    ctl: &Control,
) -> Result<Counts> {
    let Corpus { root, files, segments, options, val_ppm, supply } = *corpus;
    let read = |job: usize, each: &mut dyn FnMut(&str) -> Result<()>| {
        source::read_segment(root, files, &segments[job], options, ctl, &mut |text| {
            if source::is_validation(text.as_bytes(), val_ppm) { Ok(()) } else { each(text) }
        })
    };
    count_jobs(&Jobs { count: segments.len(), read: &read, supply }, pattern, limits, workers, ctl)
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
    count_jobs(&Jobs { count: jobs.len(), read: &read, supply: None }, pattern, Limits::default(), workers, ctl)
}

/// Reads the documents of one job.
type Read<'a> = dyn Fn(usize, &mut dyn FnMut(&str) -> Result<()>) -> Result<ReadReport> + Sync + 'a;

/// What there is to count.
struct Jobs<'a> {
    count: usize,
    read: &'a Read<'a>,
    supply: Option<&'a dyn Supply>,
}

fn count_jobs(jobs: &Jobs<'_>, pattern: Pattern, limits: Limits, workers: usize, ctl: &Control) -> Result<Counts> {
    let (taken, enough) = (AtomicUsize::new(0), AtomicBool::new(jobs.count == 0));
    let ledger = Mutex::new(Ledger::default());
    let workers = workers.clamp(1, jobs.count.max(1));
    let share = limits.max_ram.map_or(usize::MAX, |most| (most as usize / 10).max(1 << 20));
    ctl.total.store(jobs.count as u64, Relaxed);
    let work = || {
        let (mut mine, mut waiting) = (Tally::default(), Vec::new());
        while !enough.load(Relaxed) {
            let job = taken.fetch_add(1, Relaxed);
            if job >= jobs.count {
                break;
            }
            let surely = limits.max_chars.is_none() || lock(&ledger).next == job;
            let mut apart = Tally::default();
            let table = if surely { &mut mine } else { &mut apart };
            let seen = count_job(job, jobs, pattern, &enough, (table, share / workers), ctl);
            if enough.load(Relaxed) {
                break;
            }
            ctl.done.fetch_add(1, Relaxed);
            if !surely {
                waiting.push((job, apart));
            }
            let next = {
                let mut ledger = lock(&ledger);
                ledger.pending.insert(job, seen);
                if ledger.settle(limits.max_chars) {
                    enough.store(true, Relaxed);
                }
                ledger.next
            };
            for (_, table) in waiting.extract_if(.., |(job, _)| *job < next) {
                if let Err(error) = mine.absorb(table).and_then(|()| mine.spill_over(share / workers)) {
                    lock(&ledger).failure.get_or_insert(error);
                    enough.store(true, Relaxed);
                }
            }
        }
        let mut ledger = lock(&ledger);
        ledger.tables.push((0, mine));
        ledger.tables.append(&mut waiting);
    };
    on_threads(workers, "count", work);
    ctl.check()?;
    let Ledger { next, tables, seen, failure, .. } = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = failure {
        return Err(error);
    }
    let mut tally = Tally::default();
    for (_, table) in tables.into_iter().filter(|(job, _)| *job < next) {
        tally.absorb(table)?;
        tally.spill_over(share)?;
    }
    Counts::from_tally(tally, pattern, seen, limits.max_ram)
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One job, into a table that may take `most` bytes. Stops early, with a result nobody will look at, once enough
/// was counted.
fn count_job(
    job: usize,
    jobs: &Jobs<'_>,
    pattern: Pattern,
    enough: &AtomicBool,
    (tally, most): (&mut Tally, usize),
    ctl: &Control,
) -> Result<Seen> {
    #[expect(clippy::cast_possible_truncation, reason = "segments are numbered with u32")]
    let segment = job as u32;
    if !await_files(jobs.supply, segment, ctl, &|| enough.load(Relaxed))? {
        return Err(Error::Cancelled);
    }
    let mut seen = Seen { segments: 1, ..Seen::default() };
    seen.report = (jobs.read)(job, &mut |text| {
        ctl.check()?;
        if enough.load(Relaxed) {
            return Err(Error::Cancelled);
        }
        seen.documents += 1;
        seen.bytes += text.len() as u64;
        seen.chars += text.chars().count() as u64;
        tally.count(pattern, text.as_bytes())?;
        tally.spill_over(most)
    })?;
    jobs.supply.map_or(Ok(()), |supply| supply.done(segment, seen.chars))?;
    Ok(seen)
}

/// What counted jobs saw, waiting for the ones before them, and the sum of those that wait no more.
#[derive(Default)]
struct Ledger {
    next: usize,
    pending: BTreeMap<usize, Result<Seen>>,
    seen: Seen,
    failure: Option<Error>,
    /// In the end, every table with the job it is of; 0 for those of a whole thread.
    tables: Vec<(usize, Tally)>,
}

impl Ledger {
    /// Add what is next in line; true once `max_chars` is reached, or the first failure in line.
    fn settle(&mut self, max_chars: Option<u64>) -> bool {
        while max_chars.is_none_or(|most| self.seen.chars < most) {
            let Some(job) = self.pending.remove(&self.next) else { return false };
            match job {
                Ok(seen) => self.seen.add(seen),
                Err(error) => {
                    self.failure = Some(error);
                    break;
                }
            }
            self.next += 1;
        }
        self.pending.clear();
        true
    }
}

impl Seen {
    fn add(&mut self, seen: Self) {
        self.documents += seen.documents;
        self.bytes += seen.bytes;
        self.chars += seen.chars;
        self.segments += seen.segments;
        self.report.rows += seen.report.rows;
        self.report.null += seen.report.null;
        self.report.empty += seen.report.empty;
        self.report.bad_utf8 += seen.report.bad_utf8;
        self.report.bad_files.extend(seen.report.bad_files);
    }
}
