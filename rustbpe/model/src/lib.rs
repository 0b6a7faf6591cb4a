//! `rustbpe`'s ring, compiled against loom: the files are the crate's own, only `sync` is another.
//! Run it with `cargo test -p rustbpe-model`.
#![cfg(test)]
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/ring.rs"]
mod ring;

/// What `rustbpe::sync` names, from loom.
mod sync {
    pub use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub use loom::thread;
    pub use std::sync::PoisonError;
}

use std::time::Duration;

use error::{Error, Result};
use ring::{Next, Ring};

const EVER: Duration = Duration::from_secs(1 << 30);

/// Walk every order of threads with at most `preemptions` forced switches: more find nothing new in
/// code whose only shared state is behind one mutex, and take hours.
fn walk(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(body);
}

fn ring_of(slots: usize, threads: usize, batches: u64) -> Ring<u64, u64> {
    let mut numbers = 0..batches;
    let fill = |number: u64, memory: &mut u64| {
        *memory = number;
        Ok(number)
    };
    Ring::start(vec![u64::MAX; slots], threads, move || Ok(numbers.next()), fill).unwrap()
}

/// Row L7.
#[test]
fn every_order_of_threads_gives_the_batches_in_order_and_then_the_end() {
    for (slots, threads, batches) in [(1, 1, 2), (1, 2, 2), (2, 2, 2)] {
        walk(2, move || {
            let mut ring = ring_of(slots, threads, batches);
            for number in 0..batches {
                assert_eq!(ring.next(EVER).unwrap(), Next::Batch(number as usize % slots, number));
                ring.release();
            }
            assert_eq!(ring.next(EVER).unwrap(), Next::End);
        });
    }
}

/// Row L7.
#[test]
fn closing_ends_the_threads_wherever_they_stand() {
    for taken in 0..2 {
        walk(2, move || {
            let mut ring = ring_of(1, 2, 9);
            for _ in 0..taken {
                ring.next(EVER).unwrap();
            }
            ring.close(); // joins; a thread that waits for ever is a deadlock that loom reports
            assert!(ring.next(EVER).is_err());
        });
    }
}

/// Rows L6 and L7.
#[test]
fn a_failure_of_any_thread_is_the_next_answer_and_nobody_waits() {
    walk(2, || {
        let mut numbers = 0..3_u64;
        let fill = |number: u64, _: &mut ()| match number {
            0 => Ok(number),
            _ => Err(Error::Invalid { what: format!("batch {number}") }),
        };
        let mut ring = Ring::start(vec![(); 2], 2, move || Ok(numbers.next()), fill).unwrap();
        let error = loop {
            match ring.next(EVER) {
                Ok(next) => assert_eq!(next, Next::Batch(0, 0)),
                Err(error) => break error,
            }
            ring.release();
        };
        assert!(error.to_string().starts_with("batch "));
    });
}
