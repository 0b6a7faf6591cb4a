//! The one place where a failure of the core becomes a Python exception.

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use rustbpe::Error;

/// The class of `picollm.errors` that [`Error::kind`] names, with the message and the hint.
pub fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    if matches!(error, Error::Cancelled) {
        return PyKeyboardInterrupt::new_err(());
    }
    let raised = || -> PyResult<PyErr> {
        let class = py.import("picollm.errors")?.getattr(error.kind())?;
        let kwargs = pyo3::types::PyDict::new(py);
        kwargs.set_item("hint", error.hint())?;
        Ok(PyErr::from_value(class.call((error.to_string(),), Some(&kwargs))?))
    };
    raised().unwrap_or_else(|why| PyRuntimeError::new_err(format!("{error} (while raising it: {why})")))
}
