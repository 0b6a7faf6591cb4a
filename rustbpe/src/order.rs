//! Keyed permutations: which document, row or block comes at a place of an epoch.
//!
//! A permutation is a pure function of (fingerprint, seed, source, epoch, tag, window) and of the
//! number of things permuted, on every machine. Nothing is stored and nothing is exchanged.

use crate::{Error, Result};

/// Version 1 of the order; a change of any permutation changes this text.
const DOMAIN: &[u8; 16] = b"picollm-order/1\0";
/// Up to here a shuffled table is kept; from here on a cipher on the index, which needs no memory.
const TABLE_LIMIT: u64 = 65_536;
/// Feistel rounds: even ones change the left half, odd ones the right half.
const ROUNDS: usize = 6;

/// What is being permuted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// Documents of a source within an epoch.
    Documents = 0,
    /// Rows of a packed window.
    Rows = 1,
    /// Rows of a block of a mixture.
    Blocks = 2,
}

/// The key of a source's orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Fingerprint of the data set.
    pub fingerprint: [u8; 32],
    /// Seed of the run.
    pub seed: u64,
    /// Index of the source in a mixture; 0 alone.
    pub source: u32,
}

impl Key {
    /// The permutation of `0..n` for one epoch, tag and window (0 where there are no windows).
    ///
    /// # Errors
    /// [`Error::Invalid`] where `n` is above 2⁶².
    pub fn permutation(&self, epoch: u64, tag: Tag, window: u64, n: u64) -> Result<Permutation> {
        if n > 1 << 62 {
            return Err(Error::Invalid { what: format!("{n} things to permute; at most 2^62 can be") });
        }
        let mut words = Words::new(self, epoch, tag, window);
        Ok(if n < TABLE_LIMIT { Permutation::table(n, &mut words) } else { Permutation::cipher(n, &mut words) })
    }
}

/// The stream of random words behind a permutation: blake3 in XOF mode, little-endian.
struct Words(blake3::OutputReader);

impl Words {
    fn new(key: &Key, epoch: u64, tag: Tag, window: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN).update(&key.fingerprint);
        hasher.update(&key.seed.to_le_bytes()).update(&key.source.to_le_bytes());
        hasher.update(&epoch.to_le_bytes()).update(&(tag as u32).to_le_bytes()).update(&window.to_le_bytes());
        Words(hasher.finalize_xof())
    }

    fn next(&mut self) -> u64 {
        let mut word = [0; 8];
        self.0.fill(&mut word);
        u64::from_le_bytes(word)
    }

    /// Uniform in `0..bound` by rejection; `bound > 0`.
    fn below(&mut self, bound: u64) -> u64 {
        let bound_wide = u128::from(bound);
        let limit = (1_u128 << 64) / bound_wide * bound_wide;
        loop {
            let word = self.next();
            if u128::from(word) < limit {
                return word % bound;
            }
        }
    }
}

/// A bijection of `0..len`.
#[derive(Debug, Clone)]
pub struct Permutation(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Same(u64),
    Table(Vec<u16>),
    Cipher(Feistel),
    Blocks { order: Box<Permutation>, size: u64, n: u64 },
}

impl Permutation {
    /// The permutation that changes nothing.
    pub fn identity(n: u64) -> Self {
        Permutation(Kind::Same(n))
    }

    /// `n` things that stay together in blocks of `size`; what fills no block stays last.
    ///
    /// # Panics
    /// Where `order` is not of `n / size` blocks.
    pub fn of_blocks(order: Permutation, size: u64, n: u64) -> Self {
        assert!(order.len() == n / size, "{} blocks of {size} for {n} things", order.len());
        Permutation(Kind::Blocks { order: Box::new(order), size, n })
    }

    /// Fisher and Yates, from the last place down.
    fn table(n: u64, words: &mut Words) -> Self {
        let mut table: Vec<u16> = (0..n).map(|i| i as u16).collect();
        for i in (1..n).rev() {
            table.swap(i as usize, words.below(i + 1) as usize);
        }
        Permutation(Kind::Table(table))
    }

    fn cipher(n: u64, words: &mut Words) -> Self {
        let bits = u64::BITS - (n - 1).leading_zeros();
        let left = bits / 2;
        Permutation(Kind::Cipher(Feistel {
            n,
            right_bits: bits - left,
            left_mask: (1 << left) - 1,
            right_mask: (1 << (bits - left)) - 1,
            keys: std::array::from_fn(|_| words.next()),
        }))
    }

    /// How many things are permuted.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Kind::Same(n) | Kind::Blocks { n, .. } => *n,
            Kind::Table(table) => table.len() as u64,
            Kind::Cipher(feistel) => feistel.n,
        }
    }

    /// Whether there is nothing to permute.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The thing at place `index`.
    ///
    /// # Panics
    /// Where `index` is not below [`Permutation::len`].
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.len(), "place {index} of {}", self.len());
        match &self.0 {
            Kind::Same(_) => index,
            Kind::Table(table) => u64::from(table[index as usize]),
            Kind::Cipher(feistel) => feistel.at(index),
            Kind::Blocks { order, size, .. } if index / size < order.len() => {
                order.at(index / size) * size + index % size
            }
            Kind::Blocks { .. } => index,
        }
    }
}

