//! Several sources → one stream of rows, in exact shares.

use crate::order::{Key, Tag};
use crate::{Error, Result};

/// Rows in which the shares of a mixture hold exactly.
pub const BLOCK_ROWS: u64 = 4096;

/// Which source the rows of a block come from. Rows are mixed, so shares are shares of tokens.
#[derive(Debug, Clone)]
pub struct Mix {
    shares: Vec<u64>,
    key: Key,
    block: Option<(u64, Vec<u32>)>,
}

impl Mix {
    /// A mixture by `weights` of sources with these fingerprints.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a weight is 0 or gives a source no row of [`BLOCK_ROWS`].
    pub fn new(weights: &[u64], fingerprints: &[[u8; 32]], seed: u64) -> Result<Self> {
        let shares = shares(weights);
        if let Some(source) = (0..weights.len()).find(|&source| weights[source] == 0 || shares[source] == 0) {
            let what = format!("weight {} of {weights:?} gives its source no row of {BLOCK_ROWS}", weights[source]);
            return Err(Error::Invalid { what });
        }
        let fingerprint = blake3::hash(&fingerprints.concat()).into();
        Ok(Mix { shares, key: Key { fingerprint, seed, source: 0 }, block: None })
    }

    /// By source: rows of every block.
    pub fn shares(&self) -> &[u64] {
        &self.shares
    }

    /// The source of a row, and how many rows from it on, at most `most`, come from the same.
    ///
    /// # Errors
    /// Never for a block that can be reached.
    pub fn next(&mut self, block: u64, in_block: u64, most: u64) -> Result<(usize, u64)> {
        if self.shares.len() == 1 {
            return Ok((0, most));
        }
        let sources = match self.block.take() {
            Some((number, sources)) if number == block => sources,
            _ => {
                let order = self.key.permutation(0, Tag::Blocks, block, BLOCK_ROWS)?;
                let dealt: Vec<u32> =
                    (0..).zip(&self.shares).flat_map(|(source, &share)| (0..share).map(move |_| source)).collect();
                (0..BLOCK_ROWS).map(|place| dealt[order.at(place) as usize]).collect()
            }
        };
        let rest = &sources[in_block as usize..];
        let run = rest.iter().take(most as usize).take_while(|&&source| source == rest[0]).count() as u64;
        let source = rest[0] as usize;
        self.block = Some((block, sources));
        Ok((source, run))
    }

    /// The place `rows` rows of one run later.
    pub fn after(&self, block: u64, in_block: u64, rows: u64) -> (u64, u64) {
        match in_block + rows {
            _ if self.shares.len() == 1 => (0, 0),
            BLOCK_ROWS => (block + 1, 0),
            place => (block, place),
        }
    }
}

/// Whole rows of a block by largest remainder; the earlier source wins a tie.
fn shares(weights: &[u64]) -> Vec<u64> {
    let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum::<u128>().max(1);
    let exact = |weight: u64| u128::from(weight) * u128::from(BLOCK_ROWS);
    let mut shares: Vec<u64> = weights.iter().map(|&weight| (exact(weight) / total) as u64).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&source| std::cmp::Reverse(exact(weights[source]) % total));
    let left = BLOCK_ROWS - shares.iter().sum::<u64>();
    order.into_iter().take(left as usize).for_each(|source| shares[source] += 1);
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_fill_a_block_and_are_within_a_row_of_the_weights(weights in prop::collection::vec(1_u64..1 << 40, 1..9)) {
            let shares = shares(&weights);
            prop_assert_eq!(shares.iter().sum::<u64>(), BLOCK_ROWS);
            let total: f64 = weights.iter().map(|&weight| weight as f64).sum();
            for (&weight, &share) in weights.iter().zip(&shares) {
                prop_assert!((weight as f64 / total * BLOCK_ROWS as f64 - share as f64).abs() < 1.0 + 1e-6);
            }
        }

        #[test]
        fn every_block_holds_the_shares_exactly_however_it_is_cut(weights in prop::collection::vec(1_u64..50, 2..5), seed: u64, most in 1_u64..100) {
            let mut mix = Mix::new(&weights, &vec![[7; 32]; weights.len()], seed).unwrap();
            let mut counts = vec![vec![0; weights.len()]; 2];
            let (mut block, mut in_block) = (0, 0);
            while block < 2 {
                let (source, run) = mix.next(block, in_block, most).unwrap();
                prop_assert!((1..=most).contains(&run));
                counts[block as usize][source] += run;
                (block, in_block) = mix.after(block, in_block, run);
            }
            prop_assert_eq!(&counts[0], mix.shares());
            prop_assert_eq!(&counts[1], mix.shares());
        }
    }

    #[test]
    fn a_source_without_a_row_is_refused() {
        let refused = |weights: &[u64]| Mix::new(weights, &vec![[0; 32]; weights.len()], 0).is_err();
        assert!(refused(&[0]) && refused(&[1, 0]) && refused(&[1, 1 << 20]) && refused(&[0, 0]));
        assert!(!refused(&[1, 4095]));
    }
}
