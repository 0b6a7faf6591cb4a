//! Random and mutated input for what reads bytes from strangers: split, encode, decode, the tokenizer file; each beside
//! its slow twin. `FUZZ_CASES` (20,000 each unless said) and `FUZZ_SEED` are read from the environment, every run says
//! its figures as one line of JSON. What once failed is kept in `tests/corpus` and goes first.
#![allow(missing_docs, clippy::expect_used)]

mod common;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use common::chance::{Chance, seed};
use fancy_regex::Regex;
use rustbpe::Control;
use rustbpe::batch::{self, Caches};
use rustbpe::count::count_texts;
use rustbpe::decode::TextStream;
use rustbpe::encode::{Encoder, Tokenizer};
use rustbpe::split::{Pattern, for_each_piece_plainly, pieces};
use rustbpe::train::{TieOrder, train};
use rustbpe::vocab::{SPECIALS, Vocab};
use serde_json::{Value, json};

/// What patterns, classes, encodings and merges treat in ways of their own.
const WORDS: [&str; 48] = [
    "a",
    "b",
    "ab",
    "the",
    " the",
    "ing",
    "日",
    "本語",
    "é",
    "ſ",
    "K",
    "İ",
    "٣",
    "²",
    "Ⅷ",
    "0",
    "12",
    "2026",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\n\n ",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "\u{85}",
    "'",
    "'s",
    "'LL",
    "'ſ",
    "’",
    "!",
    "...",
    "--",
    "{}",
    "();\n",
    "🙂",
    "👩‍👩‍👧",
    "\u{301}",
    "\u{200d}",
    "\0",
    "\u{7f}",
    "\u{10ffff}",
    "<|bos|>",
    "_",
    "^",
]; // fmt: skip
/// Beginnings and ends of characters that are not UTF-8, surrogates and overlong forms among them.
const BAD: [&[u8]; 8] =
    [b"\xff", b"\x80", b"\xe3\x81", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xc3", b"\xf0\x9f\x99"];

fn cases() -> u64 {
    std::env::var("FUZZ_CASES").map_or(20_000, |said| said.parse().expect("a number"))
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<PathBuf> =
        folder.read_dir().expect("tests/corpus").map(|file| file.expect("file").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("readable")).collect()
}

/// Run `check` on the corpus, then on inputs that `make` makes of it. A failure leaves its input in `target` and says so.
fn fuzz(
    target: &str,
    stream: u64,
    mut make: impl FnMut(&mut Chance, &[Vec<u8>], &mut Vec<u8>),
    mut check: impl FnMut(&mut Chance, u64, &[u8]),
) {
    let (mut chance, corpus, began) = (Chance::new("FUZZ_SEED", stream), corpus(), Instant::now());
    let (mut input, mut bytes) = (Vec::new(), 0);
    for case in 0..corpus.len() as u64 + cases() {
        match corpus.get(case as usize) {
            Some(kept) => input.clone_from(kept),
            None => {
                input.clear();
                make(&mut chance, &corpus, &mut input);
            }
        }
        bytes += input.len();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&mut chance, case, &input))) {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}-{case}"));
            std::fs::write(&kept, &input).expect("writable");
            eprintln!("case {case} failed: {}, to be kept in tests/corpus", kept.display());
            resume_unwind(panic);
        }
    }
    let said = json!({
        "target": target, "cases": cases(), "corpus": corpus.len(), "seed": seed("FUZZ_SEED"), "bytes": bytes,
        "seconds": (began.elapsed().as_secs_f64() * 10.0).round() / 10.0, "failures": 0,
    });
    println!("\n{said}");
}

/// Text of odd words, runs of one word, pieces of the corpus and broken characters; sometimes mutated.
fn text(chance: &mut Chance, corpus: &[Vec<u8>], out: &mut Vec<u8>) {
    let parts = if chance.below(64) == 0 { 200 } else { 1 + chance.below(24) };
    for _ in 0..parts {
        let word = WORDS[chance.below(WORDS.len())].as_bytes();
        match chance.below(32) {
            0 => out.extend_from_slice(BAD[chance.below(BAD.len())]),
            1 => (0..chance.below(100)).for_each(|_| out.extend_from_slice(word)),
            2 => {
                let kept = &corpus[chance.below(corpus.len())];
                let from = chance.below(kept.len());
                out.extend_from_slice(&kept[from..kept.len().min(from + chance.below(80))]);
            }
            3 => {
                out.extend(char::from_u32(chance.below(0x11_0000) as u32).map(String::from).unwrap_or_default().bytes())
            }
            4 => out.extend((0..chance.below(12)).map(|_| b'a' + chance.below(26) as u8)),
            _ => out.extend_from_slice(word),
        }
    }
    if chance.below(4) == 0 {
        mutate(chance, out);
    }
}

