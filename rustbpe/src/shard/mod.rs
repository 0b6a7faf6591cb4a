//! Shards: one `.bin` file of tokens and one `.docs.npy` of document offsets, as `shards/README.md`
//! writes them down byte by byte.

pub mod format;
pub mod read;
