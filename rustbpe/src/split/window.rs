//! The fast way to cut: classes of 64 bytes as bit masks, "a piece starts here" by shifts, pieces by popping bits.
//!
//! A window begins where a piece begins, so nothing is carried from one window to the next: only the pieces
//! that surely end inside are handed out, and the next window begins at the last of their ends. Numbers and
//! white space outside ASCII end the window; a piece that fills it goes to the plain splitter, one at a time.

use super::{LETTER, OTHER, WIDE_LEAD_CLASS, contraction, wide_character};

pub(super) const WINDOW: usize = 64;

/// One bit per byte of a window, for its ASCII bytes; the two masks of wide characters tell where those are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Masks {
    pub letter: u64,
    pub number: u64,
    /// White space, line ends included.
    pub space: u64,
    /// `\r` and `\n`.
    pub line: u64,
    /// The character ' '.
    pub blank: u64,
    pub apostrophe: u64,
    /// 0x80 and up.
    pub wide: u64,
    /// 0x80 to 0xbf.
    pub follows: u64,
}

impl Masks {
    /// Byte by byte: what the vector code must equal.
    #[cfg(test)]
    pub(super) fn plain(window: &[u8; WINDOW]) -> Self {
        let mask =
            |is: fn(u8) -> bool| window.iter().enumerate().fold(0, |all, (at, byte)| all | u64::from(is(*byte)) << at);
        Self {
            letter: mask(|byte| byte.is_ascii_alphabetic()),
            number: mask(|byte| byte.is_ascii_digit()),
            space: mask(|byte| matches!(byte, 9..=13 | b' ')),
            line: mask(|byte| matches!(byte, b'\r' | b'\n')),
            blank: mask(|byte| byte == b' '),
            apostrophe: mask(|byte| byte == b'\''),
            wide: mask(|byte| byte >= 0x80),
            follows: mask(|byte| matches!(byte, 0x80..=0xbf)),
        }
    }
}

/// Masks in which wide characters have their class on all their bytes, as far as `known` reaches.
struct Classes {
    masks: Masks,
    other: u64,
    known: u64,
}

/// `text[start..start + 64]` is UTF-8 from a character's start; its last character may be cut off.
#[inline(always)]
fn classify(mut masks: Masks, text: &[u8], start: usize) -> Classes {
    let mut known = u64::MAX;
    if masks.wide != 0 {
        known = add_wide(&mut masks, text, start);
    }
    let other = known & !(masks.letter | masks.number | masks.space);
    Classes { masks, other, known }
}

/// Give the wide letters their bits; how much of the window is known then.
#[inline(never)]
fn add_wide(masks: &mut Masks, text: &[u8], start: usize) -> u64 {
    let mut leads = masks.wide & !masks.follows;
    let mut letters = 0_u64;
    let mut known = u64::MAX;
    // A character that the window cuts off is not known.
    if leads != 0 {
        let last = 63 - leads.leading_zeros() as usize;
        if last + wide_length(text[start + last]) > WINDOW {
            known = below(last);
            leads &= known;
        }
    }
    while leads != 0 {
        let at = leads.trailing_zeros() as usize;
        leads &= leads - 1;
        let class = match WIDE_LEAD_CLASS[usize::from(text[start + at] & 0x3f)] {
            u8::MAX => wide_character(text, start + at).0,
            class => class,
        };
        letters |= u64::from(class == LETTER) << at;
        if class != LETTER && class != OTHER {
            known = below(at);
            break;
        }
    }
    for _ in 0..3 {
        letters |= letters << 1 & masks.follows;
    }
    masks.letter = (masks.letter | letters) & known;
    masks.number &= known;
    masks.space &= known;
    known
}

/// Bytes of the character that starts with `lead`, above 0x7f.
fn wide_length(lead: u8) -> usize {
    2 + usize::from(lead >= 0xe0) + usize::from(lead >= 0xf0)
}

/// The bits below `at` < 64.
fn below(at: usize) -> u64 {
    (1 << at) - 1
}

/// Where pieces start in the window at `start`, bit 0 (which is a start) left out. Every set bit is sure, and
/// below the highest no start is missing.
pub(super) trait Starts {
    fn starts(masks: Masks, text: &[u8], start: usize) -> u64;
}

pub(super) struct Gpt4<const DIGITS: usize>;
pub(super) struct Gpt2;

impl<const DIGITS: usize> Starts for Gpt4<DIGITS> {
    #[inline(always)]
    fn starts(masks: Masks, text: &[u8], start: usize) -> u64 {
        let Classes { masks, other, known } = classify(masks, text, start);
        let Masks { letter, number, space, line, blank, follows, .. } = masks;
        // A single other character before letters leads them, unless a blank leads it.
        let alone = other & !(other << 1) & !(blank << 1);
        let mut lead = alone;
        if follows != 0 {
            for _ in 0..3 {
                lead |= lead << 1 & follows;
            }
            lead &= !(follows >> 1);
        }
        let unled = letter & !(letter << 1) & !((lead | space & !line) << 1);
        // Line ends right after other characters belong to them: the carry runs through each such run.
        let taken = line & !line.wrapping_add(other << 1 & line);
        let left = space & !taken;
        let inner = space & !line;
        let last = inner & !(space >> 1) & known >> 1;
        let mut starts = unled | alone | numbers::<DIGITS>(number) | left & !(left << 1) | last;
        // What stands between the last line end of white space and the text is a piece of its own.
        let mut indents = inner & (left & line) << 1;
        while indents != 0 {
            let at = indents.trailing_zeros();
            indents &= indents - 1;
            let end = at + (!(inner >> at)).trailing_zeros();
            if end < 64 && known & !space & 1 << end != 0 {
                starts |= 1 << at;
            }
        }
        contractions(starts, masks.apostrophe & alone, text, start, true) & known & !1
    }
}

impl Starts for Gpt2 {
    #[inline(always)]
    fn starts(masks: Masks, text: &[u8], start: usize) -> u64 {
        let Classes { masks, other, known } = classify(masks, text, start);
        let Masks { letter, number, space, blank, .. } = masks;
        let first = |class: u64| class & !(class << 1);
        let words = (first(letter) | first(number) | first(other)) & !(blank << 1);
        let last = space & !(space >> 1) & known >> 1;
        let quotes = masks.apostrophe & words;
        contractions(words | first(space) | last, quotes, text, start, false) & known & !1
    }
}

/// The first of every `DIGITS` digits.
#[inline(always)]
fn numbers<const DIGITS: usize>(number: u64) -> u64 {
    let mut group = number & !(number << 1);
    let mut all = group;
    let whole = (1..DIGITS).fold(number, |whole, back| whole & number << back);
    while group != 0 {
        group = group << DIGITS & whole;
        all |= group;
    }
    all
}

/// A contraction at one of `quotes` ends where it ends, whatever its letters said.
#[inline(always)]
fn contractions(mut starts: u64, mut quotes: u64, text: &[u8], start: usize, any_case: bool) -> u64 {
    while quotes != 0 {
        let at = quotes.trailing_zeros() as usize;
        quotes &= quotes - 1;
        if let Some(end) = contraction(text, start + at + 1, any_case) {
            let end = end - start;
            for inside in at + 1..end.min(WINDOW) {
                starts &= !(1 << inside);
            }
            if end < WINDOW {
                starts |= 1 << end;
            }
        }
    }
    starts
}
