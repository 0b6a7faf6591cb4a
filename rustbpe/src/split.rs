//! Text → pieces. A merge never crosses a piece, so the split decides what a token can be.
//!
//! Three named patterns of the GPT family, each written by hand and proved equal to its regex on
//! every code point (tests/splitter.rs). No regex is compiled here, so a tokenizer file cannot bring one.
//!
//! **Bytes that are not UTF-8** are pieces of their own, one byte each; the text on either side is
//! split as if it stood alone. Every byte of the input lies in exactly one piece, in order, and the
//! time is linear in the length.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod classes;
mod window;

use window::Starts;

use crate::{Error, Result};

/// 1–2 digits to a number, as in nanochat: the default. From the string of its training script.
pub const PICOLLM: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
/// 1–3 digits to a number: GPT-4, in the spelling that most encoders recognise.
pub const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-2: a space may lead a word, a number or a run of marks; contractions in lower case only.
pub const GPT2: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A named split pattern. There are no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pattern {
    /// [`PICOLLM`].
    #[default]
    Picollm,
    /// [`CL100K`].
    Cl100k,
    /// [`GPT2`].
    Gpt2,
}

impl Pattern {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Picollm, Self::Cl100k, Self::Gpt2];

    /// The name users say.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Picollm => "picollm",
            Self::Cl100k => "cl100k",
            Self::Gpt2 => "gpt2",
        }
    }

    /// The string that stands in `tokenizer.json`.
    pub const fn regex(self) -> &'static str {
        match self {
            Self::Picollm => PICOLLM,
            Self::Cl100k => CL100K,
            Self::Gpt2 => GPT2,
        }
    }

    /// # Errors
    /// [`Error::Invalid`] with the names there are.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|pattern| pattern.name() == name).ok_or_else(|| Error::Invalid {
            what: format!("{name:?} is no split pattern; there are picollm, cl100k and gpt2"),
        })
    }

    /// The pattern whose regex is exactly this string.
    pub fn from_regex(regex: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|pattern| pattern.regex() == regex)
    }
}

/// Takes the pieces of a text, one after the other, as [`for_each_piece`] hands them out. Unlike a closure, a type can
/// ask to be inlined.
pub(crate) trait Sink<'t> {
    fn piece(&mut self, text: &'t [u8], start: usize, end: usize);
}

impl<'t, F: FnMut(&'t [u8], usize, usize)> Sink<'t> for F {
    #[inline(always)]
    fn piece(&mut self, text: &'t [u8], start: usize, end: usize) {
        self(text, start, end);
    }
}

/// Hand every piece of `text` to `each`, in order, as (the valid stretch it lies in, start, end).
/// Getting the stretch and not the slice alone lets callers read past a short piece.
///
/// ```
/// use rustbpe::split::{Pattern, for_each_piece};
/// let mut pieces = Vec::new();
/// for_each_piece(Pattern::Picollm, b"it's 1234\xff!", |text, start, end| pieces.push(&text[start..end]));
/// let expected: [&[u8]; 7] = [b"it", b"'s", b" ", b"12", b"34", b"\xff", b"!"];
/// assert_eq!(pieces, expected);
/// ```
pub fn for_each_piece<'t>(pattern: Pattern, text: &'t [u8], each: impl FnMut(&'t [u8], usize, usize)) {
    feed(pattern, text, each);
}

/// [`for_each_piece`] for a [`Sink`].
#[inline]
pub(crate) fn feed<'t>(pattern: Pattern, text: &'t [u8], each: impl Sink<'t>) {
    match pattern {
        Pattern::Picollm => split_bytes::<window::Gpt4<2>>(text, gpt4_piece::<2>, each),
        Pattern::Cl100k => split_bytes::<window::Gpt4<3>>(text, gpt4_piece::<3>, each),
        Pattern::Gpt2 => split_bytes::<window::Gpt2>(text, gpt2_piece, each),
    }
}

/// [`for_each_piece`] one character at a time, on any machine: the twin of the vector code.
pub fn for_each_piece_plainly<'t>(pattern: Pattern, text: &'t [u8], mut each: impl FnMut(&'t [u8], usize, usize)) {
    for (valid, bad) in text.utf8_chunks().map(|chunk| (chunk.valid(), chunk.invalid())) {
        match pattern {
            Pattern::Picollm => split_plainly(valid.as_bytes(), 0, &gpt4_piece::<2>, &mut each),
            Pattern::Cl100k => split_plainly(valid.as_bytes(), 0, &gpt4_piece::<3>, &mut each),
            Pattern::Gpt2 => split_plainly(valid.as_bytes(), 0, &gpt2_piece, &mut each),
        }
        (0..bad.len()).for_each(|at| each(bad, at, at + 1));
    }
}