/// A few bytes flipped, replaced, dropped, doubled or cut off.
fn mutate(chance: &mut Chance, bytes: &mut Vec<u8>) {
    for _ in 0..=chance.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = chance.below(bytes.len());
        match chance.below(5) {
            0 => bytes[at] ^= 1 << chance.below(8),
            1 => bytes[at] = chance.next() as u8,
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, bytes[at]),
            _ => bytes.truncate(at),
        }
    }
}

/// row T1
#[test]
fn split_cuts_as_the_regex_does() {
    let regexes = Pattern::ALL.map(|pattern| (pattern, Regex::new(pattern.regex()).expect("compiles")));
    fuzz("split", 1, text, |chance, case, input| {
        let of_all = case < 64;
        let only = chance.below(regexes.len());
        for (pattern, regex) in regexes.iter().enumerate().filter(|(at, _)| of_all || *at == only).map(|(_, both)| both)
        {
            let found = pieces(*pattern, input);
            let mut twin: Vec<&[u8]> = Vec::new();
            for chunk in input.utf8_chunks() {
                twin.extend(regex.find_iter(chunk.valid()).map(|piece| piece.expect("matches").as_str().as_bytes()));
                twin.extend(chunk.invalid().chunks(1));
            }
            assert_eq!(found, twin, "{pattern:?}");
            let mut plain = Vec::new();
            for_each_piece_plainly(*pattern, input, |text, start, end| plain.push(&text[start..end]));
            assert_eq!(found, plain, "{pattern:?}");
        }
    });
}

/// A tokenizer with the table of the textbook loop.
struct Known {
    tokenizer: Tokenizer,
    ranks: HashMap<(u32, u32), u32>,
    caches: Caches,
}

impl Known {
    fn new(pattern: Pattern, merges: Vec<(u32, u32)>) -> Self {
        let ranks = merges.iter().copied().zip(256..).collect();
        let tokenizer = Tokenizer::new(pattern, Vocab::from_merges(merges).expect("vocabulary"));
        Self { tokenizer, ranks, caches: Caches::default() }
    }

    /// Learned from random text, as vocabularies are.
    fn learned(chance: &mut Chance, corpus: &[Vec<u8>], pattern: Pattern) -> Self {
        let mut sample = Vec::new();
        (0..60).for_each(|_| text(chance, corpus, &mut sample));
        let sample = String::from_utf8_lossy(&sample);
        let counts = count_texts(&[sample], pattern, 1, &Control::default()).expect("counts");
        let size = 266 + chance.below(300) as u32;
        let vocab = (266..=size)
            .rev()
            .find_map(|size| train(&counts, size, TieOrder::Rustbpe, &Control::default()).ok())
            .expect("a merge");
        Self::new(pattern, vocab.merges().to_vec())
    }

    /// Of any merges: many of its tokens no text ever becomes.
    fn random(chance: &mut Chance, pattern: Pattern) -> Self {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        let mut merges = Vec::new();
        for _ in 0..chance.below(200) {
            let mut part = || match chance.below(2) {
                0 => u32::from(b" abet'1\n\xe3\x81"[chance.below(10)]),
                _ => chance.below(tokens.len()) as u32,
            };
            let (left, right) = (part(), part());
            let token = [&tokens[left as usize][..], &tokens[right as usize]].concat();
            if token.len() < 40 && !tokens.contains(&token) {
                tokens.push(token);
                merges.push((left, right));
            }
        }
        Self::new(pattern, merges)
    }

    /// More ids than 16 bits hold: every pair of bytes, and pairs of those.
    fn wide() -> Self {
        let pairs = (0..1 << 16).map(|pair| (pair >> 8, pair & 255));
        Self::new(Pattern::Picollm, pairs.chain((0..2000).map(|at| (256 + 31 * at, 256 + 11 * at))).collect())
    }

