//! Segment of a source → one shard: a pure function of plan, tokenizer and source bytes, whatever the worker count.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::encode::Tokenizer;
use crate::shard::format::{Dtype, FORMAT};
use crate::shard::out::OutDir;
use crate::shard::write::{Facts, FileRecord, Split, SplitWriter};
use crate::source::{FileEntry, ReadOptions, ReadReport, Segment, Supply, await_files, is_validation, read_segment};
use crate::threads::on_threads;
use crate::{Control, Error, Result};

mod commit;

/// A part may grow to this many times the target: estimates are off by less, so an ordinary segment is one part.
const PART_TARGETS: u64 = 2;

/// What `plan.json` says, and its name.
#[derive(Clone, Debug)]
pub struct Plan {
    hash: String,
    body: Body,
    read: ReadOptions,
    dtype: Dtype,
    tokenizer: [u8; 32],
}

#[derive(Clone, Debug, Deserialize)]
struct Body {
    options: Options,
    segments: Vec<Segment>,
    source: Source,
    tokenizer: TokenizerFacts,
}

#[derive(Clone, Debug, Deserialize)]
struct Source {
    files: Vec<FileEntry>,
}

#[derive(Clone, Debug, Deserialize)]
struct Options {
    dtype: String,
    shard_tokens: u64,
    val_ppm: u32,
    /// The reading options and whatever else shapes the bytes: all of it names the segment.
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
struct TokenizerFacts {
    bos: u32,
    sha256: String,
    vocab_size: u32,
}

/// A commit record: its presence in the folder means that the segment is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRecord {
    /// Parts, training first.
    pub files: Vec<FileRecord>,
    /// Name of the format.
    pub format: String,
    /// `blake3:` of `plan.json`.
    pub plan: String,
    /// Which segment.
    pub segment: SegmentFacts,
    /// What gave no document.
    pub skipped: Skipped,
    /// `sha256:` of `tokenizer.json`.
    pub tokenizer: String,
}

/// The segment of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentFacts {
    /// First file of the plan and one past the last.
    pub files: (u32, u32),
    /// `blake3:` that names the segment by its content.
    pub id: String,
    /// Position in the plan.
    pub index: u32,
    /// Rows, lines or documents read, those skipped included.
    pub rows: u64,
    /// Slice j of k.
    pub slice: (u32, u32),
}

/// Counts of what gave no document, or a changed one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// Files left out by `--on-bad-file skip`.
    pub bad_files: Vec<String>,
    /// Documents left out or repaired by `--bad-utf8`.
    pub bad_utf8: u64,
    /// Rows with an empty text.
    pub empty: u64,
    /// Rows without a text.
    pub null: u64,
}

impl SegmentRecord {
    /// Training tokens of the segment.
    pub fn train_tokens(&self) -> u64 {
        self.files.iter().filter(|file| file.split == Split::Train).map(|file| file.n_tokens).sum()
    }
}

/// JSON with sorted keys and no spaces; serde_json's maps are sorted.
fn canonical(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::Invalid { what: error.to_string() })
}

