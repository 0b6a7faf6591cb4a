//! Batches of rows into tensors that Python allocated: addresses go in, slot numbers come out.
#![allow(unsafe_code)] // memory handed over by address

use std::ffi::CString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeWarning;
use pyo3::prelude::*;
use rustbpe::loader::{BLOCK_ROWS, Loader, Options, Out, Recipe, Request, Shape, Shuffle, Slot, State, Verify};
use rustbpe::pack::{Packing, default_max_documents};
use rustbpe::ring::Next;
use rustbpe::shard::read::Io;
use rustbpe::sharder::hex;
use rustbpe::{Error, Result};

use crate::error::to_py;
use crate::watch;

/// How often signals are looked at while a batch is not ready.
const POLL: Duration = Duration::from_millis(50);
/// Seconds that a disk may stand still before there is a warning, and before the loader gives up.
const PATIENCE: (f64, f64) = (10.0, 300.0);

/// A stream of batches for one rank. See `picollm.loader.stream`.
#[pyclass(name = "Loader", module = "picollm._rustbpe")]
struct PyLoader {
    // Before `owner`: dropping it joins the threads, and only then may the tensors go.
    core: Loader,
    /// Keeps the memory behind the slots alive.
    owner: Option<Py<PyAny>>,
}

impl PyLoader {
    /// The error of a wait without an end.
    fn stalled(&self, seconds: f64) -> Error {
        let (path, at) = self.core.awaited().map_or(("the shards".into(), String::new()), |(path, byte)| {
            let at = format!(" at byte {byte}");
            (path, at)
        });
        let what = format!("no answer for {seconds:.1} s while reading{at}; the disk or file system stands still");
        Error::io(path, std::io::Error::new(std::io::ErrorKind::TimedOut, what))
    }
}

