//! What packing makes of documents of given lengths, in counts.

use std::collections::HashMap;

use pyo3::prelude::*;
use rustbpe::pack::{Packing, default_max_documents, pack};

use crate::error::to_py;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(pack_counts, module)?)
}

/// Pack one window. Returns (rows, inserted BOS, documents cut, those of them that would have fitted a row whole).
#[pyfunction]
fn pack_counts(
    py: Python<'_>,
    packing: &str,
    lengths: Vec<u32>,
    row_tokens: u32,
) -> PyResult<(usize, usize, usize, usize)> {
    let count = || {
        let rows = pack(Packing::from_name(packing)?, &lengths, row_tokens, default_max_documents(row_tokens - 1))?;
        let mut pieces: HashMap<u32, u32> = HashMap::new();
        let mut inserted = 0;
        for piece in (0..rows.len()).flat_map(|row| rows.row(row)) {
            *pieces.entry(piece.document).or_default() += 1;
            inserted += usize::from(piece.bos);
        }
        let cut = pieces.iter().filter(|&(_, &pieces)| pieces > 1);
        let (all, short) = cut.fold((0, 0), |(all, short), (&document, _)| {
            (all + 1, short + usize::from(lengths[document as usize] <= row_tokens))
        });
        Ok((rows.len(), inserted, all, short))
    };
    py.detach(count).map_err(|error| to_py(py, &error))
}
