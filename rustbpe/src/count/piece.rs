//! Short pieces as numbers.

/// A piece of at most 15 bytes as one number: its bytes from the bottom, its length in the highest byte.
/// It compares as the bytes do; 0 is no piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShortPiece(u128);

/// The bytes that count, by length.
const KEPT: [u128; 16] = {
    let (mut kept, mut length) = ([0; 16], 1);
    while length < 16 {
        kept[length] = u128::MAX >> (128 - 8 * length);
        length += 1;
    }
    kept
};

impl Ord for ShortPiece {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.swap_bytes().cmp(&other.0.swap_bytes())
    }
}

impl PartialOrd for ShortPiece {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl ShortPiece {
    /// `text[start..end]`, or `None` if it is longer than 15 bytes. Reads 16 bytes at once where there are as many.
    #[inline(always)]
    pub(crate) fn new(text: &[u8], start: usize, end: usize) -> Option<Self> {
        let length = end - start;
        if length > 15 {
            return None;
        }
        let bytes = match text.get(start..start + 16).and_then(|window| <[u8; 16]>::try_from(window).ok()) {
            Some(window) => window,
            None => {
                let mut window = [0; 16];
                window[..length].copy_from_slice(&text[start..end]);
                window
            }
        };
        Some(Self(u128::from_le_bytes(bytes) & KEPT[length] | (length as u128) << 120))
    }

    #[inline(always)]
    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn len(self) -> usize {
        (self.0 >> 120) as usize
    }

    pub(crate) fn bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// 64 well-mixed bits; take the high ones.
    #[inline(always)]
    pub(crate) fn hash(self) -> u64 {
        // Two odd constants (digits of π and e) keep either half from cancelling the other.
        let high = (self.0 >> 64) as u64 ^ 0x243f_6a88_85a3_08d3;
        let low = self.0 as u64 ^ 0xb7e1_5162_8aed_2a6b;
        let product = u128::from(high) * u128::from(low);
        ((product >> 64) as u64 ^ product as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
