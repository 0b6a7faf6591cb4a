//! Bytes and tokens: byte-level BPE, token shards and the loader that reads them.
//!
//! The path runs in one direction: [`source`] turns files into documents, [`split`] cuts documents
//! into pieces, [`count`] and [`train`] learn merges from them, [`encode`] and [`batch`] turn documents into ids,
//! [`sharder`] writes ids to shards and [`loader`] reads rows of them back. Nothing here has heard
//! of Python; the crate `rustbpe-py` translates.

pub mod batch;
pub mod control;
pub mod count;
pub mod decode;
pub mod encode;
pub mod error;
pub mod loader;
pub mod order;
pub mod pack;
mod prefetch;
pub mod ring;
pub mod shard;
pub mod sharder;
pub mod source;
mod spans;
pub mod split;
mod sync;
mod threads;
pub mod train;
pub mod vocab;

pub use control::Control;
pub use error::{Error, Result};
