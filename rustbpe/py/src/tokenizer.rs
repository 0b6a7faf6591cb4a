//! The tokenizer across the border: text and ids in, buffers of machine integers out.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyBytes;
use rustbpe::batch::{Caches, Encoded};
use rustbpe::count::{Corpus, Counts, Limits, count_segments, count_texts};
use rustbpe::decode::TextStream;
use rustbpe::encode::{Id, Tokenizer};
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

#[pyclass(name = "Tokenizer", module = "picollm._rustbpe", frozen)]
pub struct PyTokenizer {
    pub core: Arc<Tokenizer>,
    caches: Caches,
}

impl PyTokenizer {
    fn new(core: Tokenizer) -> Self {
        Self { core: Arc::new(core), caches: Caches::default() }
    }

    fn encode_all<I: Id>(&self, py: Python<'_>, texts: &[Text], workers: Option<usize>) -> PyResult<Encoded<I>> {
        watch::run(py, None, |ctl| rustbpe::batch::encode(&self.core, &self.caches, texts, threads(workers), ctl))
    }
}

/// A document: `str` and `bytes` are borrowed. Lone surrogates pass as the three bytes of their code.
pub enum Text {
    Str(PyBackedStr),
    Bytes(PyBackedBytes),
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
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
    flat(py, std::slice::from_ref(&values), u32::to_ne_bytes)
}

/// Parts one after the other as machine integers of N bytes.
fn flat<'py, T: Copy, const N: usize>(
    py: Python<'py>,
    parts: &[impl AsRef<[T]>],
    bytes: impl Fn(T) -> [u8; N],
) -> PyResult<Bound<'py, PyBytes>> {
    let total: usize = parts.iter().map(|part| part.as_ref().len()).sum();
    PyBytes::new_with(py, total * N, |out| {
        let mut rest = out.as_chunks_mut::<N>().0;
        for part in parts.iter().map(AsRef::as_ref) {
            let (here, later) = std::mem::take(&mut rest).split_at_mut(part.len());
            here.iter_mut().zip(part).for_each(|(place, value)| *place = bytes(*value));
            rest = later;
        }
        Ok(())
    })
}

fn threads(asked: Option<usize>) -> usize {
    asked.filter(|count| *count > 0).unwrap_or_else(rustbpe::batch::threads)
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
        if text.as_ref().len() < SHORT_TEXT {
            let mut ids = Vec::new();
            self.caches.with(&self.core, |encoder| encoder.encode(text.as_ref(), &mut ids));
            return Ok(ids);
        }
        let encoded = self.encode_all(py, &[text], None)?;
        Ok(encoded.parts.concat())
    }

    /// Ids of all texts as native u32, or u16 if `narrow` (ordinary tokens must fit), and where each text's ids
    /// start and the last one's end as native u64.
    #[pyo3(signature = (texts, workers=None, narrow=false))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Text>,
        workers: Option<usize>,
        narrow: bool,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let (ids, offsets) = if narrow {
            let Encoded { parts, offsets } = self.encode_all(py, &texts, workers)?;
            (flat(py, &parts, u16::to_ne_bytes)?, offsets)
        } else {
            let Encoded { parts, offsets } = self.encode_all(py, &texts, workers)?;
            (flat(py, &parts, u32::to_ne_bytes)?, offsets)
        };
        let offsets: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_ne_bytes()).collect();
        Ok((ids, PyBytes::new(py, &offsets)))
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
    max_ram: Option<u64>,
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
    let (tokenizer, distinct, memory, seen, thrift) = watch::run(py, progress, |ctl| {
        let (pattern, ties) = (Pattern::from_name(&options.pattern)?, TieOrder::from_name(&options.ties)?);
        let counts = count(pattern, threads(options.workers), ctl)?;
        if counts.seen.documents == 0 {
            return Err(Error::Missing { what: "the source holds no training text".into() });
        }
        let vocab = train(&counts, options.vocab_size, ties, ctl)?;
        let memory = counts.training_memory();
        Ok((Tokenizer::new(pattern, vocab), counts.len() as u64, memory, counts.seen, counts.thrift))
    })?;
    let counted = vec![
        ("segments", seen.segments),
        ("documents", seen.documents),
        ("bytes", seen.bytes),
        ("chars", seen.chars),
        ("distinct_pieces", distinct),
        ("training_memory", memory),
        ("rows", seen.report.rows),
        ("null", seen.report.null),
        ("empty", seen.report.empty),
        ("bad_utf8", seen.report.bad_utf8),
        ("spilled_runs", thrift.runs),
        ("left_out_below", thrift.least),
        ("left_out_pieces", thrift.pieces),
        ("left_out_bytes", thrift.bytes),
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
    let limits = Limits { max_chars: options.max_chars, max_ram: options.max_ram };
    count_and_train(py, &options, progress, |pattern, workers, ctl| {
        let corpus = Corpus {
            root: &root,
            files: &plan.files,
            segments: &plan.segments,
            options: &plan.options,
            val_ppm,
            supply: supply.as_ref().map(PySupply::as_supply),
        };
        count_segments(&corpus, pattern, limits, workers, ctl)
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
    Ok(rustbpe::split::pieces(pattern, text.as_ref()).into_iter().map(|piece| PyBytes::new(py, piece)).collect())
}

/// The first byte position from `start` on at which the two halves have the ids of the whole.
#[pyfunction]
fn safe_cut(text: Text, start: usize) -> Option<usize> {
    rustbpe::split::safe_cut(text.as_ref(), start)
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
    module.add_function(wrap_pyfunction!(safe_cut, module)?)?;
    module.add_function(wrap_pyfunction!(pattern_regex, module)?)?;
    Ok(())
}