    fn textbook(&self, text: &[u8]) -> Vec<u32> {
        let mut all = Vec::new();
        for piece in pieces(self.tokenizer.pattern(), text) {
            let mut ids: Vec<u32> = piece.iter().map(|byte| u32::from(*byte)).collect();
            let next = |ids: &[u32]| {
                let pairs = ids.windows(2).enumerate();
                pairs.filter_map(|(at, pair)| Some((*self.ranks.get(&(pair[0], pair[1]))?, at))).min()
            };
            while let Some((rank, at)) = next(&ids) {
                ids.splice(at..at + 2, [rank]);
            }
            all.extend(ids);
        }
        all
    }
}

/// Tokenizers that come and go, the wide one last.
fn known(chance: &mut Chance, corpus: &[Vec<u8>]) -> Vec<Known> {
    let mut all: Vec<Known> = Pattern::ALL
        .into_iter()
        .flat_map(|pattern| [Known::learned(chance, corpus, pattern), Known::random(chance, pattern)])
        .collect();
    all.push(Known::wide());
    all
}

/// rows T1, T3, T12
#[test]
fn encode_makes_the_textbooks_ids() {
    let corpus = corpus();
    let mut all = Vec::new();
    fuzz("encode", 2, text, |chance, case, input| {
        if case % 50_000 == 0 {
            all = known(chance, &corpus);
        }
        let known = &all[chance.below(all.len())];
        let (Known { tokenizer, caches, .. }, twin) = (known, known.textbook(input));
        let mut ids = Vec::new();
        caches.with(tokenizer, |encoder: &mut Encoder<'_>| encoder.encode(input, &mut ids));
        assert_eq!(ids, twin, "{:?}", tokenizer.vocab().merges());
        assert!(ids.iter().all(|id| *id < tokenizer.bos()));
        if chance.below(8) == 0 {
            let ctl = Control::default();
            let cut = chance.below(input.len() + 1);
            match batch::encode::<u16, _>(tokenizer, caches, &[input, &input[..cut]], 1, &ctl) {
                Ok(narrow) => {
                    let narrow: Vec<u32> = narrow.parts.concat().into_iter().map(u32::from).collect();
                    assert_eq!(narrow[..ids.len()], ids);
                }
                Err(_) => assert!(tokenizer.vocab().len() > 1 << 16),
            }
        }
        let mut back = Vec::new();
        tokenizer.decode(&ids, &mut back).expect("decodes");
        assert_eq!(back, input);
    });
}

/// row T8
#[test]
fn decode_says_what_the_tokens_say_or_names_the_first_wrong_id() {
    let corpus = corpus();
    let mut all = Vec::new();
    let ids = |chance: &mut Chance, _: &[Vec<u8>], out: &mut Vec<u8>| {
        for _ in 0..chance.below(40) {
            let id = if chance.below(30) == 0 { chance.value(300) } else { chance.below(600) as u32 };
            out.extend_from_slice(&id.to_le_bytes());
        }
    };
    fuzz("decode", 3, ids, |chance, case, input| {
        if case % 200_000 == 0 {
            all = known(chance, &corpus);
        }
        let tokenizer = &all[chance.below(all.len())].tokenizer;
        let ids: Vec<u32> =
            input.chunks_exact(4).map(|id| id.iter().rfold(0, |all, byte| all << 8 | u32::from(*byte))).collect();
        let good = ids.iter().position(|id| *id >= tokenizer.vocab_size()).unwrap_or(ids.len());
        let twin: Vec<u8> = ids[..good]
            .iter()
            .flat_map(|&id| match id.checked_sub(tokenizer.bos()) {
                Some(special) => SPECIALS[special as usize].as_bytes(),
                None => tokenizer.vocab().token(id).expect("there"),
            })
            .copied()
            .collect();
        let mut bytes = Vec::new();
        match tokenizer.decode(&ids, &mut bytes) {
            Ok(()) => assert_eq!(good, ids.len()),
            Err(error) => assert!(error.to_string().contains(&ids[good].to_string()), "{error}"),
        }
        assert_eq!(bytes, twin);
        let mut stream = TextStream::default();
        let mut said: String =
            ids[..good].iter().map(|id| stream.push(tokenizer.token_bytes(*id).expect("there"))).collect();
        said += &stream.finish();
        assert_eq!(said, String::from_utf8_lossy(&twin));
    });
}

/// Where the strings, numbers and words of a JSON text stand.
fn scalars(text: &[u8]) -> Vec<(usize, usize)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let start = at;
        at += 1;
        if text[start] == b'"' {
            while text[at] != b'"' {
                at += 1 + usize::from(text[at] == b'\\');
            }
            at += 1;
            found.push((start, at));
        } else if text[start].is_ascii_alphanumeric() {
            at += text[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'.').count();
            found.push((start, at));
        }
    }
    found
}

