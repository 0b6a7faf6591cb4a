//! Shards: one `.bin` file of tokens and one `.docs.npy` of document offsets, as `shards/README.md`
//! writes them down byte by byte.

pub mod format;
pub mod out;
pub mod read;
pub mod verify;
pub mod write;

/// blake3 of some bytes, in hex.
pub fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_string()
}
