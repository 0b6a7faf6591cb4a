//! Documents of a window → rows of at most R tokens, dropping none.
//!
//! A document longer than a row is cut into pieces. Under [`Packing::BestFit`] every later piece gets
//! a BOS of its own, and pieces go, longest first, to the open row with the smallest room that holds
//! them: O(1) a piece, whatever R is. Under [`Packing::Concat`] documents follow each other and a row
//! ends where it is full.

use crate::{Error, Result};

/// How documents become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Best-fit-decreasing within the window.
    BestFit,
    /// One document after the other; only the last row of a window is padded.
    Concat,
}

impl Packing {
    /// The name users write.
    pub fn name(self) -> &'static str {
        match self {
            Packing::BestFit => "bestfit",
            Packing::Concat => "concat",
        }
    }

    /// The name with the version of the algorithm, as it stands in a loader state.
    pub fn versioned(self) -> &'static str {
        match self {
            Packing::BestFit => "bestfit-1",
            Packing::Concat => "concat-1",
        }
    }

    /// # Errors
    /// [`Error::Invalid`] for any other name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "bestfit" => Ok(Packing::BestFit),
            "concat" => Ok(Packing::Concat),
            _ => Err(Error::Invalid { what: format!("packing {name:?} is neither \"bestfit\" nor \"concat\"") }),
        }
    }
}

/// Documents a row of `seq_len + 1` tokens may hold under best fit; part of the order.
pub fn default_max_documents(seq_len: u32) -> u32 {
    (seq_len / 16).max(16)
}

/// Stored tokens of a document that stand together in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Position of the document in the window.
    pub document: u32,
    /// First stored token, counted in the document.
    pub start: u32,
    /// Stored tokens.
    pub stored: u32,
    /// Whether a BOS that is not stored goes before them.
    pub bos: bool,
}

impl Piece {
    /// Tokens it takes in a row.
    pub fn tokens(&self) -> u32 {
        self.stored + u32::from(self.bos)
    }
}

/// Packed rows: row `i` holds `pieces[ends[i - 1]..ends[i]]`, in the order they were placed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    pieces: Vec<Piece>,
    ends: Vec<u32>,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Pieces of a row.
    pub fn row(&self, row: usize) -> &[Piece] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        &self.pieces[start..self.ends[row] as usize]
    }

    fn concat(lengths: &[u32], row_tokens: u32) -> Self {
        let mut rows = Rows::default();
        let mut room = row_tokens;
        for (document, &length) in (0..).zip(lengths) {
            let mut start = 0;
            while start < length {
                let stored = room.min(length - start);
                rows.pieces.push(Piece { document, start, stored, bos: false });
                start += stored;
                room -= stored;
                if room == 0 {
                    rows.ends.push(rows.pieces.len() as u32);
                    room = row_tokens;
                }
            }
        }
        if room < row_tokens {
            rows.ends.push(rows.pieces.len() as u32);
        }
        rows
    }

    /// `row_of[i]` is the row of `pieces[i]`; keeps the order of pieces within a row.
    fn gather(pieces: &[Piece], row_of: &[u32], rows: usize) -> Self {
        let mut ends = vec![0_u32; rows];
        for &row in row_of {
            ends[row as usize] += 1;
        }
        let mut total = 0;
        for end in &mut ends {
            total += std::mem::replace(end, total);
        }
        let mut placed = pieces.to_vec();
        for (piece, &row) in pieces.iter().zip(row_of) {
            let place = &mut ends[row as usize];
            placed[*place as usize] = *piece;
            *place += 1;
        }
        Rows { pieces: placed, ends }
    }
}

