//! What threads share, under one name, so that `rustbpe/model` can put loom in its place.

pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
pub use std::thread;
