//! Long jobs: run off the interpreter, report progress, and stop within a tenth of a second of Ctrl-C.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rustbpe::{Control, Error, Result};

use crate::error::to_py;

/// How often signals are polled.
const POLL: Duration = Duration::from_millis(50);
/// Polls between two progress calls.
const POLLS_PER_REPORT: u32 = 4;

/// Run `job` on its own thread with the interpreter released. `progress`, if given, is called with a
/// dict of the counters about five times a second and once at the end. A signal handler or a
/// `progress` that raises cancels the job, waits for it and raises that exception.
pub fn run<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    job: impl FnOnce(&Control) -> Result<T> + Send,
) -> PyResult<T> {
    let ctl = Control::default();
    let (send, receive) = bounded(1);
    let (outcome, interrupted) = std::thread::scope(|scope| {
        let (ctl, send) = (&ctl, send);
        let work = move || {
            let outcome = job(ctl);
            let _ = send.send(()); // the watcher may have stopped listening
            outcome
        };
        let worker = match std::thread::Builder::new().name("picollm-job".into()).spawn_scoped(scope, work) {
            Ok(worker) => worker,
            Err(error) => return (Ok(Err(Error::io("a thread for this job", error))), None),
        };
        let mut interrupted = None;
        for poll in 1_u32.. {
            match py.detach(|| receive.recv_timeout(POLL)) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let reported = if poll % POLLS_PER_REPORT == 0 { report(py, progress, ctl) } else { Ok(()) };
            if let Err(error) = py.check_signals().and(reported) {
                ctl.cancel();
                interrupted = Some(error);
                break;
            }
        }
        let outcome = py.detach(|| worker.join());
        (outcome, interrupted)
    });
    if let Some(error) = interrupted {
        return Err(error);
    }
    let value = match outcome {
        Ok(result) => result.map_err(|error| to_py(py, &error))?,
        Err(panic) => return Err(to_py(py, &Error::Panic { what: panic_message(panic.as_ref()) })),
    };
    report(py, progress, &ctl)?;
    Ok(value)
}

fn report(py: Python<'_>, progress: Option<&Bound<'_, PyAny>>, ctl: &Control) -> PyResult<()> {
    let Some(call) = progress else { return Ok(()) };
    let fields = PyDict::new(py);
    for (name, counter) in [
        ("done", &ctl.done),
        ("total", &ctl.total),
        ("bytes", &ctl.bytes),
        ("documents", &ctl.documents),
        ("tokens", &ctl.tokens),
        ("encode_ns", &ctl.encode_ns),
        ("write_ns", &ctl.write_ns),
    ] {
        fields.set_item(name, counter.load(Relaxed))?;
    }
    call.call1((fields,)).map(|_| ())
}

/// The text of a caught panic.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}
