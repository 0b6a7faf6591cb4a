//! The tokenizer across the border: text and ids in, buffers of machine integers out.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyBytes;
use rustbpe::count::{Corpus, Counts, count_segments, count_texts};
use rustbpe::decode::TextStream;
use rustbpe::encode::{Cache, Tokenizer};
use rustbpe::source::{FileEntry, ReadOptions, Segment};
use rustbpe::split::Pattern;
use rustbpe::train::{TieOrder, train};
use rustbpe::vocab::{SPECIALS, Vocab};
use rustbpe::{Control, Error};
use serde::Deserialize;

use crate::error::to_py;
use crate::supply::PySupply;
use crate::watch;

/// Shorter texts are encoded without a thread or a release of the interpreter.
const SHORT_TEXT: usize = 1 << 16;

/// What one worker takes of a batch at a time.
const BYTES_PER_TURN: usize = 1 << 18;

#[pyclass(name = "Tokenizer", module = "picollm._rustbpe", frozen)]
pub struct PyTokenizer {
    pub core: Arc<Tokenizer>,
    caches: Mutex<Vec<Cache>>,
}

impl PyTokenizer {
    fn new(core: Tokenizer) -> Self {
        Self { core: Arc::new(core), caches: Mutex::default() }
    }

    /// Encode with a cache that an earlier call left behind.
    fn encode_each<'t>(&self, texts: impl Iterator<Item = &'t [u8]>, ids: &mut Vec<u32>, mut after: impl FnMut(usize)) {
        let cache = self.caches.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let mut encoder = self.core.encoder_with(cache);
        for text in texts {
            let before = ids.len();
            encoder.encode(text, ids);
            after(ids.len() - before);
        }
        self.caches.lock().unwrap_or_else(PoisonError::into_inner).push(encoder.into_cache());
    }

    fn encode_parallel(&self, texts: &[Text], workers: usize, ctl: &Control) -> rustbpe::Result<(Vec<u32>, Vec<u64>)> {
        let turns = turns(texts);
        let made: Vec<OnceLock<(Vec<u32>, Vec<u64>)>> = turns.iter().map(|_| OnceLock::new()).collect();
        let taken = AtomicUsize::new(0);
        let work = || {
            while let (turn, false) = (taken.fetch_add(1, Relaxed), ctl.is_cancelled()) {
                let Some(&(start, end)) = turns.get(turn) else { break };
                let (mut ids, mut lengths) = (Vec::new(), Vec::new());
                self.encode_each(texts[start..end].iter().map(Text::bytes), &mut ids, |n| lengths.push(n as u64));
                let _ = made[turn].set((ids, lengths)); // each turn is taken once
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..workers.clamp(1, turns.len().max(1)) {
                scope.spawn(work);
            }
            work();
        });
        ctl.check()?;
        let (mut all, mut offsets) = (Vec::new(), vec![0]);
        for (ids, lengths) in made.into_iter().filter_map(OnceLock::into_inner) {
            all.extend_from_slice(&ids);
            let last = offsets[offsets.len() - 1];
            offsets.extend(lengths.iter().scan(last, |end, length| {
                *end += length;
                Some(*end)
            }));
        }
        Ok((all, offsets))
    }
}

/// Runs of neighbouring texts of about [`BYTES_PER_TURN`].
fn turns(texts: &[Text]) -> Vec<(usize, usize)> {
    let (mut turns, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, text) in texts.iter().enumerate() {
        bytes += text.bytes().len();
        if bytes >= BYTES_PER_TURN || at + 1 == texts.len() {
            turns.push((start, at + 1));
            (start, bytes) = (at + 1, 0);
        }
    }
    turns
}

/// A document: `str` and `bytes` are borrowed. Lone surrogates pass as the three bytes of their code.
pub enum Text {
    Str(PyBackedStr),
    Bytes(PyBackedBytes),
}

impl Text {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Str(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Text {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.extract() {
            return Ok(Self::Bytes(bytes));
        }
        let said = object.extract::<PyBackedStr>();
        if said.is_err() && object.is_instance_of::<pyo3::types::PyString>() {
            let bytes = object.call_method1("encode", ("utf-8", "surrogatepass"))?;
            return Ok(Self::Bytes(bytes.extract()?));
        }
        Ok(Self::Str(said?))
    }
}

fn u32_bytes<'py>(py: Python<'py>, values: &[u32]) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, values.len() * 4, |out| {
        for (place, value) in out.chunks_exact_mut(4).zip(values) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        Ok(())
    })
}

