//! Batches of rows into tensors that Python allocated: addresses go in, slot numbers come out.
#![allow(unsafe_code)] // memory handed over by address

use std::path::PathBuf;
use std::time::Duration;

use pyo3::prelude::*;
use rustbpe::loader::{Loader, Options, Recipe, Request, Shape, Shuffle, State};
use rustbpe::pack::{Packing, default_max_documents};
use rustbpe::ring::{Next, Slot};
use rustbpe::shard::read::Io;
use rustbpe::{Error, Result};

use crate::error::to_py;

/// How often signals are looked at while a batch is not ready.
const POLL: Duration = Duration::from_millis(50);

/// A stream of batches for one rank. See `picollm.loader.stream`.
#[pyclass(name = "Loader", module = "picollm._rustbpe")]
struct PyLoader {
    // Before `owner`: dropping it joins the threads, and only then may the tensors go.
    core: Loader,
    /// Keeps the memory behind the slots alive.
    owner: Option<Py<PyAny>>,
    row_tokens: usize,
}

#[pymethods]
impl PyLoader {
    #[new]
    #[pyo3(signature = (directory, *, split, fingerprint, tokenizer, io, limit, seed, seq_len, window, pack, max_docs,
                        shuffle, batch_size, rows_per_step, rank, world_size, epochs, threads))]
    #[expect(clippy::too_many_arguments, reason = "each is a field of the options")]
    fn new(
        py: Python<'_>,
        directory: PathBuf,
        split: String,
        fingerprint: Option<String>,
        tokenizer: Option<String>,
        io: &str,
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
        epochs: Option<u64>,
        threads: usize,
    ) -> PyResult<Self> {
        let open = || -> Result<Loader> {
            let request = Request { directory, split, fingerprint, tokenizer, io: Io::from_name(io)?, limit };
            let recipe = Recipe {
                seed,
                seq_len,
                window,
                packing: Packing::from_name(pack)?,
                max_documents: max_docs.unwrap_or_else(|| default_max_documents(seq_len)),
                shuffle: Shuffle::from_name(shuffle)?,
            };
            let shape = Shape { batch_size, rows_per_step, rank, world_size };
            Loader::open(Options { request, recipe, shape, epochs, threads })
        };
        let core = py.detach(open).map_err(|error| to_py(py, &error))?;
        Ok(PyLoader { core, owner: None, row_tokens: batch_size as usize * seq_len as usize })
    }

    /// Start the threads. `slots` are the addresses of (inputs int32, targets int64), B·T elements each;
    /// `owner` is whatever keeps that memory alive.
    fn start(&mut self, py: Python<'_>, slots: Vec<(usize, usize)>, owner: Py<PyAny>) -> PyResult<()> {
        self.close(py)?;
        let aligned = |&(inputs, targets): &(usize, usize)| {
            inputs != 0 && targets != 0 && inputs % align_of::<i32>() == 0 && targets % align_of::<i64>() == 0
        };
        if !slots.iter().all(aligned) {
            return Err(to_py(py, &Error::Invalid { what: "slot addresses must be aligned and not null".into() }));
        }
        let length = self.row_tokens;
        let slots = slots.into_iter().map(|(inputs, targets)| {
            // SAFETY: the caller passes tensors of B·T elements that `owner` keeps alive; it is let go only
            // after the threads are joined, and Python reads a tensor only while its slot is lent.
            unsafe { Slot::new(inputs as *mut i32, targets as *mut i64, length) }
        });
        self.core.start(slots.collect()).map_err(|error| to_py(py, &error))?;
        self.owner = Some(owner);
        Ok(())
    }

    /// The slot of the next batch, lent until `release`; `None` at the end.
    fn next(&mut self, py: Python<'_>) -> PyResult<Option<usize>> {
        loop {
            let core = &mut self.core;
            match py.detach(|| core.next(POLL)).map_err(|error| to_py(py, &error))? {
                Next::Batch(slot, ()) => return Ok(Some(slot)),
                Next::End => return Ok(None),
                Next::Waiting => py.check_signals()?,
            }
        }
    }

    fn release(&mut self, py: Python<'_>) -> PyResult<()> {
        self.core.release().map_err(|error| to_py(py, &error))
    }

    fn state(&self, py: Python<'_>) -> PyResult<String> {
        self.core.state().to_json().map_err(|error| to_py(py, &error))
    }

    fn load(&mut self, py: Python<'_>, state: &str) -> PyResult<()> {
        let core = &mut self.core;
        py.detach(|| core.load(&State::from_json(state)?)).map_err(|error| to_py(py, &error))
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
        self.core.dataset().documents
    }

    #[getter]
    fn tokens(&self) -> u64 {
        self.core.dataset().tokens
    }

    #[getter]
    fn vocab_size(&self) -> u32 {
        self.core.dataset().vocab_size
    }

    #[getter]
    fn bos(&self) -> u32 {
        self.core.dataset().bos
    }

    #[getter]
    fn fingerprint(&self) -> String {
        self.core.dataset().fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyLoader>()
}