/// row T10: a file is accepted only if it says, value for value, what its tokenizer would write.
#[test]
fn a_mutated_tokenizer_file_is_refused_or_means_what_it_says() {
    let text = "abab cdcd the cat 12 34 \u{e9}\u{e9} ".repeat(3);
    let files = Pattern::ALL.map(|pattern| {
        let counts = count_texts(&[&text], pattern, 1, &Control::default()).expect("counts");
        let vocab = train(&counts, 272, TieOrder::Rustbpe, &Control::default()).expect("trains");
        let file = Tokenizer::new(pattern, vocab).to_json().to_vec();
        let scalars = scalars(&file);
        (file, scalars)
    });
    let words: [&[u8]; 14] = [
        b"2147483647",
        b"4294967296",
        b"-1",
        b"1e3",
        b"1.0",
        b"null",
        b"true",
        b"[]",
        b"{}",
        b"\"\"",
        b"\"<|bos|>\"",
        b"\"\\ud800\"",
        b"99999999999999999999",
        b"256",
    ]; // fmt: skip
    let mutated = |chance: &mut Chance, _: &[Vec<u8>], out: &mut Vec<u8>| {
        let (file, scalars) = &files[chance.below(files.len())];
        let mut pick = || scalars[chance.below(scalars.len())];
        let ((start, end), (other, other_end)) = (pick(), pick());
        let replace = |out: &mut Vec<u8>, with: &[u8]| {
            out.extend_from_slice(&file[..start]);
            out.extend_from_slice(with);
            out.extend_from_slice(&file[end..]);
        };
        match chance.below(8) {
            0 => replace(out, &file[other..other_end]),
            1 => replace(out, words[chance.below(words.len())]),
            // One element less, or twice; with its comma, so that it is still JSON.
            2 => {
                out.extend_from_slice(&file[..start]);
                out.extend_from_slice(
                    &file[end + usize::from(file.get(end) == Some(&b',') || file.get(end) == Some(&b':'))..],
                );
            }
            3 => replace(out, &[&file[start..end], b",", &file[start..end]].concat()),
            4 => replace(out, chance.value(256).to_string().as_bytes()),
            5 => {
                let (from, to) = (start.min(other), start.max(other));
                let to = to.min(from + 200);
                out.extend_from_slice(&file[..to]);
                out.extend_from_slice(&file[from..]);
            }
            6 => {
                replace(out, &[b" \n".as_slice(), &file[start..end], b"\t"].concat());
            }
            _ => {
                out.extend_from_slice(file);
                mutate(chance, out);
            }
        }
    };
    let mut accepted = 0;
    fuzz("file", 4, mutated, |_, _, input| {
        if let Ok(read) = Tokenizer::from_json(input) {
            accepted += 1;
            let merges = Vocab::from_merges(read.vocab().merges().to_vec()).expect("vocabulary");
            let canonical = Tokenizer::new(read.pattern(), merges);
            let [mut said, mut meant]: [Value; 2] =
                [input, canonical.to_json()].map(|json| serde_json::from_slice(json).expect("json"));
            // Flags that decide no id, and may be either way.
            for json in [&mut said, &mut meant] {
                for flag in [
                    "decoder/add_prefix_space",
                    "decoder/trim_offsets",
                    "decoder/use_regex",
                    "pre_tokenizer/pretokenizers/1/trim_offsets",
                ] {
                    let flag = json.pointer_mut(&format!("/{flag}")).expect("there");
                    assert!(flag.is_boolean());
                    *flag = Value::Null;
                }
            }
            assert_eq!(said, meant);
            assert_eq!(read.to_json(), input);
        }
    });
    println!("{accepted} files were read");
    assert!(accepted > cases() / 20, "{accepted} were read: the mutations are too coarse to show anything");
}