fn threads(asked: Option<usize>) -> usize {
    asked
        .filter(|count| *count > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
}

#[pymethods]
impl PyTokenizer {
    /// Read the bytes of a `tokenizer.json`.
    #[staticmethod]
    fn from_json(py: Python<'_>, data: PyBackedBytes) -> PyResult<Self> {
        py.detach(|| Tokenizer::from_json(&data)).map(Self::new).map_err(|error| to_py(py, &error))
    }

    /// A tokenizer of other people's ranks, for comparisons: its ids 0–255 may not be the bytes in order.
    #[staticmethod]
    fn from_ranks(py: Python<'_>, ranks: Vec<(Vec<u8>, u32)>, pattern: &str) -> PyResult<Self> {
        py.detach(|| Ok(Self::new(Tokenizer::new(Pattern::from_name(pattern)?, Vocab::from_ranks(ranks)?))))
            .map_err(|error| to_py(py, &error))
    }

    fn to_json<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.core.to_json())
    }

    #[getter]
    fn fingerprint(&self) -> String {
        self.core.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[getter]
    fn pattern(&self) -> &'static str {
        self.core.pattern().name()
    }

    #[getter]
    fn vocab_size(&self) -> u32 {
        self.core.vocab_size()
    }

    #[getter]
    fn bos(&self) -> u32 {
        self.core.bos()
    }

    #[getter]
    fn merges(&self) -> Vec<(u32, u32)> {
        self.core.vocab().merges().to_vec()
    }

    fn encode(&self, py: Python<'_>, text: Text) -> PyResult<Vec<u32>> {
        let encode = || {
            let mut ids = Vec::new();
            self.encode_each(std::iter::once(text.bytes()), &mut ids, |_| ());
            ids
        };
        if text.bytes().len() < SHORT_TEXT { Ok(encode()) } else { watch::run(py, None, |_| Ok(encode())) }
    }

    /// Ids of all texts as native u32, and where each text's ids start and the last one's end as native u64.
    #[pyo3(signature = (texts, workers=None))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Text>,
        workers: Option<usize>,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let (ids, offsets) = watch::run(py, None, |ctl| self.encode_parallel(&texts, threads(workers), ctl))?;
        let offsets: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_ne_bytes()).collect();
        Ok((u32_bytes(py, &ids)?, PyBytes::new(py, &offsets)))
    }

    fn decode_bytes<'py>(&self, py: Python<'py>, ids: Vec<u32>) -> PyResult<Bound<'py, PyBytes>> {
        let mut bytes = Vec::new();
        self.core.decode(&ids, &mut bytes).map_err(|error| to_py(py, &error))?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn token_bytes<'py>(&self, py: Python<'py>, id: u32) -> PyResult<Bound<'py, PyBytes>> {
        let token = self.core.token_bytes(id).ok_or_else(|| to_py(py, &self.core.no_such_id(id)))?;
        Ok(PyBytes::new(py, token))
    }

    /// Bytes of text that each id stands for, as native i32; 0 for specials.
    fn byte_lengths<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let of = |id| self.core.vocab().token(id).map_or(0, |token| token.len() as u32);
        u32_bytes(py, &(0..self.core.vocab_size()).map(of).collect::<Vec<_>>())
    }

    fn stream(&self) -> PyTextStream {
        PyTextStream { core: self.core.clone(), stream: TextStream::default() }
    }
}

/// Ids in, whole characters out.
#[pyclass(name = "TextStream", module = "picollm._rustbpe")]
pub struct PyTextStream {
    core: Arc<Tokenizer>,
    stream: TextStream,
}

#[pymethods]
impl PyTextStream {
    fn push(&mut self, py: Python<'_>, id: u32) -> PyResult<String> {
        let token = self.core.token_bytes(id).ok_or_else(|| to_py(py, &self.core.no_such_id(id)))?;
        Ok(self.stream.push(token))
    }

    fn finish(&mut self) -> String {
        self.stream.finish()
    }
}

/// What of a source's plan training reads.
#[derive(Deserialize)]
struct SourcePlan {
    files: Vec<FileEntry>,
    segments: Vec<Segment>,
    options: ReadOptions,
}

