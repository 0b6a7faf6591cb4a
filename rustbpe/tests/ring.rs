//! The ring: batches in order and whole, failures that surface, threads that end.
#![allow(unsafe_code, missing_docs)]

use std::time::Duration;

use rustbpe::ring::{Next, Ring, Slot, View};
use rustbpe::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};

const LENGTH: usize = 64;
const HANG: Duration = Duration::from_secs(20);

struct Memory {
    inputs: Vec<[i32; LENGTH]>,
    targets: Vec<[i64; LENGTH]>,
}

impl Memory {
    fn new(slots: usize) -> Self {
        Memory { inputs: vec![[0; LENGTH]; slots], targets: vec![[0; LENGTH]; slots] }
    }

    fn slots(&mut self) -> Vec<Slot> {
        let pairs = self.inputs.iter_mut().zip(&mut self.targets);
        // SAFETY: the tests keep the memory longer than the ring and look at lent slots only.
        pairs.map(|(i, t)| unsafe { Slot::new(i.as_mut_ptr(), t.as_mut_ptr(), LENGTH) }).collect()
    }
}

fn count_to(end: u64) -> impl FnMut() -> Result<Option<u64>> + Send + 'static {
    let mut numbers = 0..end;
    move || Ok(numbers.next())
}

fn write(number: u64, view: &mut View<'_>) -> Result<u64> {
    view.inputs.fill(number as i32);
    view.targets.fill(-(number as i64));
    Ok(number)
}

#[test]
fn batches_come_in_order_and_whole_for_any_slots_and_threads() {
    for (slots, threads, lent) in [(1, 1, 1), (1, 4, 1), (2, 3, 2), (3, 1, 2), (7, 8, 3)] {
        let mut memory = Memory::new(slots);
        let mut ring = Ring::start(memory.slots(), threads, count_to(500), write).unwrap();
        for number in 0..500 {
            if number % lent == 0 {
                ring.release();
            }
            let Next::Batch(index, item) = ring.next(HANG).unwrap() else { panic!("batch {number} is missing") };
            assert_eq!((index as u64, item), (number % slots as u64, number));
            assert!(memory.inputs[index].iter().all(|&id| id == number as i32));
            assert!(memory.targets[index].iter().all(|&id| id == -(number as i64)));
        }
        assert_eq!(ring.next(HANG).unwrap(), Next::End);
        assert_eq!(ring.next(HANG).unwrap(), Next::End);
    }
}

#[test]
fn a_batch_that_does_not_come_is_not_waited_for_beyond_patience() {
    let mut memory = Memory::new(1);
    let mut ring = Ring::start(memory.slots(), 1, count_to(9), write).unwrap();
    assert!(matches!(ring.next(HANG).unwrap(), Next::Batch(0, 0)));
    assert_eq!(ring.next(Duration::from_millis(1)).unwrap(), Next::Waiting); // the only slot is lent
}

/// Row L6.
#[test]
fn a_failure_in_a_thread_surfaces_at_the_next_call() {
    for round in 0..60 {
        let mut memory = Memory::new(3);
        let fill = move |number: u64, view: &mut View<'_>| match number {
            _ if number < round % 7 => write(number, view),
            _ if round % 2 == 0 => panic!("batch {number}"),
            _ => Err(Error::Invalid { what: format!("batch {number}") }),
        };
        let mut ring = Ring::start(memory.slots(), 2, count_to(1000), fill).unwrap();
        let error = loop {
            ring.release();
            match ring.next(HANG) {
                Ok(Next::Batch(..)) => {}
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("batch"), "{error}");
        assert!(matches!(ring.next(HANG), Err(Error::Invalid { .. })));
    }
}

#[test]
fn a_dealer_that_panics_is_reported() {
    let mut memory = Memory::new(2);
    let deal = || -> Result<Option<u64>> { panic!("no cards") };
    let mut ring = Ring::start(memory.slots(), 4, deal, write).unwrap();
    assert!(ring.next(HANG).unwrap_err().to_string().contains("no cards"));
}

#[test]
fn closing_wakes_and_ends_every_thread_wherever_it_stands() {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            ALIVE.fetch_sub(1, Ordering::SeqCst);
        }
    }
    for taken in 0..5 {
        let mut memory = Memory::new(2);
        ALIVE.fetch_add(1, Ordering::SeqCst);
        let guard = Guard;
        let fill = move |number, view: &mut View<'_>| {
            let _ = &guard;
            write(number, view)
        };
        let mut ring = Ring::start(memory.slots(), 3, count_to(1 << 40), fill).unwrap();
        for _ in 0..taken {
            ring.release();
            ring.next(HANG).unwrap();
        }
        ring.close();
        assert!(ring.next(HANG).is_err());
        assert_eq!(ALIVE.load(Ordering::SeqCst), 0, "threads ended and dropped what they held");
    }
}

#[test]
fn a_ring_without_slots_is_refused() {
    assert!(Ring::start(vec![], 1, count_to(1), write).is_err());
    assert!(Ring::start(Memory::new(1).slots(), 0, count_to(1), write).is_err());
}
