//! Many documents at once over threads, and one huge document too: it is cut where no piece can cross.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::encode::{Cache, Encoder, Id, Tokenizer};
use crate::split::safe_cut;
use crate::threads::on_threads;
use crate::{Control, Error, Result};

/// What one thread takes at a time, bytes.
const TURN: usize = 1 << 18;

/// Caches that finished calls left behind. Share one between all calls with one tokenizer, and no other.
#[derive(Debug, Default)]
pub struct Caches(Mutex<Vec<Cache>>);

impl Caches {
    /// Run `job` with an encoder that goes on with such a cache.
    pub fn with<T>(&self, tokenizer: &Tokenizer, job: impl FnOnce(&mut Encoder<'_>) -> T) -> T {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut encoder = tokenizer.encoder_with(left.unwrap_or_else(|| tokenizer.cache()));
        let value = job(&mut encoder);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(encoder.into_cache());
        value
    }
}

/// Ids of many texts: `parts` joined, of which text i has `offsets[i]..offsets[i + 1]`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Encoded<I> {
    /// Ids in order.
    pub parts: Vec<Vec<I>>,
    /// Where each text's ids start, and the last one's end.
    pub offsets: Vec<u64>,
}

/// A stretch of a text.
struct Part {
    text: usize,
    from: usize,
    to: usize,
}

/// Encode `texts` on `workers` threads; the result is that of one thread.
///
/// # Errors
/// [`Error::Invalid`] if the vocabulary holds ids that `I` does not, [`Error::Cancelled`].
pub fn encode<I: Id, T: AsRef<[u8]> + Sync>(
    tokenizer: &Tokenizer,
    caches: &Caches,
    texts: &[T],
    workers: usize,
    ctl: &Control,
) -> Result<Encoded<I>> {
    if tokenizer.vocab().len() > I::COUNT {
        let what = format!("{} ordinary tokens; ids of {} bytes end before", tokenizer.vocab().len(), size_of::<I>());
        return Err(Error::Invalid { what });
    }
    let turns = turns(texts);
    let made: Vec<OnceLock<(Vec<I>, Vec<usize>)>> = turns.iter().map(|_| OnceLock::new()).collect();
    let taken = AtomicUsize::new(0);
    let work = || {
        caches.with(tokenizer, |encoder| {
            while let (turn, false) = (taken.fetch_add(1, Relaxed), ctl.is_cancelled()) {
                let Some(parts) = turns.get(turn) else { break };
                let bytes = parts.iter().map(|part| part.to - part.from).sum::<usize>();
                let (mut ids, mut ends) = (Vec::with_capacity(bytes / 3), Vec::with_capacity(parts.len()));
                for part in parts {
                    encoder.encode_as(&texts[part.text].as_ref()[part.from..part.to], &mut ids);
                    ends.push(ids.len());
                }
                let _ = made[turn].set((ids, ends)); // each turn is taken once
            }
        });
    };
    on_threads(workers.clamp(1, turns.len().max(1)), "encode", work);
    ctl.check()?;
    let mut encoded = Encoded { parts: Vec::with_capacity(turns.len()), offsets: vec![0; texts.len() + 1] };
    let mut before = 0;
    for ((ids, ends), parts) in made.into_iter().filter_map(OnceLock::into_inner).zip(turns) {
        for (end, part) in ends.into_iter().zip(parts) {
            encoded.offsets[part.text + 1] = (before + end) as u64;
        }
        before += ids.len();
        encoded.parts.push(ids);
    }
    Ok(encoded)
}

/// Threads to use where nobody said.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Stretches in order, grouped to about [`TURN`] bytes; a text of more than two turns is cut where it is safe.
fn turns<T: AsRef<[u8]>>(texts: &[T]) -> Vec<Vec<Part>> {
    let (mut turns, mut turn, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (text, whole) in texts.iter().enumerate() {
        let whole = whole.as_ref();
        let mut from = 0;
        loop {
            let rest = whole.len() - from;
            let cut = if rest > 2 * TURN { safe_cut(whole, from + TURN) } else { None };
            let to = cut.unwrap_or(whole.len());
            turn.push(Part { text, from, to });
            bytes += to - from;
            if bytes >= TURN {
                turns.push(std::mem::take(&mut turn));
                bytes = 0;
            }
            from = to;
            if from == whole.len() {
                break;
            }
        }
    }
    if !turn.is_empty() {
        turns.push(turn);
    }
    turns
}