/// How to train. Said by Python in JSON, like the plan.
#[derive(Deserialize)]
struct TrainOptions {
    vocab_size: u32,
    pattern: String,
    ties: String,
    max_chars: Option<u64>,
    workers: Option<usize>,
}

type Trained = (PyTokenizer, Vec<(&'static str, u64)>, Vec<String>);

/// Count with `count`, train, and tell what was read: the tokenizer, counters and bad files.
fn count_and_train(
    py: Python<'_>,
    options: &TrainOptions,
    progress: Option<&Bound<'_, PyAny>>,
    count: impl FnOnce(Pattern, usize, &Control) -> rustbpe::Result<Counts> + Send,
) -> PyResult<Trained> {
    let (tokenizer, distinct, seen) = watch::run(py, progress, |ctl| {
        let (pattern, ties) = (Pattern::from_name(&options.pattern)?, TieOrder::from_name(&options.ties)?);
        let counts = count(pattern, threads(options.workers), ctl)?;
        if counts.seen.documents == 0 {
            return Err(Error::Missing { what: "the source holds no training text".into() });
        }
        let vocab = train(&counts, options.vocab_size, ties, ctl)?;
        Ok((Tokenizer::new(pattern, vocab), counts.len() as u64, counts.seen))
    })?;
    let counted = vec![
        ("segments", seen.segments),
        ("documents", seen.documents),
        ("bytes", seen.bytes),
        ("chars", seen.chars),
        ("distinct_pieces", distinct),
        ("rows", seen.report.rows),
        ("null", seen.report.null),
        ("empty", seen.report.empty),
        ("bad_utf8", seen.report.bad_utf8),
    ];
    Ok((PyTokenizer::new(tokenizer), counted, seen.report.bad_files))
}

fn parse<'a, T: Deserialize<'a>>(py: Python<'_>, json: &'a [u8]) -> PyResult<T> {
    serde_json::from_slice(json).map_err(|error| to_py(py, &Error::Invalid { what: error.to_string() }))
}

/// Train on the training documents of a source below `root`. `plan` and `options` are JSON.
#[pyfunction]
#[pyo3(signature = (root, plan, val_ppm, options, supply=None, progress=None))]
fn train_source(
    py: Python<'_>,
    root: PathBuf,
    plan: &[u8],
    val_ppm: u32,
    options: &[u8],
    supply: Option<PySupply>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Trained> {
    let plan: SourcePlan = parse(py, plan)?;
    let options: TrainOptions = parse(py, options)?;
    let max_chars = options.max_chars;
    count_and_train(py, &options, progress, |pattern, workers, ctl| {
        let corpus = Corpus {
            root: &root,
            files: &plan.files,
            segments: &plan.segments,
            options: &plan.options,
            val_ppm,
            supply: supply.as_ref().map(PySupply::as_supply),
        };
        count_segments(&corpus, pattern, max_chars, workers, ctl)
    })
}

/// Train on texts in memory, all of them.
#[pyfunction]
#[pyo3(signature = (texts, options, progress=None))]
fn train_texts(
    py: Python<'_>,
    texts: Vec<PyBackedStr>,
    options: &[u8],
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Trained> {
    let options: TrainOptions = parse(py, options)?;
    count_and_train(py, &options, progress, |pattern, workers, ctl| count_texts(&texts, pattern, workers, ctl))
}

/// The pieces of a text under a named pattern.
#[pyfunction]
fn split<'py>(py: Python<'py>, pattern: &str, text: Text) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let pattern = Pattern::from_name(pattern).map_err(|error| to_py(py, &error))?;
    Ok(rustbpe::split::pieces(pattern, text.bytes()).into_iter().map(|piece| PyBytes::new(py, piece)).collect())
}

/// The regex that a named pattern stands for.
#[pyfunction]
fn pattern_regex(py: Python<'_>, pattern: &str) -> PyResult<&'static str> {
    Pattern::from_name(pattern).map(Pattern::regex).map_err(|error| to_py(py, &error))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyTokenizer>()?;
    module.add_class::<PyTextStream>()?;
    module.add("SPECIALS", SPECIALS)?;
    module.add_function(wrap_pyfunction!(train_source, module)?)?;
    module.add_function(wrap_pyfunction!(train_texts, module)?)?;
    module.add_function(wrap_pyfunction!(split, module)?)?;
    module.add_function(wrap_pyfunction!(pattern_regex, module)?)?;
    Ok(())
}
