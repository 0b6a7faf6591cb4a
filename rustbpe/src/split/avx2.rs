//! The vector code of the splitter. The only `unsafe` here is two loads from an array of their size.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi8, _mm256_cmpeq_epi8, _mm256_cmpgt_epi8, _mm256_loadu_si256, _mm256_movemask_epi8,
    _mm256_or_si256, _mm256_set1_epi8,
};

use super::Sink;
use super::window::{Masks, Starts, WINDOW};

/// Hands out pieces from `text`, which is UTF-8, while a whole window is left; where it stopped.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn split<'t, S: Starts>(
    text: &'t [u8],
    plain: &impl Fn(&[u8], usize) -> usize,
    each: &mut impl Sink<'t>,
) -> usize {
    let mut start = 0;
    while let Some(window) = text[start..].first_chunk::<WINDOW>() {
        let mut starts = S::starts(masks(window), text, start);
        let mut from = start;
        if starts == 0 {
            from = plain(text, start);
            apart(text, start, from, each);
        }
        while starts != 0 {
            let end = start + starts.trailing_zeros() as usize;
            starts &= starts - 1;
            each.piece(text, from, end);
            from = end;
        }
        start = from;
    }
    start
}

/// One place where `each` is inlined is enough.
#[inline(never)]
fn apart<'t>(text: &'t [u8], start: usize, end: usize, each: &mut impl Sink<'t>) {
    each.piece(text, start, end);
}

/// [`Masks`] of the window.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn masks(window: &[u8; WINDOW]) -> Masks {
    let (low, high) = window.split_at(32);
    // SAFETY: both halves are 32 bytes long, and the load asks for no alignment.
    let halves = unsafe { [_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())] };
    let [low, high] = halves.map(|half| half_masks(half));
    let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    let mut joined = [0; 8];
    for (both, (low, high)) in joined.iter_mut().zip(low.into_iter().zip(high)) {
        *both = join(low, high);
    }
    let [letter, number, space, line, blank, apostrophe, wide, follows] = joined;
    Masks { letter, number, space, line, blank, apostrophe, wide, follows }
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn half_masks(bytes: __m256i) -> [u32; 8] {
    let all = |byte: i8| _mm256_set1_epi8(byte);
    let bits = |mask: __m256i| _mm256_movemask_epi8(mask) as u32;
    let equals = |byte: u8| _mm256_cmpeq_epi8(bytes, all(byte as i8));
    // A range that ends at `last`, moved to end at 127: signed comparison then asks for one side only.
    let range = |of: __m256i, first: u8, last: u8| {
        let moved = _mm256_add_epi8(of, all((127 - last) as i8));
        _mm256_cmpgt_epi8(moved, all((126 - (last - first)) as i8))
    };
    let lower = _mm256_or_si256(bytes, all(0x20));
    let blank = equals(b' ');
    [
        bits(range(lower, b'a', b'z')),
        bits(range(bytes, b'0', b'9')),
        bits(_mm256_or_si256(range(bytes, 9, 13), blank)),
        bits(_mm256_or_si256(equals(b'\r'), equals(b'\n'))),
        bits(blank),
        bits(equals(b'\'')),
        bits(bytes),
        bits(_mm256_cmpgt_epi8(all(-64), bytes)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_masks_are_those_made_byte_by_byte() {
        if !std::arch::is_x86_feature_detected!("avx2") {
            return;
        }
        let mut window = [0; WINDOW];
        for step in 0..512_usize {
            for (at, byte) in window.iter_mut().enumerate() {
                *byte = (at * (step | 1) + step / 2) as u8;
            }
            // SAFETY: AVX2 was found above; the other sets came before it in every processor.
            assert_eq!(unsafe { masks(&window) }, Masks::plain(&window));
        }
    }
}
