//! Shards × rank × cursor → batches of rows; any cursor can be resumed, with any number of ranks.
//!
//! A planner thread packs windows of documents ahead of use, reader threads copy the rows of this rank
//! into the slots of a [`Ring`]. The order of rows is a function of (fingerprint, seed, options, cursor)
//! alone: neither threads nor slots nor ranks enter it.

mod dataset;
mod mix;
mod rows;
mod slot;
mod state;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

pub use dataset::{Dataset, Request, Verify};
pub use mix::BLOCK_ROWS;
pub use rows::{Recipe, Shape, Shuffle};
pub use slot::{Form, Out, Slot};
pub use state::{Cursor, State};

use crate::pack::Packing;
use crate::ring::{Next, Ring, panic_message};
use crate::shard::format::Dtype;
use crate::{Control, Error, Result};
use mix::Mix;
use rows::{Dealer, Job, Planner, Progress, Window, Windows};
use slot::{Ids, Reading, RowWriter};

/// Windows planned ahead of the one in use.
const WINDOWS_AHEAD: usize = 2;
/// Longest row, so that its tokens are counted in 31 bits.
const LONGEST_ROW: u32 = 1 << 30;

/// Everything a loader is opened with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data sets.
    pub requests: Vec<Request>,
    /// By data set: its share of the rows, in any unit.
    pub weights: Vec<u64>,
    /// The order of rows.
    pub recipe: Recipe,
    /// This rank's share.
    pub shape: Shape,
    /// What a batch is made of.
    pub out: Out,
    /// Whether document boundaries are handed out.
    pub bounds: bool,
    /// Whether the step from a document to the next is no target.
    pub mask_boundaries: bool,
    /// Stop after this many epochs; `None` goes on for ever.
    pub epochs: Option<u64>,
    /// Reader threads.
    pub threads: usize,
}

/// A stream of batches for one rank.
#[derive(Debug)]
pub struct Loader {
    sources: Vec<Arc<Dataset>>,
    mix: Mix,
    options: Options,
    at: Progress,
    // Field order is drop order: readers let go of the windows before the planners are joined.
    ring: Option<Ring<Slot, Progress>>,
    planners: Vec<JoinHandle<()>>,
    /// By slot.
    reading: Vec<Arc<Reading>>,
    opener: u32,
}

impl Options {
    fn check(&self) -> Result<()> {
        let Options { requests, weights, recipe, shape, .. } = self;
        let limits = [
            ("seq_len", u64::from(recipe.seq_len), u64::from(LONGEST_ROW)),
            ("window", recipe.window, 1 << 31),
            ("max_docs", u64::from(recipe.max_documents), 1 << 31),
            ("batch_size", shape.batch_size, 1 << 31),
            ("tokens of a batch", shape.batch_size.saturating_mul(recipe.seq_len.into()), (1 << 31) - 1),
            ("rows_per_step", shape.rows_per_step, 1 << 40),
            ("world_size", shape.world_size, 1 << 24),
            ("rank + 1", shape.rank + 1, shape.world_size),
            ("threads", self.threads as u64, 1024),
            ("data sets", requests.len() as u64, 1024),
        ];
        if let Some((name, value, most)) = limits.into_iter().find(|&(_, value, most)| value == 0 || value > most) {
            return Err(Error::Invalid { what: format!("{name} is {value}; it must be within 1 … {most}") });
        }
        let what = match (weights.len() == requests.len(), requests.len() > 1 && self.epochs.is_some()) {
            (true, false) => return Ok(()),
            (false, _) => format!("{} weights for {} data sets", weights.len(), requests.len()),
            (true, true) => "a mixture has no end: its sources end at different rows; leave epochs unsaid".into(),
        };
        Err(Error::Invalid { what })
    }
}

impl Loader {
    /// Open the data sets and stand at the first row. No thread runs yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for options that cannot be; [`Error::Tokenizer`] where two data sets were made with two
    /// tokenizers; else as [`Dataset::open`].
    pub fn open(mut options: Options, ctl: &Control) -> Result<Self> {
        options.check()?;
        let sources: Vec<_> =
            options.requests.iter().map(|request| Ok(Arc::new(Dataset::open(request, ctl)?))).collect::<Result<_>>()?;
        for (source, request) in sources.iter().zip(&options.requests) {
            if source.tokenizer != sources[0].tokenizer {
                let (path, found) = (request.directory.clone(), source.tokenizer.clone());
                return Err(Error::Tokenizer { path, found, wanted: sources[0].tokenizer.clone() });
            }
        }
        let unit = options.weights.iter().fold(0, |unit, &weight| greatest_divisor(unit, weight)).max(1);
        options.weights.iter_mut().for_each(|weight| *weight /= unit);
        let fingerprints: Vec<_> = sources.iter().map(|source| source.fingerprint).collect();
        let mix = Mix::new(&options.weights, &fingerprints, options.recipe.seed)?;
        let at = Progress::start(sources.len());
        Ok(Loader {
            sources,
            mix,
            options,
            at,
            ring: None,
            planners: vec![],
            reading: vec![],
            opener: std::process::id(),
        })
    }

