//! Windows of documents → rows, and which rows are whose.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::dataset::{Dataset, Place};
use super::mix::Mix;
use super::state::Cursor;
use crate::order::{Key, Permutation, Tag};
use crate::pack::{Packing, Piece, Rows, pack};
use crate::{Error, Result};

/// In which order documents and rows come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    /// A new permutation of all documents each epoch, and of the rows of each window.
    Global,
    /// The same, but so many neighbouring documents stay together: for disks that seek slowly.
    Block(u64),
    /// Documents as stored; a row comes where the first document placed in it stands.
    None,
}

impl Shuffle {
    /// The name users write.
    pub fn name(self) -> String {
        match self {
            Shuffle::Global => "global".into(),
            Shuffle::Block(size) => format!("block:{size}"),
            Shuffle::None => "none".into(),
        }
    }

    /// # Errors
    /// [`Error::Invalid`] for any other name.
    pub fn from_name(name: &str) -> Result<Self> {
        let size = |text: &str| text.parse().ok().filter(|size: &u64| (1..1 << 31).contains(size));
        match (name, name.strip_prefix("block:").and_then(size)) {
            ("global", _) => Ok(Shuffle::Global),
            ("none", _) => Ok(Shuffle::None),
            (_, Some(size)) => Ok(Shuffle::Block(size)),
            _ => {
                let what = format!("shuffle {name:?} is not \"global\", \"none\" or \"block:K\" with K documents");
                Err(Error::Invalid { what })
            }
        }
    }
}

/// All that the order of rows depends on, besides the data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Seed of the order.
    pub seed: u64,
    /// T: a row holds T + 1 tokens.
    pub seq_len: u32,
    /// Documents packed together.
    pub window: u64,
    /// How they are packed.
    pub packing: Packing,
    /// Pieces a best-fit row may hold.
    pub max_documents: u32,
    /// How they are ordered.
    pub shuffle: Shuffle,
}

/// A packed window of an epoch.
#[derive(Debug)]
pub struct Window {
    /// Whose documents they are.
    pub dataset: Arc<Dataset>,
    /// By position in the window: where the document lies.
    places: Vec<Place>,
    rows: Rows,
    /// By place in the stream: the packed row.
    order: Vec<u32>,
    /// By place in the stream, one longer than `order`: stored tokens of the rows before.
    stored: Vec<u64>,
}

impl Window {
    /// Number of rows; at least one.
    pub fn len(&self) -> u64 {
        self.order.len() as u64
    }

    /// Pieces of the row at a place of the stream, each with the place of its document.
    pub fn row(&self, row: u64) -> impl Iterator<Item = (&Piece, Place)> {
        let pieces = self.rows.row(self.order[row as usize] as usize);
        pieces.iter().map(|piece| (piece, self.places[piece.document as usize]))
    }

    fn stored(&self, from: u64, to: u64) -> u64 {
        self.stored[to as usize] - self.stored[from as usize]
    }
}

/// Makes windows, any of them, in any order.
#[derive(Debug)]
pub struct Planner {
    dataset: Arc<Dataset>,
    recipe: Recipe,
    key: Key,
    documents: Option<(u64, Permutation)>,
}

impl Planner {
    /// A planner for one data set, which is number `source` of a mixture or 0 alone.
    pub fn new(dataset: Arc<Dataset>, recipe: Recipe, source: u32) -> Self {
        let key = Key { fingerprint: dataset.fingerprint, seed: recipe.seed, source };
        Planner { dataset, recipe, key, documents: None }
    }

    /// Windows of an epoch.
    pub fn windows(&self) -> u64 {
        self.dataset.documents.div_ceil(self.recipe.window)
    }

    /// Plan one window.
    ///
    /// # Errors
    /// As [`Dataset::place`] and [`pack`].
    pub fn plan(&mut self, epoch: u64, window: u64) -> Result<Window> {
        let total = self.dataset.documents;
        let first = window * self.recipe.window;
        let last = total.min(first + self.recipe.window);
        let documents = match self.documents.take() {
            Some((of, documents)) if of == epoch => documents,
            _ => self.documents_of(epoch)?,
        };
        let mut scratch = vec![];
        let places: Vec<Place> =
            (first..last).map(|place| self.dataset.place(documents.at(place), &mut scratch)).collect::<Result<_>>()?;
        self.documents = Some((epoch, documents));
        let lengths: Vec<u32> = places.iter().map(|place| place.length).collect();
        let rows = pack(self.recipe.packing, &lengths, self.recipe.seq_len + 1, self.recipe.max_documents)?;
        let order = self.order_of(&rows, epoch, window)?;
        let mut stored = Vec::with_capacity(order.len() + 1);
        let mut sum = 0;
        stored.push(0);
        for &row in &order {
            sum += rows.row(row as usize).iter().map(|piece| u64::from(piece.stored)).sum::<u64>();
            stored.push(sum);
        }
        Ok(Window { dataset: self.dataset.clone(), places, rows, order, stored })
    }

    fn documents_of(&self, epoch: u64) -> Result<Permutation> {
        let total = self.dataset.documents;
        Ok(match self.recipe.shuffle {
            Shuffle::Global => self.key.permutation(epoch, Tag::Documents, 0, total)?,
            Shuffle::Block(size) => {
                Permutation::of_blocks(self.key.permutation(epoch, Tag::Documents, 0, total / size)?, size, total)
            }
            Shuffle::None => Permutation::identity(total),
        })
    }

