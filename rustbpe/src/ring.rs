//! Slots of memory that threads fill ahead of the one who takes them, in order.
//!
//! Batch q goes to slot q mod S. A slot goes FREE → FILLING → READY → LENT → FREE. There are two
//! places to wait: for the slot of a batch to be free, and for the next batch to be ready; closing
//! and failing wake both. Threads change only when a batch is made, never what is in it.
//! `rustbpe/model` runs this file under loom, through every order of its threads.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::sync::thread::{Builder, JoinHandle};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use crate::{Error, Result};

#[derive(Debug)]
enum Phase<M, T> {
    Free(M),
    Filling,
    Ready(M, T),
    Lent(M),
}

#[derive(Debug)]
struct State<M, T> {
    /// By slot: the batch that is in it or may come next, and where it stands.
    slots: Vec<(u64, Phase<M, T>)>,
    /// First batch that does not exist.
    end: Option<u64>,
    failed: Option<Error>,
    closed: bool,
}

#[derive(Debug)]
struct Shared<M, T> {
    state: Mutex<State<M, T>>,
    free: Condvar,
    ready: Condvar,
}

impl<M, T> Shared<M, T> {
    fn lock(&self) -> MutexGuard<'_, State<M, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, error: Option<Error>) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.closed, true) {
            state.failed = error; // the first failure is the one to report
        }
        drop(state);
        self.free.notify_all();
        self.ready.notify_all();
    }

    /// Wait for the slot of batch `number` and take it; `None` once closed.
    fn acquire(&self, number: u64) -> Option<M> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let index = (number % state.slots.len() as u64) as usize;
            let entry = &mut state.slots[index];
            if entry.0 == number {
                match std::mem::replace(&mut entry.1, Phase::Filling) {
                    Phase::Free(slot) => return Some(slot),
                    other => entry.1 = other,
                }
            }
            state = self.free.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn publish(&self, number: u64, slot: M, item: T) {
        let mut state = self.lock();
        let index = (number % state.slots.len() as u64) as usize;
        state.slots[index].1 = Phase::Ready(slot, item);
        drop(state);
        self.ready.notify_all();
    }

    fn finish(&self, number: u64) {
        let mut state = self.lock();
        state.end = Some(state.end.map_or(number, |end| end.min(number)));
        drop(state);
        self.ready.notify_all();
    }
}

/// What [`Ring::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// The next batch lies in this slot, which is lent until [`Ring::release`].
    Batch(usize, T),
    /// There are no more batches.
    End,
    /// Nothing came in the time given.
    Waiting,
}

/// The ring and its threads. `M` is the memory of a slot, `T` what is known of the batch in it.
#[derive(Debug)]
pub struct Ring<M, T> {
    shared: Arc<Shared<M, T>>,
    threads: Vec<JoinHandle<()>>,
    next: u64,
}