/// Pack documents of these stored lengths into rows of `row_tokens`.
///
/// Every stored token is in exactly one row. `max_documents` bounds the pieces of a best-fit row.
///
/// # Errors
/// [`Error::Invalid`] where a row is shorter than 2 tokens or may hold no document, and where the
/// window makes 2³² pieces or more.
pub fn pack(packing: Packing, lengths: &[u32], row_tokens: u32, max_documents: u32) -> Result<Rows> {
    if row_tokens < 2 || max_documents == 0 {
        let what = format!("rows of {row_tokens} tokens and {max_documents} documents; at least 2 and 1 are needed");
        return Err(Error::Invalid { what });
    }
    // A piece holds a token, and all but the last of a document hold at least R − 1.
    let most: u64 = lengths.iter().map(|&length| u64::from(length / (row_tokens - 1)) + 2).sum();
    if lengths.len() as u64 + most > u64::from(u32::MAX) {
        return Err(Error::Invalid { what: format!("a window of {most} pieces; use a smaller window") });
    }
    Ok(match packing {
        Packing::Concat => Rows::concat(lengths, row_tokens),
        Packing::BestFit => best_fit(&sorted(&cut(lengths, row_tokens), row_tokens), row_tokens, max_documents),
    })
}

/// Documents → pieces of at most `row_tokens`, in document order.
fn cut(lengths: &[u32], row_tokens: u32) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(lengths.len() + lengths.len() / 4);
    for (document, &length) in (0..).zip(lengths) {
        let mut start = 0;
        while start < length {
            let bos = start > 0;
            let stored = (row_tokens - u32::from(bos)).min(length - start);
            pieces.push(Piece { document, start, stored, bos });
            start += stored;
        }
    }
    pieces
}

/// Longest first; equal lengths keep their order (counting sort).
fn sorted(pieces: &[Piece], row_tokens: u32) -> Vec<Piece> {
    let mut places = vec![0_usize; row_tokens as usize + 1];
    for piece in pieces {
        places[piece.tokens() as usize] += 1;
    }
    let mut total = 0;
    for place in places.iter_mut().rev() {
        total += std::mem::replace(place, total);
    }
    let mut sorted = pieces.to_vec();
    for piece in pieces {
        let place = &mut places[piece.tokens() as usize];
        sorted[*place] = *piece;
        *place += 1;
    }
    sorted
}

/// The end of a stack of rows.
const NONE: u32 = u32::MAX;

fn best_fit(pieces: &[Piece], row_tokens: u32, max_documents: u32) -> Rows {
    let mut top = vec![NONE; row_tokens as usize]; // by room: the row that came last
    let mut below: Vec<u32> = Vec::new(); // by row: the one under it in its stack
    let mut held: Vec<u32> = Vec::new(); // by row: pieces in it
    let mut rooms = Levels::new(row_tokens);
    let mut row_of = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let tokens = piece.tokens();
        let (row, room) = match rooms.next(tokens) {
            Some(room) => {
                let row = top[room as usize];
                top[room as usize] = below[row as usize];
                if top[room as usize] == NONE {
                    rooms.clear(room);
                }
                (row, room - tokens)
            }
            None => {
                below.push(NONE);
                held.push(0);
                (held.len() as u32 - 1, row_tokens - tokens)
            }
        };
        held[row as usize] += 1;
        if room > 0 && held[row as usize] < max_documents {
            below[row as usize] = std::mem::replace(&mut top[room as usize], row);
            rooms.set(room);
        }
        row_of.push(row);
    }
    Rows::gather(pieces, &row_of, held.len())
}

/// A set of small integers that finds the next member in a few word operations: level 0 has a bit per
/// member, each level above a bit per non-zero word below.
struct Levels(Vec<Vec<u64>>);

impl Levels {
    fn new(bound: u32) -> Self {
        let mut levels = vec![];
        let mut bits = bound as usize;
        loop {
            bits = bits.div_ceil(64);
            levels.push(vec![0; bits]);
            if bits <= 1 {
                return Levels(levels);
            }
        }
    }

    fn set(&mut self, member: u32) {
        let mut index = member as usize;
        for level in &mut self.0 {
            level[index / 64] |= 1 << (index % 64);
            index /= 64;
        }
    }

    fn clear(&mut self, member: u32) {
        let mut index = member as usize;
        for level in &mut self.0 {
            level[index / 64] &= !(1 << (index % 64));
            if level[index / 64] != 0 {
                return;
            }
            index /= 64;
        }
    }