    fn order_of(&self, rows: &Rows, epoch: u64, window: u64) -> Result<Vec<u32>> {
        let count = rows.len() as u64;
        match self.recipe.shuffle {
            Shuffle::Global | Shuffle::Block(_) => {
                let order = self.key.permutation(epoch, Tag::Rows, window, count)?;
                Ok((0..count).map(|place| order.at(place) as u32).collect())
            }
            Shuffle::None => {
                let mut order: Vec<u32> = (0..rows.len() as u32).collect();
                order.sort_by_key(|&row| rows.row(row as usize).first().map(|piece| (piece.document, piece.start)));
                Ok(order)
            }
        }
    }
}

/// Who takes which rows of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// B: rows of a batch.
    pub batch_size: u64,
    /// G: rows of a step, over all ranks.
    pub rows_per_step: u64,
    /// k: this rank.
    pub rank: u64,
    /// n: number of ranks.
    pub world_size: u64,
}

impl Shape {
    /// A: batches of a step, for each rank.
    pub fn micro_steps(&self) -> u64 {
        self.rows_per_step.div_ceil(self.rows_per_round())
    }

    fn rows_per_round(&self) -> u64 {
        self.world_size * self.batch_size
    }
}

/// How far the stream was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// By source: its next row.
    pub cursors: Vec<Cursor>,
    /// Block of the mixture, and rows of it that were handed out; 0 for a single source.
    pub block: u64,
    /// See `block`.
    pub in_block: u64,
    /// Rows handed out.
    pub rows: u64,
    /// Stored tokens in them.
    pub stored_tokens: u64,
}

impl Progress {
    /// The first row of all.
    pub fn start(sources: usize) -> Self {
        Progress { cursors: vec![Cursor::default(); sources], block: 0, in_block: 0, rows: 0, stored_tokens: 0 }
    }
}

/// The rows of one batch; slots beyond them are masked.
#[derive(Debug)]
pub struct Job {
    /// Window and row, at most B of them.
    pub rows: Vec<(Arc<Window>, u64)>,
    /// Where all ranks stand after this batch.
    pub after: Progress,
}

/// The windows of one source, as they come from its planner, beginning with that of its cursor.
#[derive(Debug)]
pub struct Windows {
    planned: Receiver<Result<Window>>,
    per_epoch: u64,
    current: Option<Arc<Window>>,
}

impl Windows {
    /// What a planner sends.
    pub fn new(planned: Receiver<Result<Window>>, per_epoch: u64) -> Self {
        Windows { planned, per_epoch, current: None }
    }

    /// The window of the cursor.
    fn at(&mut self, cursor: Cursor) -> Result<Option<Arc<Window>>> {
        if self.current.is_none() {
            let Ok(window) = self.planned.recv() else { return Ok(None) };
            let window = window?;
            if cursor.row >= window.len() {
                let (saved, found) = (cursor.row.to_string(), format!("below {}", window.len()));
                return Err(Error::LoaderState { field: "row", saved, found });
            }
            self.current = Some(Arc::new(window));
        }
        Ok(self.current.clone())
    }

    /// Where `cursor` stands `rows` rows of `window` later.
    fn after(&mut self, cursor: Cursor, window: &Window, rows: u64) -> Cursor {
        let row = cursor.row + rows;
        if row < window.len() {
            return Cursor { row, ..cursor };
        }
        self.current = None;
        match cursor.window + 1 {
            next if next == self.per_epoch => Cursor { epoch: cursor.epoch + 1, window: 0, row: 0 },
            next => Cursor { epoch: cursor.epoch, window: next, row: 0 },
        }
    }
}

/// Deals the rows of the stream to the batches of one rank.
#[derive(Debug)]
pub struct Dealer {
    sources: Vec<Windows>,
    mix: Mix,
    shape: Shape,
    at: Progress,
    micro_step: u64,
}

impl Dealer {
    /// A dealer that starts a step at `at`.
    pub fn new(sources: Vec<Windows>, mix: Mix, shape: Shape, at: Progress) -> Self {
        Dealer { sources, mix, shape, at, micro_step: 0 }
    }

    /// The next batch of this rank; `None` where a step would start past the last row.
    ///
    /// # Errors
    /// What a planner met; [`Error::LoaderState`] where the cursor points at no row.
    pub fn deal(&mut self) -> Result<Option<Job>> {
        let shape = self.shape;
        let first = self.micro_step * shape.rows_per_round();
        let count = shape.rows_per_round().min(shape.rows_per_step - first);
        let mine = shape.rank * shape.batch_size..((shape.rank + 1) * shape.batch_size).min(count);
        let mut rows = Vec::with_capacity(shape.batch_size as usize);
        let mut done = 0;
        while done < count {
            let (source, run) = self.mix.next(self.at.block, self.at.in_block, count - done)?;
            let cursor = self.at.cursors[source];
            let Some(window) = self.sources[source].at(cursor)? else { break };
            let taken = run.min(window.len() - cursor.row);
            for place in mine.start.max(done)..mine.end.min(done + taken) {
                rows.push((window.clone(), cursor.row + place - done));
            }
            self.at.rows += taken;
            self.at.stored_tokens += window.stored(cursor.row, cursor.row + taken);
            self.at.cursors[source] = self.sources[source].after(cursor, &window, taken);
            (self.at.block, self.at.in_block) = self.mix.after(self.at.block, self.at.in_block, taken);
            done += taken;
        }
        if done == 0 && self.micro_step == 0 {
            return Ok(None);
        }
        self.micro_step = (self.micro_step + 1) % shape.micro_steps();
        Ok(Some(Job { rows, after: self.at.clone() }))
    }
}
