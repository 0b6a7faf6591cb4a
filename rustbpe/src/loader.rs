//! Shards × rank × cursor → batches of rows; any cursor can be resumed, with any number of ranks.
//!
//! A planner thread packs windows of documents ahead of use, reader threads copy the rows of this rank
//! into the slots of a [`Ring`]. The order of rows is a function of (fingerprint, seed, options, cursor)
//! alone: neither threads nor slots nor ranks enter it.

mod dataset;
mod rows;
mod state;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

pub use dataset::{Dataset, Request};
pub use rows::{Recipe, Shape, Shuffle};
pub use state::{Cursor, State};

use crate::ring::{Next, Ring, Slot, View, panic_message};
use crate::shard::format::Dtype;
use crate::{Error, Result};
use rows::{Dealer, Job, Planner, Progress, Window};

/// Windows planned ahead of the one in use.
const WINDOWS_AHEAD: usize = 2;
/// The target of a place that teaches nothing.
const IGNORE: i64 = -100;
/// Longest row, so that its tokens are counted in 31 bits.
const LONGEST_ROW: u32 = 1 << 30;

/// Everything a loader is opened with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data set.
    pub request: Request,
    /// The order of rows.
    pub recipe: Recipe,
    /// This rank's share.
    pub shape: Shape,
    /// Stop after this many epochs; `None` goes on for ever.
    pub epochs: Option<u64>,
    /// Reader threads.
    pub threads: usize,
}

/// A stream of batches for one rank.
#[derive(Debug)]
pub struct Loader {
    dataset: Arc<Dataset>,
    options: Options,
    at: Progress,
    // Field order is drop order: readers let go of the windows before the planner is joined.
    ring: Option<Ring<Progress>>,
    planner: Option<JoinHandle<()>>,
    opener: u32,
}

impl Loader {
    /// Open the data set and stand at its first row. No thread runs yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for options that cannot be; else as [`Dataset::open`].
    pub fn open(options: Options) -> Result<Self> {
        let Options { recipe, shape, .. } = &options;
        let limits = [
            ("seq_len", u64::from(recipe.seq_len), u64::from(LONGEST_ROW)),
            ("window", recipe.window, 1 << 31),
            ("max_docs", u64::from(recipe.max_documents), 1 << 31),
            ("batch_size", shape.batch_size, 1 << 31),
            ("rows_per_step", shape.rows_per_step, 1 << 40),
            ("world_size", shape.world_size, 1 << 24),
            ("rank + 1", shape.rank + 1, shape.world_size),
            ("threads", options.threads as u64, 1024),
        ];
        if let Some((name, value, most)) = limits.into_iter().find(|&(_, value, most)| value == 0 || value > most) {
            return Err(Error::Invalid { what: format!("{name} is {value}; it must be within 1 … {most}") });
        }
        let dataset = Arc::new(Dataset::open(&options.request)?);
        let opener = std::process::id();
        Ok(Loader { dataset, options, at: Progress::default(), ring: None, planner: None, opener })
    }

    /// The data set it reads.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Batches of a step.
    pub fn micro_steps(&self) -> u64 {
        self.options.shape.micro_steps()
    }

    /// Whether threads fill slots.
    pub fn is_running(&self) -> bool {
        self.ring.is_some()
    }

    /// Start the threads on slots of B·T elements each, at the row where the loader stands.
    ///
    /// # Errors
    /// [`Error::Invalid`] without slots; [`Error::Io`] where no thread can start; [`Error::Forked`].
    pub fn start(&mut self, slots: Vec<Slot>) -> Result<()> {
        self.close()?;
        let mut planner = Planner::new(self.dataset.clone(), self.options.recipe);
        let (windows_per_epoch, at, epochs) = (planner.windows(), self.at, self.options.epochs);
        let (send, receive) = sync_channel(WINDOWS_AHEAD - 1); // one more waits in the planner's hands
        let run = move || plan_ahead(&mut planner, at.cursor, epochs, &send);
        let thread = std::thread::Builder::new().name("picollm-plan".into()).spawn(run);
        self.planner = Some(thread.map_err(|error| Error::io("the planner thread", error))?);
        let mut dealer = Dealer::new(receive, windows_per_epoch, self.options.shape, at);
        let (dataset, seq_len) = (self.dataset.clone(), self.options.recipe.seq_len as usize);
        self.ring = Some(Ring::start(
            slots,
            self.options.threads,
            move || dealer.deal(),
            move |job: Job, view: &mut View<'_>| fill(&dataset, seq_len, &job, view),
        )?);
        Ok(())
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
        let Options { request, recipe, .. } = &self.options;
        State {
            v: State::VERSION,
            fingerprints: vec![dataset::hex(&self.dataset.fingerprint)],
            split: request.split.clone(),
            limit: request.limit,
            seed: recipe.seed,
            seq_len: recipe.seq_len,
            window: recipe.window,
            pack: recipe.packing.versioned().into(),
            max_docs: recipe.max_documents,
            shuffle: recipe.shuffle.name().into(),
            weights: vec![1],
            cursors: vec![self.at.cursor],
            block: 0,
            in_block: 0,
            rows: self.at.rows,
            stored_tokens: self.at.stored_tokens,
        }
    }