impl<M: Send + 'static, T: Send + 'static> Ring<M, T> {
    /// Start `threads` threads. `deal` is called by one thread at a time and says what is in batch 0, 1,
    /// 2 … until it answers `None`; `fill` writes a dealt batch into a slot and says what goes with it.
    /// A failure or panic of either surfaces at [`Ring::next`].
    ///
    /// # Errors
    /// [`Error::Invalid`] without slots or threads; [`Error::Io`] where a thread cannot start.
    pub fn start<J: 'static, D, F>(slots: Vec<M>, threads: usize, deal: D, fill: F) -> Result<Self>
    where
        D: FnMut() -> Result<Option<J>> + Send + 'static,
        F: Fn(J, &mut M) -> Result<T> + Send + Sync + 'static,
    {
        if slots.is_empty() || threads == 0 {
            let what = format!("{} slots and {threads} threads; at least one of each is needed", slots.len());
            return Err(Error::Invalid { what });
        }
        let slots = (0..).zip(slots).map(|(number, slot)| (number, Phase::Free(slot))).collect();
        let state = State { slots, end: None, failed: None, closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), free: Condvar::new(), ready: Condvar::new() });
        let work = Arc::new((Mutex::new((0, deal)), fill));
        let mut ring = Ring { shared: shared.clone(), threads: vec![], next: 0 };
        for index in 0..threads {
            let (shared, work) = (shared.clone(), work.clone());
            let body = move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| serve(&shared, &work.0, &work.1)));
                match outcome {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => shared.close(Some(error)),
                    Err(panic) => shared.close(Some(Error::Panic { what: panic_message(panic.as_ref()) })),
                }
            };
            let thread = Builder::new().name(format!("picollm-load-{index}")).spawn(body);
            ring.threads.push(thread.map_err(|error| Error::io("a loader thread", error))?);
        }
        Ok(ring)
    }

    /// The next batch, in order, or what stands in its way after at most `patience`.
    ///
    /// # Errors
    /// The first failure of a thread, once; after it, or after [`Ring::close`], [`Error::Invalid`].
    pub fn next(&mut self, patience: Duration) -> Result<Next<T>> {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        loop {
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            if state.closed {
                return Err(Error::Invalid { what: "this loader is closed; open a new one".into() });
            }
            if state.end == Some(self.next) {
                return Ok(Next::End);
            }
            let index = (self.next % state.slots.len() as u64) as usize;
            let entry = &mut state.slots[index];
            if entry.0 == self.next {
                match std::mem::replace(&mut entry.1, Phase::Filling) {
                    Phase::Ready(slot, item) => {
                        entry.1 = Phase::Lent(slot);
                        self.next += 1;
                        return Ok(Next::Batch(index, item));
                    }
                    other => entry.1 = other,
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Next::Waiting);
            }
            state = self.shared.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The slot that the next batch will lie in.
    pub fn awaited(&self) -> usize {
        (self.next % self.shared.lock().slots.len() as u64) as usize
    }

    /// Give back every lent slot.
    pub fn release(&mut self) {
        let mut state = self.shared.lock();
        let count = state.slots.len() as u64;
        for entry in &mut state.slots {
            entry.1 = match std::mem::replace(&mut entry.1, Phase::Filling) {
                Phase::Lent(slot) => {
                    entry.0 += count;
                    Phase::Free(slot)
                }
                other => other,
            };
        }
        drop(state);
        self.shared.free.notify_all();
    }
}

impl<M, T> Ring<M, T> {
    /// Stop the threads and wait for them. After this nobody writes into the slots.
    pub fn close(&mut self) {
        self.shared.close(None);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // panics were caught and reported inside
        }
    }

    /// Leave the threads alone: in a forked child they do not exist, on a disk that does not answer they do not end.
    pub fn abandon(mut self) {
        self.threads.drain(..).for_each(std::mem::forget);
        std::mem::forget(self);
    }
}

impl<M, T> Drop for Ring<M, T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a thread does: deal a batch, wait for its slot, fill it, publish it.
fn serve<M, T, J, D, F>(shared: &Shared<M, T>, deal: &Mutex<(u64, D)>, fill: &F) -> Result<()>
where
    D: FnMut() -> Result<Option<J>>,
    F: Fn(J, &mut M) -> Result<T>,
{
    loop {
        let (number, job) = {
            // Poisoned means that another thread panicked while dealing; it reports that.
            let Ok(mut dealer) = deal.lock() else { return Ok(()) };
            if shared.lock().closed {
                return Ok(());
            }
            let number = dealer.0;
            let Some(job) = (dealer.1)()? else {
                shared.finish(number);
                return Ok(());
            };
            dealer.0 += 1;
            (number, job)
        };
        let Some(mut slot) = shared.acquire(number) else { return Ok(()) };
        let item = fill(job, &mut slot)?;
        shared.publish(number, slot, item);
    }
}

/// The text of a caught panic.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
