//! Files that arrive while a job runs: Python brings them, the job's threads ask.

use pyo3::prelude::*;
use rustbpe::source::Supply;
use rustbpe::{Error, Result};

/// A Python object with `ready(segment) -> bool` and `done(segment, amount)`, both callable from any thread.
#[derive(Debug)]
pub struct PySupply(Py<PyAny>);

impl PySupply {
    /// As the core sees it.
    pub fn as_supply(&self) -> &dyn Supply {
        self
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for PySupply {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(object.to_owned().unbind()))
    }
}

impl Supply for PySupply {
    fn ready(&self, segment: u32) -> Result<bool> {
        Python::attach(|py| self.0.call_method1(py, "ready", (segment,))?.is_truthy(py)).map_err(failed)
    }

    fn done(&self, segment: u32, amount: u64) -> Result<()> {
        Python::attach(|py| self.0.call_method1(py, "done", (segment, amount)).map(|_| ())).map_err(failed)
    }
}

fn failed(error: PyErr) -> Error {
    Error::Invalid { what: format!("the supply of files broke: {error}") }
}
