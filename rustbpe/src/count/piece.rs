//! Short pieces as numbers.

/// A piece of at most 15 bytes as one number: its bytes from the top, its length in the lowest byte.
/// Numbers sort as the bytes do; 0 is no piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShortPiece(u128);

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
        let kept = !(u128::MAX >> (8 * length));
        Some(Self(u128::from_be_bytes(bytes) & kept | length as u128))
    }

    #[inline(always)]
    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn len(self) -> usize {
        (self.0 & 0xff) as usize
    }

    pub(crate) fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
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