/// The pieces as slices, for callers that are not in a hurry.
pub fn pieces(pattern: Pattern, text: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    for_each_piece(pattern, text, |text, start, end| found.push(&text[start..end]));
    found
}

/// The first place from `from` on where every pattern starts a piece, whatever stands elsewhere: after an ASCII
/// letter, before an ASCII character that is none; or between other characters of those classes, if all that was
/// looked at is UTF-8. Cut there, the two halves split as the whole does. `None` if there is no such place.
pub fn safe_cut(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from.max(1);
    while at < text.len() {
        let (before, after) = (text[at - 1], text[at]);
        if before.is_ascii_alphabetic() && after.is_ascii() && !after.is_ascii_alphabetic() {
            return Some(at);
        }
        if (before >= 0x80 || after >= 0x80) && cuts_wide(text, at) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// The same for characters of more than one byte: whole, valid, a letter and then none.
fn cuts_wide(text: &[u8], at: usize) -> bool {
    let before = &text[at.saturating_sub(4)..at];
    let after = &text[at..text.len().min(at + 4)];
    let Some(start) = before.iter().rposition(|byte| byte & 0xc0 != 0x80) else { return false };
    let last = std::str::from_utf8(&before[start..]).ok().and_then(|text| text.chars().next());
    let next = after.utf8_chunks().next().and_then(|chunk| chunk.valid().chars().next());
    let (Some(last), Some(next)) = (last, next) else { return false };
    class_of(last.into()) == LETTER && class_of(next.into()) != LETTER
}

fn split_bytes<'t, S: Starts>(text: &'t [u8], piece_end: impl Fn(&[u8], usize) -> usize, mut each: impl Sink<'t>) {
    if simdutf8::basic::from_utf8(text).is_ok() {
        return split_utf8::<S>(text, &piece_end, &mut each);
    }
    for chunk in text.utf8_chunks() {
        split_utf8::<S>(chunk.valid().as_bytes(), &piece_end, &mut each);
        for at in 0..chunk.invalid().len() {
            each.piece(chunk.invalid(), at, at + 1);
        }
    }
}

#[cfg_attr(target_arch = "x86_64", allow(unsafe_code))]
fn split_utf8<'t, S: Starts>(text: &'t [u8], piece_end: &impl Fn(&[u8], usize) -> usize, each: &mut impl Sink<'t>) {
    let mut start = 0;
    #[cfg(target_arch = "x86_64")]
    if text.len() >= window::WINDOW && has_avx2() {
        // SAFETY: the processor has what `avx2::split` is compiled for.
        start = unsafe { avx2::split::<S>(text, piece_end, each) };
    }
    split_plainly(text, start, piece_end, each);
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt")
}

fn split_plainly<'t>(
    text: &'t [u8],
    mut start: usize,
    piece_end: &impl Fn(&[u8], usize) -> usize,
    each: &mut impl Sink<'t>,
) {
    while start < text.len() {
        let end = piece_end(text, start);
        each.piece(text, start, end);
        start = end;
    }
}

const OTHER: u8 = 0;
const LETTER: u8 = 1;
const NUMBER: u8 = 2;
const SPACE: u8 = 3;

const ASCII: [u8; 128] = {
    let mut table = [OTHER; 128];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = class_of(byte as u32);
        byte += 1;
    }
    table
};

/// Letter, number, white space or other, by Unicode 16.
const fn class_of(code_point: u32) -> u8 {
    let block = (code_point / 128) as usize;
    let block = if block < classes::INDEX.len() { block } else { classes::INDEX.len() - 1 };
    let byte = classes::INDEX[block] as usize * 32 + (code_point as usize % 128) / 4;
    classes::BLOCKS[byte] >> (code_point % 4 * 2) & 3
}

/// The class of all characters with this lead byte (its low six bits), or `u8::MAX` where they differ.
const WIDE_LEAD_CLASS: [u8; 64] = {
    let mut table = [u8::MAX; 64];
    let mut lead: u32 = 0xc2;
    while lead < 0xf0 {
        let (first, count) = if lead < 0xe0 { ((lead & 0x1f) << 6, 1 << 6) } else { ((lead & 0x0f) << 12, 1 << 12) };
        let class = class_of(if first == 0 { 0x800 } else { first });
        let mut at: u32 = if first == 0 { 0x800 } else { first };
        let mut same = true;
        while at < first + count && same {
            same = class_of(at) == class;
            at += 1;
        }
        if same {
            table[(lead & 0x3f) as usize] = class;
        }
        lead += 1;
    }
    table
};