    /// Stand where `state` stood: the next batch is the first of a step that begins there. Threads stop.
    ///
    /// # Errors
    /// [`Error::LoaderState`] where the state belongs to another order or points at no row; [`Error::Forked`].
    pub fn load(&mut self, state: &State) -> Result<()> {
        self.close()?;
        state.continues(&self.state())?;
        let cursor = state.cursors[0]; // as many as here: one
        let mut planner = Planner::new(self.dataset.clone(), self.options.recipe);
        let bad = |field, saved: u64, below: u64| {
            Err(Error::LoaderState { field, saved: saved.to_string(), found: format!("below {below}") })
        };
        if cursor.epoch >= 1 << 62 {
            return bad("epoch", cursor.epoch, 1 << 62);
        }
        if cursor.window >= planner.windows() {
            return bad("window", cursor.window, planner.windows());
        }
        let rows = if cursor.row == 0 { 1 } else { planner.plan(cursor.epoch, cursor.window)?.len() };
        if cursor.row >= rows {
            return bad("row", cursor.row, rows);
        }
        self.at = Progress { cursor, rows: state.rows, stored_tokens: state.stored_tokens };
        Ok(())
    }

    /// Stop and join all threads. After this nobody writes into the slots; [`Loader::start`] may follow.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn close(&mut self) -> Result<()> {
        self.check_process()?;
        self.ring = None; // joins the readers and drops the receiver the planner may wait on
        if let Some(planner) = self.planner.take() {
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
            // A forked child has no such threads; joining them would wait for ever.
            if let Some(ring) = self.ring.take() {
                ring.abandon();
            }
            std::mem::forget(self.planner.take());
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

/// Copy the rows of a batch into its slot.
fn fill(dataset: &Dataset, seq_len: usize, job: &Job, view: &mut View<'_>) -> Result<Progress> {
    let mut scratch = vec![];
    let slots = view.inputs.chunks_exact_mut(seq_len).zip(view.targets.chunks_exact_mut(seq_len));
    for (slot, (inputs, targets)) in slots.enumerate() {
        let filled = match job.rows.get(slot) {
            Some((window, row)) => fill_row(dataset, window, *row, inputs, targets, &mut scratch)?,
            None => 0,
        };
        inputs[filled.min(seq_len)..].fill(dataset.bos as i32);
        targets[filled.saturating_sub(1)..].fill(IGNORE);
    }
    Ok(job.after)
}

/// Write the tokens of a row: token p to `inputs[p]` and `targets[p − 1]`. Returns how many there are.
fn fill_row(
    dataset: &Dataset,
    window: &Window,
    row: u64,
    inputs: &mut [i32],
    targets: &mut [i64],
    scratch: &mut Vec<u8>,
) -> Result<usize> {
    let mut at = 0;
    for (piece, place) in window.row(row) {
        let shard = dataset.shard(place.shard);
        if piece.bos {
            put(at, &[dataset.bos], inputs, targets, |&id| id);
            at += 1;
        }
        let start = place.start + piece.start;
        let largest = shard.tokens(start, piece.stored, scratch, |dtype, bytes| match dtype {
            Dtype::U16 => {
                let ids = bytes.as_chunks::<2>().0;
                put(at, ids, inputs, targets, |&id| u32::from(u16::from_le_bytes(id)));
                ids.iter().map(|&id| u32::from(u16::from_le_bytes(id))).max()
            }
            Dtype::U32 => {
                let ids = bytes.as_chunks::<4>().0;
                put(at, ids, inputs, targets, |&id| u32::from_le_bytes(id));
                ids.iter().map(|&id| u32::from_le_bytes(id)).max()
            }
        })?;
        if let Some(id) = largest.filter(|&id| id >= dataset.vocab_size) {
            return Err(shard.bad_id(id, start));
        }
        at += piece.stored as usize;
    }
    Ok(at)
}

/// Tokens from place `at` of a row on.
fn put<S>(at: usize, ids: &[S], inputs: &mut [i32], targets: &mut [i64], widen: impl Fn(&S) -> u32) {
    for (input, id) in inputs.iter_mut().skip(at).zip(ids) {
        *input = widen(id) as i32;
    }
    let first = usize::from(at == 0); // the first token of a row is nobody's target
    for (target, id) in targets.iter_mut().skip(at + first - 1).zip(&ids[first..]) {
        *target = i64::from(widen(id));
    }
}