/// A cipher on the smallest power of two that holds `n`, walked until it lands below `n`
/// (Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002): under two walks expected.
#[derive(Debug, Clone)]
struct Feistel {
    n: u64,
    right_bits: u32,
    left_mask: u64,
    right_mask: u64,
    keys: [u64; ROUNDS],
}

impl Feistel {
    fn at(&self, index: u64) -> u64 {
        let mut value = index;
        loop {
            let (mut left, mut right) = (value >> self.right_bits, value & self.right_mask);
            for pair in self.keys.chunks_exact(2) {
                left ^= mix(right.wrapping_add(pair[0])) & self.left_mask;
                right ^= mix(left.wrapping_add(pair[1])) & self.right_mask;
            }
            value = left << self.right_bits | right;
            if value < self.n {
                return value;
            }
        }
    }
}

/// The 64-bit finalizer of MurmurHash3.
fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^= word >> 33;
    word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZERO: Key = Key { fingerprint: [0; 32], seed: 0, source: 0 };

    fn documents(epoch: u64, n: u64, places: u64) -> Vec<u64> {
        let order = ZERO.permutation(epoch, Tag::Documents, 0, n).unwrap();
        (0..places).map(|i| order.at(i)).collect()
    }

    fn is_a_bijection(order: &Permutation) -> bool {
        let mut seen = vec![false; order.len() as usize];
        (0..order.len()).all(|i| !std::mem::replace(&mut seen[order.at(i) as usize], true))
    }

    #[test]
    fn the_golden_orders_do_not_drift() {
        assert_eq!(documents(0, 8, 8), [4, 5, 7, 6, 1, 2, 0, 3]);
        assert_eq!(documents(1, 8, 8), [0, 7, 4, 3, 6, 1, 2, 5]);
        assert_eq!(documents(0, 1_000_000, 6), [250_307, 228_723, 688_430, 757_937, 321_162, 967_540]);
    }

    #[test]
    fn every_small_size_is_a_bijection() {
        for n in 0..=4096 {
            assert!(is_a_bijection(&ZERO.permutation(0, Tag::Rows, n, n).unwrap()), "n = {n}");
        }
    }

    #[test]
    fn sizes_around_the_switch_of_method_are_bijections() {
        for n in [65_534, 65_535, 65_536, 65_537, 65_538, 131_071, 131_072, 131_073, 200_000] {
            assert!(is_a_bijection(&ZERO.permutation(3, Tag::Documents, 0, n).unwrap()), "n = {n}");
        }
    }

    #[test]
    fn blocks_move_whole_and_the_rest_stays_last() {
        for (n, size) in [(0, 3), (2, 3), (3, 3), (1000, 7), (70_000, 1), (200_000, 3)] {
            let order = ZERO.permutation(0, Tag::Documents, 0, n / size).unwrap();
            let blocks = Permutation::of_blocks(order, size, n);
            assert!(is_a_bijection(&blocks), "{n} in blocks of {size}");
            assert!((0..n / size * size).filter(|i| i % size > 0).all(|i| blocks.at(i) == blocks.at(i - 1) + 1));
            assert!((n / size * size..n).all(|i| blocks.at(i) == i));
        }
    }

    #[test]
    fn first_differences_look_uniform() {
        // χ² over 64 bins of (π(i+1) − π(i)) mod n has 63 degrees of freedom: above 130 has p < 1e-6.
        for n in [60_000_u64, 1_000_003] {
            let order = ZERO.permutation(0, Tag::Documents, 0, n).unwrap();
            let draws = 50_000;
            let mut bins = [0_f64; 64];
            for i in 0..draws {
                let step = (order.at(i + 1) + n - order.at(i)) % n;
                bins[(u128::from(step) * 64 / u128::from(n)) as usize] += 1.0;
            }
            let expected = draws as f64 / 64.0;
            let chi2: f64 = bins.iter().map(|seen| (seen - expected).powi(2) / expected).sum();
            assert!(chi2 < 130.0, "n = {n}: {chi2}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn large_sizes_stay_inside_and_never_repeat(n in 65_536_u64..1 << 40, seed: u64, start: u64) {
            let order = Key { seed, ..ZERO }.permutation(0, Tag::Documents, 0, n).unwrap();
            let mut seen = std::collections::HashSet::new();
            for i in 0..500 {
                let value = order.at((start % n + i) % n);
                prop_assert!(value < n);
                prop_assert!(seen.insert(value));
            }
        }

        #[test]
        fn every_part_of_the_key_changes_the_order(seed in 1_u64.., source in 1_u32.., epoch in 1_u64.., window in 1_u64..) {
            let of = |key: Key, epoch, tag, window| {
                let order = key.permutation(epoch, tag, window, 1000).unwrap();
                (0..1000).map(|i| order.at(i)).collect::<Vec<_>>()
            };
            let plain = of(ZERO, 0, Tag::Documents, 0);
            prop_assert_ne!(&plain, &of(Key { seed, ..ZERO }, 0, Tag::Documents, 0));
            prop_assert_ne!(&plain, &of(Key { source, ..ZERO }, 0, Tag::Documents, 0));
            prop_assert_ne!(&plain, &of(Key { fingerprint: [1; 32], ..ZERO }, 0, Tag::Documents, 0));
            prop_assert_ne!(&plain, &of(ZERO, epoch, Tag::Documents, 0));
            prop_assert_ne!(&plain, &of(ZERO, 0, Tag::Rows, 0));
            prop_assert_ne!(&plain, &of(ZERO, 0, Tag::Documents, window));
        }
    }
}
