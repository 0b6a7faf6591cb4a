//! The ring: batches in order and whole, failures that surface, threads that end.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustbpe::ring::{Next, Ring};
use rustbpe::{Error, Result};

const LENGTH: usize = 64;
const HANG: Duration = Duration::from_secs(20);

/// A slot that the test can look into while it is lent.
type Memory = Arc<Mutex<[u64; LENGTH]>>;

fn memory(slots: usize) -> Vec<Memory> {
    (0..slots).map(|_| Arc::new(Mutex::new([u64::MAX; LENGTH]))).collect()
}

fn count_to(end: u64) -> impl FnMut() -> Result<Option<u64>> + Send + 'static {
    let mut numbers = 0..end;
    move || Ok(numbers.next())
}

fn write(number: u64, slot: &mut Memory) -> Result<u64> {
    slot.lock().unwrap().fill(number);
    Ok(number)
}

#[test]
fn batches_come_in_order_and_whole_for_any_slots_and_threads() {
    for (slots, threads, lent) in [(1, 1, 1), (1, 4, 1), (2, 3, 2), (3, 1, 2), (7, 8, 3)] {
        let memory = memory(slots);
        let mut ring = Ring::start(memory.clone(), threads, count_to(500), write).unwrap();
        for number in 0..500 {
            if number % lent == 0 {
                ring.release();
            }
            let Next::Batch(index, item) = ring.next(HANG).unwrap() else { panic!("batch {number} is missing") };
            assert_eq!((index as u64, item), (number % slots as u64, number));
            assert!(memory[index].lock().unwrap().iter().all(|&word| word == number));
        }
        assert_eq!(ring.next(HANG).unwrap(), Next::End);
        assert_eq!(ring.next(HANG).unwrap(), Next::End);
    }
}

#[test]
fn a_batch_that_does_not_come_is_not_waited_for_beyond_patience() {
    let mut ring = Ring::start(memory(1), 1, count_to(9), write).unwrap();
    assert!(matches!(ring.next(HANG).unwrap(), Next::Batch(0, 0)));
    assert_eq!(ring.next(Duration::from_millis(1)).unwrap(), Next::Waiting); // the only slot is lent
}

/// Row L6.
#[test]
fn a_failure_in_a_thread_surfaces_at_the_next_call() {
    for round in 0..1000 {
        let fill = move |number: u64, slot: &mut Memory| match number {
            _ if number < round % 7 => write(number, slot),
            _ if round % 2 == 0 => panic!("batch {number}"),
            _ => Err(Error::Invalid { what: format!("batch {number}") }),
        };
        let mut ring = Ring::start(memory(3), 2, count_to(1000), fill).unwrap();
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
    let deal = || -> Result<Option<u64>> { panic!("no cards") };
    let mut ring = Ring::start(memory(2), 4, deal, write).unwrap();
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
        ALIVE.fetch_add(1, Ordering::SeqCst);
        let guard = Guard;
        let fill = move |number, slot: &mut Memory| {
            let _ = &guard;
            write(number, slot)
        };
        let mut ring = Ring::start(memory(2), 3, count_to(1 << 40), fill).unwrap();
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
    assert!(Ring::start(memory(0), 1, count_to(1), write).is_err());
    assert!(Ring::start(memory(1), 0, count_to(1), write).is_err());
}
