//! `picollm._rustbpe`: the list of names that cross the border.
#![allow(missing_docs)]

use pyo3::prelude::*;

mod error;
mod loader;
mod packing;
mod sharder;
mod supply;
mod tokenizer;
mod watch;

#[pymodule]
fn _rustbpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    tokenizer::register(module)?;
    sharder::register(module)?;
    loader::register(module)?;
    packing::register(module)?;
    Ok(())
}
