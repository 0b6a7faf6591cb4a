//! Sources and shards across the border: JSON in, JSON out; text and tokens stay in Rust.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustbpe::encode::Tokenizer;
use rustbpe::shard::out::OutDir;
use rustbpe::shard::verify::verify;
use rustbpe::sharder::{Plan, SegmentRecord, Wanted, hex, run_segments};
use rustbpe::source::{FileEntry, ReadOptions, sniff};
use rustbpe::{Error, Result};

use crate::error::to_py;
use crate::supply::PySupply;
use crate::watch;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(blake3_hex, module)?)?;
    module.add_function(wrap_pyfunction!(sha256_files, module)?)?;
    module.add_function(wrap_pyfunction!(sniff_source, module)?)?;
    module.add_function(wrap_pyfunction!(publish, module)?)?;
    module.add_function(wrap_pyfunction!(clean_partial, module)?)?;
    module.add_function(wrap_pyfunction!(tokenizer_facts, module)?)?;
    module.add_function(wrap_pyfunction!(shard_segments, module)?)?;
    module.add_function(wrap_pyfunction!(committed_segments, module)?)?;
    module.add_function(wrap_pyfunction!(verify_shard, module)?)?;
    Ok(())
}

#[pyfunction]
fn blake3_hex(data: &[u8]) -> String {
    rustbpe::shard::blake3_hex(data)
}

/// sha256 of each file in hex, `workers` files at a time.
#[pyfunction]
#[pyo3(signature = (paths, workers, progress=None))]
fn sha256_files(
    py: Python<'_>,
    paths: Vec<PathBuf>,
    workers: usize,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<String>> {
    watch::run(py, progress, |ctl| rustbpe::source::sha256_files(&paths, workers, ctl))
}

/// What the first documents look like. `files` and `options` are JSON; so is the answer.
#[pyfunction]
fn sniff_source<'py>(py: Python<'py>, root: PathBuf, files: &[u8], options: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let look = || -> Result<Vec<u8>> {
        let files: Vec<FileEntry> = serde_json::from_slice(files).map_err(|error| invalid(&error))?;
        let options: ReadOptions = serde_json::from_slice(options).map_err(|error| invalid(&error))?;
        serde_json::to_vec(&sniff(&root, &files, &options)?).map_err(|error| invalid(&error))
    };
    Ok(PyBytes::new(py, &py.detach(look).map_err(|error| to_py(py, &error))?))
}

/// Write a small file into a shard set, durably and read-only.
#[pyfunction]
fn publish(py: Python<'_>, out: PathBuf, name: &str, data: &[u8]) -> PyResult<()> {
    py.detach(|| OutDir::open(&out)?.publish(name, data)).map_err(|error| to_py(py, &error))
}

/// Remove what dead writers left; returns how many files.
#[pyfunction]
fn clean_partial(py: Python<'_>, out: PathBuf) -> PyResult<usize> {
    py.detach(|| OutDir::open(&out)?.clean()).map_err(|error| to_py(py, &error))
}

/// The tokenizer of these bytes. The last one is kept: a job asks for its facts, then for its segments, and reading
/// 65,536 ids takes as long as encoding six megabytes.
fn parsed(json: &[u8]) -> Result<Arc<Tokenizer>> {
    static LAST: Mutex<Option<Arc<Tokenizer>>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = last.as_ref().filter(|known| known.to_json() == json) {
        return Ok(known.clone());
    }
    let read = Arc::new(Tokenizer::from_json(json)?);
    *last = Some(read.clone());
    Ok(read)
}

/// (sha256 in hex, ids in all, id of BOS) of a `tokenizer.json`.
#[pyfunction]
fn tokenizer_facts(py: Python<'_>, tokenizer_json: &[u8]) -> PyResult<(String, u32, u32)> {
    let tokenizer = py.detach(|| parsed(tokenizer_json)).map_err(|error| to_py(py, &error))?;
    Ok((hex(&tokenizer.fingerprint()), tokenizer.vocab_size(), tokenizer.bos()))
}

/// Run and commit every segment of the plan that is not `done` (index, training tokens), in order, until
/// the leading ones hold `tokens`. `supply` brings the files. Returns the commit records made.
#[pyfunction]
#[pyo3(signature = (plan, root, out, tokenizer_json, done, tokens, workers, supply=None, progress=None))]
#[expect(clippy::too_many_arguments, reason = "called by keyword, from one place")]
fn shard_segments<'py>(
    py: Python<'py>,
    plan: &[u8],
    root: PathBuf,
    out: PathBuf,
    tokenizer_json: &[u8],
    done: Vec<(u32, u64)>,
    tokens: Option<u64>,
    workers: usize,
    supply: Option<PySupply>,
    progress: Option<&Bound<'py, PyAny>>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let records = watch::run(py, progress, |ctl| {
        let tokenizer = parsed(tokenizer_json)?;
        let plan = Plan::from_json(plan, &tokenizer)?;
        let out = OutDir::open(&out)?;
        let wanted = Wanted { done, tokens, supply: supply.as_ref().map(PySupply::as_supply) };
        let records = run_segments(&plan, &root, &tokenizer, &out, &wanted, workers, ctl)?;
        records.iter().map(SegmentRecord::to_json).collect::<Result<Vec<_>>>()
    })?;
    Ok(records.iter().map(|record| PyBytes::new(py, record)).collect())
}

/// The commit record of each segment of the plan, None where the segment is not finished in `out`.
#[pyfunction]
fn committed_segments<'py>(py: Python<'py>, plan: &[u8], out: PathBuf) -> PyResult<Vec<Option<Bound<'py, PyBytes>>>> {
    let look = || -> Result<Vec<Option<Vec<u8>>>> {
        let plan = Plan::parse(plan)?;
        let all = 0..u32::try_from(plan.segments()).unwrap_or(u32::MAX);
        all.map(|index| plan.committed(&out, index).ok().map(|record| record.to_json()).transpose()).collect()
    };
    let records = py.detach(look).map_err(|error| to_py(py, &error))?;
    Ok(records.into_iter().map(|record| record.map(|bytes| PyBytes::new(py, &bytes))).collect())
}

/// Check one `.bin` and its sidecar whole. Returns (tokens, documents, UTF-8 bytes of text, blake3, blake3 of the
/// sidecar, sha256 of the tokenizer, segment, part).
#[pyfunction]
#[pyo3(signature = (path, progress=None))]
#[expect(clippy::type_complexity, reason = "one tuple, unpacked at once")]
fn verify_shard(
    py: Python<'_>,
    path: PathBuf,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<(u32, u64, u64, String, String, String, u32, u32)> {
    let header = watch::run(py, progress, |ctl| verify(&path, ctl))?;
    let (payload, docs, tokenizer) = (hex(&header.payload), hex(&header.docs), hex(&header.tokenizer));
    Ok((header.tokens, header.documents, header.text_bytes, payload, docs, tokenizer, header.segment, header.part))
}

fn invalid(error: &serde_json::Error) -> Error {
    Error::Invalid { what: error.to_string() }
}