    /// The data sets it reads.
    pub fn sources(&self) -> &[Arc<Dataset>] {
        &self.sources
    }

    /// By data set: its rows of every [`BLOCK_ROWS`].
    pub fn shares(&self) -> &[u64] {
        self.mix.shares()
    }

    /// What every slot must look like.
    pub fn form(&self) -> Form {
        let Options { recipe, shape, out, bounds, mask_boundaries, .. } = &self.options;
        let (rows, seq_len) = (shape.batch_size as usize, recipe.seq_len as usize);
        let most = match recipe.packing {
            Packing::BestFit => seq_len.min(recipe.max_documents as usize + 1), // and what is left of the row
            Packing::Concat => seq_len,
        };
        let wide = self.sources.iter().any(|source| source.dtype == Dtype::U32);
        Form {
            out: *out,
            dtype: if wide { Dtype::U32 } else { Dtype::U16 },
            rows,
            seq_len,
            mask_boundaries: *mask_boundaries,
            bounds: if *bounds { rows * most + 1 } else { 0 },
            bos: self.sources[0].bos,
        }
    }

    /// Batches of a step.
    pub fn micro_steps(&self) -> u64 {
        self.options.shape.micro_steps()
    }

    /// Whether threads fill slots.
    pub fn is_running(&self) -> bool {
        self.ring.is_some()
    }

    /// Start the threads on slots of [`Loader::form`], at the row where the loader stands.
    ///
    /// # Errors
    /// [`Error::Invalid`] without slots; [`Error::Io`] where no thread can start; [`Error::Forked`].
    pub fn start(&mut self, slots: Vec<Slot>) -> Result<()> {
        self.close()?;
        let mut windows = Vec::with_capacity(self.sources.len());
        for (source, &from) in self.at.cursors.iter().enumerate() {
            let mut planner = self.planner(source);
            let (per_epoch, epochs) = (planner.windows(), self.options.epochs);
            let (send, receive) = sync_channel(WINDOWS_AHEAD - 1); // one more waits in the planner's hands
            let run = move || plan_ahead(&mut planner, from, epochs, &send);
            let thread = std::thread::Builder::new().name("picollm-plan".into()).spawn(run);
            self.planners.push(thread.map_err(|error| Error::io("the planner thread", error))?);
            windows.push(Windows::new(receive, per_epoch));
        }
        self.reading = slots.iter().map(|slot| slot.reading.clone()).collect();
        let mut dealer = Dealer::new(windows, self.mix.clone(), self.options.shape, self.at.clone());
        self.ring = Some(Ring::start(slots, self.options.threads, move || dealer.deal(), fill)?);
        Ok(())
    }

    fn planner(&self, source: usize) -> Planner {
        Planner::new(self.sources[source].clone(), self.options.recipe, source as u32)
    }

    /// The slot of the next batch, lent until [`Loader::release`].
    ///
    /// # Errors
    /// What a thread met; [`Error::Invalid`] where it does not run; [`Error::Forked`].
    pub fn next(&mut self, patience: Duration) -> Result<Next<()>> {
        self.check_process()?;
        let Some(ring) = &mut self.ring else {
            return Err(Error::Invalid { what: "this loader is closed; open a new one".into() });
        };
        Ok(match ring.next(patience)? {
            Next::Batch(slot, after) => {
                self.at = after;
                Next::Batch(slot, ())
            }
            Next::End => Next::End,
            Next::Waiting => Next::Waiting,
        })
    }

    /// What the next batch waits for: the file and the byte that its thread reads, as far as it got.
    pub fn awaited(&self) -> Option<(PathBuf, u64)> {
        self.reading.get(self.ring.as_ref()?.awaited())?.place(&self.sources)
    }

    /// Leave the threads to themselves, who wait for a disk that does not answer. They may still write into the slots.
    pub fn abandon(&mut self) {
        if let Some(ring) = self.ring.take() {
            ring.abandon();
        }
        self.planners.drain(..).for_each(std::mem::forget);
    }

