//! The memory of one batch, handed over by address, and how rows are written into it.
#![allow(unsafe_code)] // memory of tensors that Python owns

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use super::Dataset;
use crate::shard::format::Dtype;
use crate::{Error, Result};

/// The target of a place that teaches nothing.
const IGNORE: i64 = -100;

/// What a batch is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Out {
    /// Inputs int32 (B, T) and targets int64 (B, T), −100 where nothing is to be learned.
    Wide,
    /// Tokens (B, T + 1) as stored, two or four bytes each, and how many of each row are real: int32 (B).
    Stored,
}

impl Out {
    /// # Errors
    /// [`Error::Invalid`] for any name but `i32i64` and `u16`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "i32i64" => Ok(Out::Wide),
            "u16" => Ok(Out::Stored),
            _ => Err(Error::Invalid { what: format!("out {name:?} is neither \"u16\" nor \"i32i64\"") }),
        }
    }
}

/// The form of every batch of a loader.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// What it is made of.
    pub out: Out,
    /// Type of stored tokens; the widest of the sources.
    pub dtype: Dtype,
    /// B: rows.
    pub rows: usize,
    /// T: a row holds T + 1 tokens.
    pub seq_len: usize,
    /// Whether the step from a document to the next is no target.
    pub mask_boundaries: bool,
    /// Places for document boundaries; 0 where they are not asked for.
    pub bounds: usize,
    /// Id that begins every document, and fills what is left of a row.
    pub bos: u32,
}

/// `length` elements from an address.
#[derive(Debug)]
struct Span<T> {
    start: *mut T,
    length: usize,
}

// SAFETY: `Slot::new` promises memory that nothing else uses while a thread fills the slot, so it does
// not matter which thread writes there.
unsafe impl<T: Send> Send for Span<T> {}

impl<T> Span<T> {
    fn at(address: usize, length: usize) -> Result<Self> {
        if address == 0 || !address.is_multiple_of(align_of::<T>()) {
            return Err(Error::Invalid { what: format!("slot address {address:#x} is null or not aligned") });
        }
        Ok(Span { start: address as *mut T, length })
    }