#[pymethods]
impl PyLoader {
    #[new]
    #[pyo3(signature = (directories, *, weights, split, fingerprints, tokenizer, io, verify, limit, seed, seq_len, window,
                        pack, max_docs, shuffle, batch_size, rows_per_step, rank, world_size, out, bounds,
                        mask_boundaries, epochs, threads))]
    #[expect(clippy::too_many_arguments, reason = "each is a field of the options")]
    fn new(
        py: Python<'_>,
        directories: Vec<PathBuf>,
        weights: Vec<u64>,
        split: &str,
        fingerprints: Vec<Option<String>>,
        tokenizer: Option<String>,
        io: &str,
        verify: &str,
        limit: Option<u64>,
        seed: u64,
        seq_len: u32,
        window: u64,
        pack: &str,
        max_docs: Option<u32>,
        shuffle: &str,
        batch_size: u64,
        rows_per_step: u64,
        rank: u64,
        world_size: u64,
        out: &str,
        bounds: bool,
        mask_boundaries: bool,
        epochs: Option<u64>,
        threads: usize,
    ) -> PyResult<Self> {
        let options = || -> Result<Options> {
            let (io, verify) = (Io::from_name(io)?, Verify::from_name(verify)?);
            let request = |(directory, fingerprint)| Request {
                directory,
                split: split.to_owned(),
                fingerprint,
                tokenizer: tokenizer.clone(),
                io,
                limit,
                verify,
            };
            Ok(Options {
                requests: directories.into_iter().zip(fingerprints).map(request).collect(),
                weights,
                recipe: Recipe {
                    seed,
                    seq_len,
                    window,
                    packing: Packing::from_name(pack)?,
                    max_documents: max_docs.unwrap_or_else(|| default_max_documents(seq_len)),
                    shuffle: Shuffle::from_name(shuffle)?,
                },
                shape: Shape { batch_size, rows_per_step, rank, world_size },
                out: Out::from_name(out)?,
                bounds,
                mask_boundaries,
                epochs,
                threads,
            })
        };
        let options = options().map_err(|error| to_py(py, &error))?;
        let core = watch::run(py, None, |ctl| Loader::open(options, ctl))?;
        Ok(PyLoader { core, owner: None })
    }

    /// Start the threads. `slots` are three addresses each: inputs int32 and targets int64 (B, T), or tokens
    /// (B, T + 1) and fill int32 (B); then `bounds` int32 places, or 0. `owner` keeps that memory alive.
    fn start(&mut self, py: Python<'_>, slots: Vec<[usize; 3]>, owner: Py<PyAny>) -> PyResult<()> {
        self.close(py)?;
        let form = self.core.form();
        // SAFETY: the caller passes tensors of the sizes of `form` that `owner` keeps alive; it is let go only
        // after the threads are joined, and Python reads a tensor only while its slot is lent.
        let slots = slots.into_iter().map(|addresses| unsafe { Slot::new(form, addresses) }).collect::<Result<_>>();
        slots.and_then(|slots| self.core.start(slots)).map_err(|error| to_py(py, &error))?;
        self.owner = Some(owner);
        Ok(())
    }

    /// The slot of the next batch, lent until `release`; `None` at the end. `patience`: seconds without a batch after
    /// which a warning names what is read, once, and after which the loader gives up. Its threads may then never end, so
    /// the memory of its slots is never freed.
    #[pyo3(signature = (patience=PATIENCE))]
    fn next(&mut self, py: Python<'_>, patience: (f64, f64)) -> PyResult<Option<usize>> {
        let (began, mut warned) = (Instant::now(), false);
        loop {
            let core = &mut self.core;
            match py.detach(|| core.next(POLL)).map_err(|error| to_py(py, &error))? {
                Next::Batch(slot, ()) => return Ok(Some(slot)),
                Next::End => return Ok(None),
                Next::Waiting => py.check_signals()?,
            }
            let waited = began.elapsed().as_secs_f64();
            if waited >= patience.1 {
                let error = self.stalled(waited);
                self.core.abandon();
                self.owner.take().map(Py::into_ptr);
                return Err(to_py(py, &error));
            }
            if waited >= patience.0 && !std::mem::replace(&mut warned, true) {
                let said = CString::new(self.stalled(waited).to_string())?;
                PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &said, 1)?;
            }
        }
    }

    fn release(&mut self, py: Python<'_>) -> PyResult<()> {
        self.core.release().map_err(|error| to_py(py, &error))
    }

    fn state(&self, py: Python<'_>) -> PyResult<String> {
        self.core.state().to_json().map_err(|error| to_py(py, &error))
    }

    fn load(&mut self, py: Python<'_>, state: &str, reweigh: bool) -> PyResult<()> {
        let core = &mut self.core;
        py.detach(|| core.load(&State::from_json(state)?, reweigh)).map_err(|error| to_py(py, &error))
    }

    fn close(&mut self, py: Python<'_>) -> PyResult<()> {
        let core = &mut self.core;
        py.detach(|| core.close()).map_err(|error| to_py(py, &error))?;
        self.owner = None;
        Ok(())
    }

    #[getter]
    fn running(&self) -> bool {
        self.core.is_running()
    }

    #[getter]
    fn micro_steps(&self) -> u64 {
        self.core.micro_steps()
    }

    #[getter]
    fn documents(&self) -> u64 {
        self.core.sources().iter().map(|source| source.documents).sum()
    }

    #[getter]
    fn tokens(&self) -> u64 {
        self.core.sources().iter().map(|source| source.tokens).sum()
    }

    #[getter]
    fn vocab_size(&self) -> u32 {
        self.core.sources()[0].vocab_size
    }

    #[getter]
    fn bos(&self) -> u32 {
        self.core.form().bos
    }

    #[getter]
    fn token_bytes(&self) -> u64 {
        self.core.form().dtype.size()
    }

    #[getter]
    fn bounds(&self) -> usize {
        self.core.form().bounds
    }

    #[getter]
    fn shares(&self) -> Vec<f64> {
        self.core.shares().iter().map(|&share| share as f64 / BLOCK_ROWS as f64).collect()
    }

    #[getter]
    fn fingerprints(&self) -> Vec<String> {
        self.core.sources().iter().map(|source| hex(&source.fingerprint)).collect()
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyLoader>()
}