impl Plan {
    /// Read `plan.json`.
    ///
    /// # Errors
    /// [`Error::Format`] for a plan that does not parse.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let refuse = |what: String| Error::Format { path: "plan.json".into(), what };
        let body: Body = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        let read: ReadOptions = serde_json::from_value(Value::Object(body.options.others.clone()))
            .map_err(|error| refuse(error.to_string()))?;
        let dtype = Dtype::from_name(&body.options.dtype)?;
        let facts = &body.tokenizer;
        if u64::from(facts.vocab_size) > dtype.max_vocab() {
            return Err(refuse(format!("{} ids do not fit {}", facts.vocab_size, dtype.name())));
        }
        let tokenizer = unhex(&facts.sha256).ok_or_else(|| refuse(format!("tokenizer {:?}", facts.sha256)))?;
        Ok(Self { hash: format!("blake3:{}", blake3::hash(bytes)), body, read, dtype, tokenizer })
    }

    /// Read `plan.json` and check it against the tokenizer.
    ///
    /// # Errors
    /// [`Error::Format`] for a plan that does not parse or belongs to another tokenizer.
    pub fn from_json(bytes: &[u8], tokenizer: &Tokenizer) -> Result<Self> {
        let plan = Self::parse(bytes)?;
        let facts = &plan.body.tokenizer;
        let hash = tokenizer.fingerprint();
        if plan.tokenizer != hash || (facts.vocab_size, facts.bos) != (tokenizer.vocab_size(), tokenizer.bos()) {
            let what = format!("made for tokenizer {}, this one is {}", facts.sha256, hex(&hash));
            return Err(Error::Format { path: "plan.json".into(), what });
        }
        Ok(plan)
    }

    /// Number of segments.
    pub fn segments(&self) -> usize {
        self.body.segments.len()
    }

    fn segment(&self, index: u32) -> Result<&Segment> {
        let missing = || Error::Invalid { what: format!("segment {index} of {}", self.segments()) };
        self.body.segments.get(index as usize).ok_or_else(missing)
    }

    /// Names a segment by everything that its bytes depend on, and by nothing else.
    fn segment_id(&self, segment: &Segment) -> Result<[u8; 32]> {
        let (first, end) = segment.files;
        let files = self.body.source.files.get(first as usize..end as usize).unwrap_or(&[]);
        let hashes: Option<Vec<&String>> = files.iter().map(|file| file.sha256.as_ref()).collect();
        let missing = || Error::Invalid { what: format!("segment {}: a file without its sha256", segment.index) };
        let Options { dtype, shard_tokens, val_ppm, others } = &self.body.options;
        let mut options = others.clone();
        options.extend([
            ("dtype".into(), json!(dtype)),
            ("shard_tokens".into(), json!(shard_tokens)),
            ("val_ppm".into(), json!(val_ppm)),
        ]);
        let name = json!({
            "files": hashes.ok_or_else(missing)?,
            "options": options,
            "slice": segment.slice,
            "tokenizer": self.body.tokenizer.sha256,
        });
        Ok(blake3::hash(&canonical(&name)?).into())
    }
}

/// Read, encode and commit one segment. Single-threaded; no network, no state but its arguments; a clock
/// only to count where the time goes.
///
/// # Errors
/// What reading and writing can fail with; then nothing of the segment counts.
pub fn run_segment(
    plan: &Plan,
    index: u32,
    root: &Path,
    tokenizer: &Tokenizer,
    out: &OutDir,
    ctl: &Control,
) -> Result<SegmentRecord> {
    let mut encoder = tokenizer.encoder();
    run_segment_with(plan, index, root, out, ctl, &mut |text, ids| encoder.encode(text.as_bytes(), ids))
}

/// [`run_segment`] with any encoder: `encode` appends the ids of a text.
///
/// # Errors
/// As [`run_segment`].
pub fn run_segment_with(
    plan: &Plan,
    index: u32,
    root: &Path,
    out: &OutDir,
    ctl: &Control,
    encode: &mut dyn FnMut(&str, &mut Vec<u32>),
) -> Result<SegmentRecord> {
    let segment = plan.segment(index)?;
    let facts = Facts {
        dtype: plan.dtype,
        vocab_size: plan.body.tokenizer.vocab_size,
        bos: plan.body.tokenizer.bos,
        segment: index,
        tokenizer: plan.tokenizer,
        segment_id: plan.segment_id(segment)?,
        part_tokens: plan.body.options.shard_tokens.saturating_mul(PART_TARGETS),
    };
    let mut train = SplitWriter::new(out, &facts, Split::Train);
    let mut val = SplitWriter::new(out, &facts, Split::Val);
    let mut ids = Vec::new();
    let report = read_segment(root, &plan.body.source.files, segment, &plan.read, ctl, &mut |text| {
        let began = Instant::now();
        ids.clear();
        ids.push(facts.bos);
        encode(text, &mut ids);
        let encoded = Instant::now();
        let split = if is_validation(text.as_bytes(), plan.body.options.val_ppm) { &mut val } else { &mut train };
        let pushed = split.push(&ids, text.len() as u64);
        ctl.tokens.fetch_add(ids.len() as u64, Relaxed);
        ctl.encode_ns.fetch_add((encoded - began).as_nanos() as u64, Relaxed);
        ctl.write_ns.fetch_add(encoded.elapsed().as_nanos() as u64, Relaxed);
        pushed
    })?;
    let began = Instant::now();
    let mut parts = train.finish()?;
    parts.extend(val.finish()?);
    let files = parts.into_iter().map(|part| part.place(out)).collect::<Result<Vec<_>>>()?;
    out.sync()?;
    ctl.write_ns.fetch_add(began.elapsed().as_nanos() as u64, Relaxed);
    let record = record(plan, segment, &facts, report, files);
    out.publish(&record_name(index), &record.to_json()?)?;
    Ok(record)
}