    fn get(&mut self) -> &mut [T] {
        // SAFETY: by the contract of `Slot::new` the memory is valid; `&mut self` makes this the only view.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

#[derive(Debug)]
enum Memory {
    Wide { inputs: Span<i32>, targets: Span<i64> },
    U16 { tokens: Span<u16>, fill: Span<i32> },
    U32 { tokens: Span<u32>, fill: Span<i32> },
}

/// What a thread reads to fill a slot, for who waits for it: the shard and its token, and the data set by its address.
#[derive(Debug, Default)]
pub struct Reading {
    dataset: AtomicUsize,
    place: AtomicU64,
}

impl Reading {
    /// From here on `start` of this shard is read.
    pub fn begin(&self, dataset: &Arc<Dataset>, shard: u32, start: u32) {
        self.dataset.store(Arc::as_ptr(dataset).addr(), Relaxed);
        self.place.store(u64::from(shard) << 32 | u64::from(start), Relaxed);
    }

    /// File and byte of it, if one of `sources` is read.
    pub fn place(&self, sources: &[Arc<Dataset>]) -> Option<(PathBuf, u64)> {
        let (dataset, place) = (self.dataset.load(Relaxed), self.place.load(Relaxed));
        let source = sources.iter().find(|source| Arc::as_ptr(source).addr() == dataset)?;
        Some(source.shard((place >> 32) as u32).byte_of(place as u32))
    }
}

/// Memory for one batch.
#[derive(Debug)]
pub struct Slot {
    form: Form,
    memory: Memory,
    bounds: Option<Span<i32>>,
    /// What is read into it.
    pub reading: Arc<Reading>,
}

impl Slot {
    /// A slot at these addresses: inputs and targets, or tokens and fill, then the boundaries.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address that is null or not aligned.
    ///
    /// # Safety
    /// Each address starts as many writable elements as [`Form`] says. They stay valid until the ring that
    /// owns the slot is closed or dropped, and nobody touches them but while the slot is lent.
    pub unsafe fn new(form: Form, [first, second, bounds]: [usize; 3]) -> Result<Self> {
        let Form { rows, seq_len, .. } = form;
        let tokens = rows * (seq_len + 1);
        let memory = match (form.out, form.dtype) {
            (Out::Wide, _) => {
                Memory::Wide { inputs: Span::at(first, rows * seq_len)?, targets: Span::at(second, rows * seq_len)? }
            }
            (Out::Stored, Dtype::U16) => {
                Memory::U16 { tokens: Span::at(first, tokens)?, fill: Span::at(second, rows)? }
            }
            (Out::Stored, Dtype::U32) => {
                Memory::U32 { tokens: Span::at(first, tokens)?, fill: Span::at(second, rows)? }
            }
        };
        let bounds = (form.bounds > 0).then(|| Span::at(bounds, form.bounds)).transpose()?;
        Ok(Slot { form, memory, bounds, reading: Arc::default() })
    }

    /// Write the rows of a batch: `write` is called for each with its number and where to put its tokens, and
    /// says how many it put there; a row it does not have is 0 tokens.
    ///
    /// # Errors
    /// What `write` returns.
    pub fn fill(&mut self, mut write: impl FnMut(usize, &mut RowWriter<'_, '_>) -> Result<()>) -> Result<()> {
        let form = self.form;
        let all = self.bounds.as_mut().map_or(Default::default(), Span::get);
        let mut bounds = Bounds { all, used: 0, seq_len: form.seq_len };
        match &mut self.memory {
            Memory::Wide { inputs, targets } => {
                let rows =
                    inputs.get().chunks_exact_mut(form.seq_len).zip(targets.get().chunks_exact_mut(form.seq_len));
                for (number, (inputs, targets)) in rows.enumerate() {
                    let mut row = RowWriter { row: Row::Wide { inputs, targets }, at: 0, number, bounds: &mut bounds };
                    write(number, &mut row)?;
                    row.finish(form);
                }
            }
            Memory::U16 { tokens, fill } => {
                let rows = tokens.get().chunks_exact_mut(form.seq_len + 1).zip(fill.get());
                for (number, (tokens, fill)) in rows.enumerate() {
                    let mut row = RowWriter { row: Row::U16(tokens), at: 0, number, bounds: &mut bounds };
                    write(number, &mut row)?;
                    *fill = row.finish(form);
                }
            }
            Memory::U32 { tokens, fill } => {
                let rows = tokens.get().chunks_exact_mut(form.seq_len + 1).zip(fill.get());
                for (number, (tokens, fill)) in rows.enumerate() {
                    let mut row = RowWriter { row: Row::U32(tokens), at: 0, number, bounds: &mut bounds };
                    write(number, &mut row)?;
                    *fill = row.finish(form);
                }
            }
        }
        bounds.finish(form.rows);
        Ok(())
    }
}

/// Ids as they lie in a file.
#[derive(Debug, Clone, Copy)]
pub enum Ids<'a> {
    /// Two bytes each.
    U16(&'a [[u8; 2]]),
    /// Four bytes each.
    U32(&'a [[u8; 4]]),
}

impl<'a> Ids<'a> {
    /// The ids in whole little-endian `bytes`.
    pub fn of(dtype: Dtype, bytes: &'a [u8]) -> Self {
        match dtype {
            Dtype::U16 => Ids::U16(bytes.as_chunks().0),
            Dtype::U32 => Ids::U32(bytes.as_chunks().0),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Ids::U16(ids) => ids.len(),
            Ids::U32(ids) => ids.len(),
        }
    }

    /// The largest.
    pub fn largest(&self) -> Option<u32> {
        match self {
            // Two steps, so that the maximum is taken of 16-bit lanes.
            Ids::U16(ids) => ids.iter().map(|&id| u16::from_le_bytes(id)).max().map(u32::from),
            Ids::U32(ids) => ids.iter().map(|&id| u32::from_le_bytes(id)).max(),
        }
    }
}

#[derive(Debug)]
enum Row<'a> {
    Wide { inputs: &'a mut [i32], targets: &'a mut [i64] },
    U16(&'a mut [u16]),
    U32(&'a mut [u32]),
}

/// One row while it is written, from its first token on.
#[derive(Debug)]
pub struct RowWriter<'a, 'b> {
    row: Row<'a>,
    at: usize,
    number: usize,
    bounds: &'a mut Bounds<'b>,
}

impl RowWriter<'_, '_> {
    /// The next token begins a document, or the rest of one.
    pub fn begin(&mut self) {
        self.bounds.push(self.number, self.at);
    }

    /// The next tokens. All together are at most T + 1.
    pub fn put(&mut self, ids: Ids<'_>) {
        let at = self.at;
        match (&mut self.row, ids) {
            (Row::Wide { inputs, targets }, Ids::U16(ids)) => {
                widen(at, ids, inputs, targets, |id| u32::from(u16::from_le_bytes(id)));
            }
            (Row::Wide { inputs, targets }, Ids::U32(ids)) => widen(at, ids, inputs, targets, u32::from_le_bytes),
            (Row::U16(tokens), Ids::U16(ids)) => copy(&mut tokens[at..], ids, u16::from_le_bytes),
            // A BOS that is not stored; a source of four bytes makes the batch one of four bytes.
            (Row::U16(tokens), Ids::U32(ids)) => copy(&mut tokens[at..], ids, |id| u32::from_le_bytes(id) as u16),
            (Row::U32(tokens), Ids::U16(ids)) => copy(&mut tokens[at..], ids, |id| u16::from_le_bytes(id).into()),
            (Row::U32(tokens), Ids::U32(ids)) => copy(&mut tokens[at..], ids, u32::from_le_bytes),
        }
        self.at += ids.len();
    }

    /// Fill what is left. Returns how many tokens are real.
    fn finish(self, form: Form) -> i32 {
        self.bounds.push(self.number, self.at);
        match self.row {
            Row::Wide { inputs, targets } => {
                inputs[self.at.min(form.seq_len)..].fill(form.bos as i32);
                let (learned, rest) = targets.split_at_mut(self.at.saturating_sub(1));
                rest.fill(IGNORE);
                if form.mask_boundaries {
                    // BOS stands at the start of documents and nowhere else: `shard verify` holds files to it.
                    learned.iter_mut().filter(|id| **id == i64::from(form.bos)).for_each(|id| *id = IGNORE);
                }
            }
            Row::U16(tokens) => tokens[self.at..].fill(form.bos as u16),
            Row::U32(tokens) => tokens[self.at..].fill(form.bos),
        }
        self.at as i32
    }
}

/// Token p goes to `inputs[p]` and `targets[p − 1]`.
fn widen<S: Copy>(at: usize, ids: &[S], inputs: &mut [i32], targets: &mut [i64], widen: impl Fn(S) -> u32) {
    for (input, &id) in inputs.iter_mut().skip(at).zip(ids) {
        *input = widen(id) as i32;
    }
    let first = usize::from(at == 0); // the first token of a row is nobody's target
    for (target, &id) in targets.iter_mut().skip(at + first - 1).zip(&ids[first..]) {
        *target = i64::from(widen(id));
    }
}

fn copy<S: Copy, T>(tokens: &mut [T], ids: &[S], convert: impl Fn(S) -> T) {
    for (token, &id) in tokens[..ids.len()].iter_mut().zip(ids) {
        *token = convert(id);
    }
}

/// Where documents begin among the B·T inputs of a batch, laid end to end: increasing, then B·T to the end.
/// What is left of a row is a document of its own. No document spans rows.
#[derive(Debug)]
struct Bounds<'a> {
    all: &'a mut [i32],
    used: usize,
    seq_len: usize,
}

impl Bounds<'_> {
    fn push(&mut self, row: usize, at: usize) {
        if at < self.seq_len && !self.all.is_empty() {
            self.all[self.used] = (row * self.seq_len + at) as i32;
            self.used += 1;
        }
    }

    fn finish(&mut self, rows: usize) {
        self.all[self.used..].fill((rows * self.seq_len) as i32);
    }
}
