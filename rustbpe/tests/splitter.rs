//! The hand-written splitters cut where the regexes cut.
#![allow(missing_docs, clippy::expect_used)]

mod common;

use std::sync::LazyLock;

use fancy_regex::Regex;
use proptest::prelude::*;
use rustbpe::split::{Pattern, for_each_piece_plainly, pieces};

/// What the regex finds; the patterns leave nothing between matches.
fn twin<'t>(regex: &Regex, text: &'t str) -> Vec<&'t str> {
    regex.find_iter(text).map(|found| found.expect("matches").as_str()).collect()
}

fn split(pattern: Pattern, text: &str) -> Vec<&str> {
    pieces(pattern, text.as_bytes()).into_iter().map(|piece| std::str::from_utf8(piece).expect("utf-8")).collect()
}

fn regexes() -> &'static [(Pattern, Regex)] {
    static ALL: LazyLock<Vec<(Pattern, Regex)>> = LazyLock::new(|| {
        Pattern::ALL.into_iter().map(|pattern| (pattern, Regex::new(pattern.regex()).expect("compiles"))).collect()
    });
    &ALL
}

#[test]
fn every_code_point_is_cut_as_the_regex_cuts_it() {
    let regexes = regexes();
    let all: Vec<char> = ('\0'..=char::MAX).collect();
    for block in all.chunks(4096) {
        let mut text = String::new();
        for &c in block {
            text.extend([c, 'a', c, '1', ' ']);
            if c < '\u{3000}' {
                text.extend([c, ' ', c, c, '!', c, '\'', c, '\n']);
            }
        }
        for (pattern, regex) in regexes {
            assert_eq!(split(*pattern, &text), twin(regex, &text), "{pattern:?} from {:?}", block[0]);
        }
    }
}

#[test]
fn neighbours_of_every_class_are_cut_as_the_regex_cuts_them() {
    // One or two characters of each class, those that a branch names, and those whose case folds oddly.
    let alphabet = "a Zé1२²!-'\n\r\t\u{a0}\u{2028}\u{85}sSſtTdDmMlLvVrReEKİ日\u{301}\u{200d}🙂\0";
    let letters: Vec<char> = alphabet.chars().collect();
    let regexes = regexes();
    for &a in &letters {
        for &b in &letters {
            for &c in &letters {
                let text: String = [a, b, c, ' ', '\'', a, b, ' ', ' ', c, b, '\n', ' ', a].into_iter().collect();
                for (pattern, regex) in regexes {
                    for text in [&text[..], &text[..text.len() - a.len_utf8()]] {
                        assert_eq!(split(*pattern, text), twin(regex, text), "{pattern:?} {text:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_reference_strings_are_cut_as_recorded() {
    let Some(shared) = common::shared() else { return };
    for row in common::vectors(&shared) {
        let text = row["text"].as_str().expect("text");
        let expected: Vec<&str> =
            row["picollm_split"].as_array().expect("list").iter().filter_map(|p| p.as_str()).collect();
        assert_eq!(split(Pattern::Picollm, text), expected, "{text:?}");
    }
}

#[test]
fn tiktokens_spelling_of_cl100k_differs_only_where_text_ends_in_lines_and_spaces() {
    let newer = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s";
    let regex = Regex::new(newer).expect("compiles");
    for text in ["it's 12345  x\n\n  y", "a\n  b", "\t\tx ", "a \r\n"] {
        assert_eq!(split(Pattern::Cl100k, text), twin(&regex, text), "{text:?}");
    }
    assert_eq!(split(Pattern::Cl100k, "a\n  "), ["a", "\n", "  "]);
    assert_eq!(twin(&regex, "a\n  "), ["a", "\n  "]);
}

fn texts() -> impl Strategy<Value = String> {
    let classes = "[a-zéſ日]{1,6}|[0-9२²]{1,5}|[ \t\u{a0}\u{3000}]{1,4}|[\r\n]{1,3}|['!…🙂\u{301}]{1,4}|\\PC{1,4}";
    prop::collection::vec(
        prop_oneof![9 => classes.prop_map(String::from), 1 => any::<char>().prop_map(String::from)],
        0..40,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_text_is_cut_as_the_regex_cuts_it(text in texts()) {
        for (pattern, regex) in regexes() {
            prop_assert_eq!(split(*pattern, &text), twin(regex, &text));
        }
    }

    #[test]
    fn the_fast_splitter_cuts_where_the_plain_one_cuts(parts in prop::collection::vec(texts(), 0..12), bad in any::<bool>()) {
        let text = parts.concat().into_bytes();
        let text = if bad { [&text[..], b"\xe3\x81", &text[..]].concat() } else { text };
        for pattern in Pattern::ALL {
            let mut plain = Vec::new();
            for_each_piece_plainly(pattern, &text, |text, start, end| plain.push(&text[start..end]));
            prop_assert_eq!(pieces(pattern, &text), plain);
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_stand_alone_and_nothing_is_lost(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for pattern in Pattern::ALL {
            let mut expected: Vec<&[u8]> = Vec::new();
            for chunk in bytes.utf8_chunks() {
                expected.extend(pieces(pattern, chunk.valid().as_bytes()));
                expected.extend(chunk.invalid().chunks(1));
            }
            let cut = pieces(pattern, &bytes);
            prop_assert_eq!(&cut, &expected);
            prop_assert_eq!(cut.concat(), bytes.clone());
        }
    }
}