/// Name of the commit record of a segment.
pub fn record_name(index: u32) -> String {
    format!("segment_{index:06}.json")
}

fn record(plan: &Plan, segment: &Segment, facts: &Facts, report: ReadReport, files: Vec<FileRecord>) -> SegmentRecord {
    let ReadReport { rows, null, empty, bad_utf8, bad_files } = report;
    SegmentRecord {
        files,
        format: FORMAT.into(),
        plan: plan.hash.clone(),
        segment: SegmentFacts {
            files: segment.files,
            id: format!("blake3:{}", hex(&facts.segment_id)),
            index: segment.index,
            rows,
            slice: segment.slice,
        },
        skipped: Skipped { bad_files, bad_utf8, empty, null },
        tokenizer: format!("sha256:{}", hex(&facts.tokenizer)),
    }
}

/// What is wanted of [`run_segments`]: which segments are done, and how many training tokens suffice.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// Training tokens of segments that are committed, by index.
    pub done: Vec<(u32, u64)>,
    /// Stop once the leading segments hold this many training tokens; `None`: all.
    pub tokens: Option<u64>,
    /// Brings the files; `None`: they are in place.
    pub supply: Option<&'a dyn Supply>,
}

/// Run every segment that is not done, in order, on `workers` threads. Stops taking new ones once the
/// leading segments hold the tokens wanted. Returns the records made, by index.
///
/// # Errors
/// The first failure; the other workers are stopped, what is committed stays.
pub fn run_segments(
    plan: &Plan,
    root: &Path,
    tokenizer: &Tokenizer,
    out: &OutDir,
    wanted: &Wanted<'_>,
    workers: usize,
    ctl: &Control,
) -> Result<Vec<SegmentRecord>> {
    let mut tokens: Vec<Option<u64>> = vec![None; plan.segments()];
    for &(index, count) in &wanted.done {
        if let Some(place) = tokens.get_mut(index as usize) {
            *place = Some(count);
        }
    }
    let todo: Vec<u32> = (0..).zip(&tokens).filter(|(_, done)| done.is_none()).map(|(index, _)| index).collect();
    ctl.total.store(tokens.len() as u64, Relaxed);
    ctl.done.store((tokens.len() - todo.len()) as u64, Relaxed);
    let work = Mutex::new(Work { tokens, todo: todo.into(), records: Vec::new(), failure: None });
    let lock = || work.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let ended = |work: &Work| work.failure.is_some() || wanted.tokens.is_some_and(|tokens| work.leading() >= tokens);
    let take = || {
        let mut work = lock();
        if ended(&work) { None } else { work.todo.pop_front() }
    };
    let run = |index| {
        if !await_files(wanted.supply, index, ctl, &|| ended(&lock()))? {
            return Ok(None);
        }
        let record = run_segment(plan, index, root, tokenizer, out, ctl)?;
        wanted.supply.map_or(Ok(()), |supply| supply.done(index, record.train_tokens()))?;
        Ok(Some(record))
    };
    let worker = || {
        while let Some(index) = take() {
            let outcome = contained(|| run(index));
            let mut work = lock();
            match outcome {
                Ok(None) => break,
                Ok(Some(record)) => {
                    work.tokens[index as usize] = Some(record.train_tokens());
                    work.records.push(record);
                    ctl.done.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    // The others end with `Cancelled`, which must not hide the cause.
                    work.failure.get_or_insert(error);
                    ctl.cancel();
                }
            }
        }
    };
    on_threads(workers, "shard", worker);
    let Work { mut records, failure, .. } = work.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    records.sort_by_key(|record| record.segment.index);
    failure.map_or(Ok(records), Err)
}

struct Work {
    tokens: Vec<Option<u64>>,
    todo: std::collections::VecDeque<u32>,
    records: Vec<SegmentRecord>,
    failure: Option<Error>,
}

impl Work {
    /// Training tokens of the leading segments that are done.
    fn leading(&self) -> u64 {
        self.tokens.iter().map_while(|tokens| *tokens).sum()
    }
}

fn contained<T>(job: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let what = what.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Error::Panic { what: what.unwrap_or_else(|| "no message".into()) })
    })
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}

/// 32 bytes from their hex.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let bytes: Vec<u8> = digits?.chunks(2).map(|pair| pair.iter().fold(0, |byte, &digit| byte << 4 | digit)).collect();
    (text.len() == 64).then(|| bytes.try_into().ok()).flatten()
}