/// Class of the character at `at` and where the next one starts. `text` is UTF-8, `at` a boundary.
#[inline(always)]
fn character(text: &[u8], at: usize) -> (u8, usize) {
    let byte = text[at];
    if byte < 0x80 { (ASCII[byte as usize], at + 1) } else { wide_character(text, at) }
}

#[inline]
fn wide_character(text: &[u8], at: usize) -> (u8, usize) {
    let low = |offset: usize| u32::from(text[at + offset] & 0x3f);
    let lead = u32::from(text[at]);
    match lead {
        0xc0..=0xdf => (class_of((lead & 0x1f) << 6 | low(1)), at + 2),
        0xe0..=0xef => (class_of((lead & 0x0f) << 12 | low(1) << 6 | low(2)), at + 3),
        _ => (class_of((lead & 0x07) << 18 | low(1) << 12 | low(2) << 6 | low(3)), at + 4),
    }
}

/// End of the run of `CLASS` that starts at `at`.
#[inline(always)]
fn run<const CLASS: u8>(text: &[u8], mut at: usize) -> usize {
    while at < text.len() {
        let (class, next) = character(text, at);
        if class != CLASS {
            break;
        }
        at = next;
    }
    at
}

#[inline(always)]
fn starts<const CLASS: u8>(text: &[u8], at: usize) -> bool {
    at < text.len() && character(text, at).0 == CLASS
}

/// One piece of the GPT-4 family, `DIGITS` to a number. The branches are those of the regex, asked
/// in an order that needs no backtracking: which ones can match is known from the first two characters.
fn gpt4_piece<const DIGITS: usize>(text: &[u8], start: usize) -> usize {
    let first = text[start];
    let (class, next) = character(text, start);
    match class {
        LETTER => return run::<LETTER>(text, next),
        NUMBER => return number::<DIGITS>(text, next),
        _ => {}
    }
    if first == b'\''
        && let Some(end) = contraction(text, next, true)
    {
        return end;
    }
    if first != b'\r' && first != b'\n' && starts::<LETTER>(text, next) {
        return run::<LETTER>(text, next);
    }
    if class == OTHER || first == b' ' && starts::<OTHER>(text, next) {
        let marks = run::<OTHER>(text, next);
        return marks + text[marks..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    }
    let end = run::<SPACE>(text, next);
    // `\s*[\r\n]` takes as much as it can: up to the last line end of the run.
    match text[start..end].iter().rposition(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(last) => start + last + 1,
        None => leave_one_space(text, next, end),
    }
}

fn gpt2_piece(text: &[u8], start: usize) -> usize {
    let first = text[start];
    if first == b'\''
        && let Some(end) = contraction(text, start + 1, false)
    {
        return end;
    }
    let lead = if first == b' ' && start + 1 < text.len() { start + 1 } else { start };
    let (class, next) = character(text, lead);
    match class {
        LETTER => run::<LETTER>(text, next),
        NUMBER => run::<NUMBER>(text, next),
        OTHER => run::<OTHER>(text, next),
        _ => {
            let next = character(text, start).1;
            leave_one_space(text, next, run::<SPACE>(text, next))
        }
    }
}

/// Up to `DIGITS` numbers, of which the first ends at `at`.
fn number<const DIGITS: usize>(text: &[u8], mut at: usize) -> usize {
    for _ in 1..DIGITS {
        if !starts::<NUMBER>(text, at) {
            break;
        }
        at = character(text, at).1;
    }
    at
}

/// `[sdmt]|ll|ve|re` after an apostrophe.
fn contraction(text: &[u8], at: usize, any_case: bool) -> Option<usize> {
    let letter = |at: usize| text.get(at).map_or(0, |byte| if any_case { byte.to_ascii_lowercase() } else { *byte });
    match (letter(at), letter(at + 1)) {
        (b's' | b'd' | b'm' | b't', _) => Some(at + 1),
        (b'l', b'l') | (b'v' | b'r', b'e') => Some(at + 2),
        // U+017F, the long s, is an s where case does not count: the only other character that is.
        (0xc5, 0xbf) if any_case => Some(at + 2),
        _ => None,
    }
}

/// `\s+(?!\S)|\s+` on a run of white space whose first character ends at `next`: before more text, all but the last character, which the next piece may want.
fn leave_one_space(text: &[u8], next: usize, end: usize) -> usize {
    if end == text.len() || end == next {
        return end;
    }
    let last = (next..end).rev().find(|&at| text[at] & 0xc0 != 0x80);
    last.unwrap_or(next)
}