    /// Give back all lent slots.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn release(&mut self) -> Result<()> {
        self.check_process()?;
        if let Some(ring) = &mut self.ring {
            ring.release();
        }
        Ok(())
    }

    /// What was handed out so far: not what was read ahead.
    pub fn state(&self) -> State {
        let Options { requests, weights, recipe, .. } = &self.options;
        State {
            v: State::VERSION,
            fingerprints: self.sources.iter().map(|source| dataset::hex(&source.fingerprint)).collect(),
            split: requests[0].split.clone(),
            limit: requests[0].limit,
            seed: recipe.seed,
            seq_len: recipe.seq_len,
            window: recipe.window,
            pack: recipe.packing.versioned().into(),
            max_docs: recipe.max_documents,
            shuffle: recipe.shuffle.name(),
            weights: weights.clone(),
            cursors: self.at.cursors.clone(),
            block: self.at.block,
            in_block: self.at.in_block,
            rows: self.at.rows,
            stored_tokens: self.at.stored_tokens,
        }
    }

    /// Stand where `state` stood: the next batch is the first of a step that begins there. Threads stop.
    /// `reweigh`: go on under this loader's weights, which only the border of a block allows.
    ///
    /// # Errors
    /// [`Error::LoaderState`] where the state belongs to another order or points at no row; [`Error::Forked`].
    pub fn load(&mut self, state: &State, reweigh: bool) -> Result<()> {
        self.close()?;
        state.continues(&self.state(), reweigh)?;
        for (source, cursor) in state.cursors.iter().enumerate() {
            let mut planner = self.planner(source);
            let below = |field, saved: u64, most: u64| {
                let refused = || Error::LoaderState { field, saved: saved.to_string(), found: format!("below {most}") };
                (saved < most).then_some(()).ok_or_else(refused)
            };
            below("epoch", cursor.epoch, 1 << 62)?;
            below("window", cursor.window, planner.windows())?;
            let rows = if cursor.row == 0 { 1 } else { planner.plan(cursor.epoch, cursor.window)?.len() };
            below("row", cursor.row, rows)?;
        }
        self.at = Progress {
            cursors: state.cursors.clone(),
            block: state.block,
            in_block: state.in_block,
            rows: state.rows,
            stored_tokens: state.stored_tokens,
        };
        Ok(())
    }

    /// Stop and join all threads. After this nobody writes into the slots; [`Loader::start`] may follow.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn close(&mut self) -> Result<()> {
        self.check_process()?;
        self.ring = None; // joins the readers and drops the receivers the planners may wait on
        for planner in self.planners.drain(..) {
            let _ = planner.join(); // a panic was caught and sent
        }
        Ok(())
    }

    fn check_process(&self) -> Result<()> {
        let user = std::process::id();
        if user == self.opener { Ok(()) } else { Err(Error::Forked { opener: self.opener, user }) }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if self.close().is_err() {
            self.abandon(); // a forked child has no such threads; joining them would wait for ever
        }
    }
}

/// Send windows from `from` on until the epochs are over or nobody takes them.
fn plan_ahead(planner: &mut Planner, from: Cursor, epochs: Option<u64>, send: &SyncSender<Result<Window>>) {
    let Cursor { mut epoch, mut window, .. } = from;
    while epochs.is_none_or(|epochs| epoch < epochs) {
        let planned = catch_unwind(AssertUnwindSafe(|| planner.plan(epoch, window)))
            .unwrap_or_else(|panic| Err(Error::Panic { what: panic_message(panic.as_ref()) }));
        let failed = planned.is_err();
        if send.send(planned).is_err() || failed {
            return;
        }
        window += 1;
        if window == planner.windows() {
            (epoch, window) = (epoch + 1, 0);
        }
    }
}

/// Write the rows of a batch into its slot.
fn fill(job: Job, slot: &mut Slot) -> Result<Progress> {
    let mut scratch = vec![];
    let reading = slot.reading.clone();
    slot.fill(|number, row| match job.rows.get(number) {
        Some((window, place)) => fill_row(window, *place, row, &mut scratch, &reading),
        None => Ok(()),
    })?;
    Ok(job.after)
}

fn fill_row(
    window: &Window,
    place: u64,
    row: &mut RowWriter<'_, '_>,
    scratch: &mut Vec<u8>,
    reading: &Reading,
) -> Result<()> {
    let dataset = &window.dataset;
    for (piece, document) in window.row(place) {
        let shard = dataset.shard(document.shard);
        row.begin();
        if piece.bos {
            row.put(Ids::U32(&[dataset.bos.to_le_bytes()]));
        }
        let start = document.start + piece.start;
        reading.begin(dataset, document.shard, start);
        let largest = shard.tokens(start, piece.stored, scratch, |dtype, bytes| {
            let ids = Ids::of(dtype, bytes);
            row.put(ids);
            ids.largest()
        })?;
        if let Some(id) = largest.filter(|&id| id >= dataset.vocab_size) {
            return Err(shard.bad_id(id, start));
        }
    }
    Ok(())
}

fn greatest_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}