    /// The smallest member that is not below `from`.
    fn next(&self, from: u32) -> Option<u32> {
        let mut index = from as usize;
        for height in 0..self.0.len() {
            let level = &self.0[height];
            if let Some(&word) = level.get(index / 64) {
                let rest = word >> (index % 64);
                if rest != 0 {
                    index += rest.trailing_zeros() as usize;
                    for lower in self.0[..height].iter().rev() {
                        index = index * 64 + lower[index].trailing_zeros() as usize;
                    }
                    return Some(index as u32);
                }
            }
            index = index / 64 + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// (document, first token, one past the last) of each piece of each row.
    fn spans(rows: &Rows) -> Vec<Vec<(u32, u32, u32)>> {
        let span = |piece: &Piece| (piece.document, piece.start, piece.start + piece.stored);
        (0..rows.len()).map(|row| rows.row(row).iter().map(span).collect()).collect()
    }

    #[test]
    fn the_golden_rows_do_not_drift() {
        let rows = pack(Packing::BestFit, &[3, 9, 2, 7, 4, 20, 1, 5], 8, 16).unwrap();
        let expected: [&[_]; 7] = [
            &[(1, 0, 8)],
            &[(5, 0, 8)],
            &[(5, 8, 15)],
            &[(3, 0, 7), (6, 0, 1)],
            &[(5, 15, 20), (1, 8, 9)],
            &[(7, 0, 5), (0, 0, 3)],
            &[(4, 0, 4), (2, 0, 2)],
        ];
        assert_eq!(spans(&rows), expected);
    }

    #[test]
    fn concatenated_documents_are_cut_where_a_row_is_full() {
        let rows = pack(Packing::Concat, &[3, 9, 2], 8, 1).unwrap();
        assert_eq!(spans(&rows), [vec![(0, 0, 3), (1, 0, 5)], vec![(1, 5, 9), (2, 0, 2)]]);
    }

    #[test]
    fn rows_of_one_token_are_refused() {
        assert!(matches!(pack(Packing::BestFit, &[1], 1, 16), Err(Error::Invalid { .. })));
        assert!(matches!(pack(Packing::BestFit, &[1], 2, 0), Err(Error::Invalid { .. })));
        assert!(matches!(Packing::from_name("crop"), Err(Error::Invalid { .. })));
    }

    proptest! {
        #[test]
        fn every_stored_token_is_in_exactly_one_row(
            lengths in prop::collection::vec(1_u32..400, 0..80),
            row_tokens in 2_u32..130,
            cap in 1_u32..20,
            concat: bool,
        ) {
            let packing = if concat { Packing::Concat } else { Packing::BestFit };
            let rows = pack(packing, &lengths, row_tokens, cap).unwrap();
            let mut seen = BTreeSet::new();
            for row in (0..rows.len()).map(|row| rows.row(row)) {
                prop_assert!(!row.is_empty());
                prop_assert!(row.iter().map(Piece::tokens).sum::<u32>() <= row_tokens);
                prop_assert!(concat || row.len() <= cap as usize);
                for piece in row {
                    prop_assert_eq!(piece.bos, !concat && piece.start > 0);
                    for token in piece.start..piece.start + piece.stored {
                        prop_assert!(seen.insert((piece.document, token)));
                    }
                }
            }
            prop_assert_eq!(seen.len() as u32, lengths.iter().sum::<u32>());
            let ends: Vec<_> = seen.iter().filter(|(d, t)| *t >= lengths[*d as usize]).collect();
            prop_assert!(ends.is_empty());
        }

        #[test]
        fn the_next_member_is_the_smallest_not_below(members in prop::collection::btree_set(0_u32..9000, 0..50), from in 0_u32..9100) {
            let mut levels = Levels::new(9000);
            for extra in 0..300 {
                levels.set(extra * 29);
            }
            for &member in &members {
                levels.set(member);
            }
            for extra in (0..300).map(|i| i * 29).filter(|extra| !members.contains(extra)) {
                levels.clear(extra);
            }
            prop_assert_eq!(levels.next(from), members.range(from..).next().copied());
        }
    }
}
