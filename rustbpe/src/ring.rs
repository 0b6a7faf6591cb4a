//! Slots of memory that threads fill ahead of the one who takes them, in order.
//!
//! Batch q goes to slot q mod S. A slot goes FREE → FILLING → READY → LENT → FREE. There are two
//! places to wait: for the slot of a batch to be free, and for the next batch to be ready; closing
//! and failing wake both. Threads change only when a batch is made, never what is in it.
#![allow(unsafe_code)] // memory handed over by address

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Memory for one batch of B rows of T tokens: inputs (B·T) and targets (B·T).
#[derive(Debug)]
pub struct Slot {
    inputs: *mut i32,
    targets: *mut i64,
    length: usize,
}

// SAFETY: `Slot::new` promises memory that nothing else uses while the ring owns the slot, so it does
// not matter which thread writes there.
unsafe impl Send for Slot {}

impl Slot {
    /// # Safety
    /// Both addresses are aligned and start `length` writable elements. They stay valid until the ring
    /// that owns the slot is dropped or closed, and nobody touches them but between [`Ring::next`]
    /// returning the slot and [`Ring::release`].
    pub unsafe fn new(inputs: *mut i32, targets: *mut i64, length: usize) -> Self {
        Slot { inputs, targets, length }
    }

    fn view(&mut self) -> View<'_> {
        // SAFETY: by the contract of `new` the memory is valid; `&mut self` makes this the only view.
        unsafe {
            View {
                inputs: std::slice::from_raw_parts_mut(self.inputs, self.length),
                targets: std::slice::from_raw_parts_mut(self.targets, self.length),
            }
        }
    }
}

/// A slot while it is filled.
#[derive(Debug)]
pub struct View<'a> {
    /// B·T ids.
    pub inputs: &'a mut [i32],
    /// B·T ids, or −100.
    pub targets: &'a mut [i64],
}

#[derive(Debug)]
enum Phase<T> {
    Free(Slot),
    Filling,
    Ready(Slot, T),
    Lent(Slot),
}

#[derive(Debug)]
struct State<T> {
    /// By slot: the batch that is in it or may come next, and where it stands.
    slots: Vec<(u64, Phase<T>)>,
    /// First batch that does not exist.
    end: Option<u64>,
    failed: Option<Error>,
    closed: bool,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    free: Condvar,
    ready: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
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
    fn acquire(&self, number: u64) -> Option<Slot> {
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

    fn publish(&self, number: u64, slot: Slot, item: T) {
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

/// The ring and its threads.
#[derive(Debug)]
pub struct Ring<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
    next: u64,
}

impl<T: Send + 'static> Ring<T> {
    /// Start `threads` threads. `deal` is called by one thread at a time and says what is in batch 0, 1,
    /// 2 … until it answers `None`; `fill` writes a dealt batch into a slot and says what goes with it.
    /// A failure or panic of either surfaces at [`Ring::next`].
    ///
    /// # Errors
    /// [`Error::Invalid`] without slots or threads; [`Error::Io`] where a thread cannot start.
    pub fn start<J: 'static, D, F>(slots: Vec<Slot>, threads: usize, deal: D, fill: F) -> Result<Self>
    where
        D: FnMut() -> Result<Option<J>> + Send + 'static,
        F: Fn(J, &mut View<'_>) -> Result<T> + Send + Sync + 'static,
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
            let thread = std::thread::Builder::new().name(format!("picollm-load-{index}")).spawn(body);
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

impl<T> Ring<T> {
    /// Stop the threads and wait for them. After this nobody writes into the slots.
    pub fn close(&mut self) {
        self.shared.close(None);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // panics were caught and reported inside
        }
    }

    /// Leave the threads alone: in a forked child they do not exist, so they cannot be joined.
    pub fn abandon(mut self) {
        self.threads.drain(..).for_each(std::mem::forget);
        std::mem::forget(self);
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a thread does: deal a batch, wait for its slot, fill it, publish it.
fn serve<T, J, D, F>(shared: &Shared<T>, deal: &Mutex<(u64, D)>, fill: &F) -> Result<()>
where
    D: FnMut() -> Result<Option<J>>,
    F: Fn(J, &mut View<'_>) -> Result<T>,
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
        let item = fill(job, &mut slot.view())?;
        shared.publish(number, slot, item);
    }
}

/// The text of a caught panic.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
