//! Training and encoding against their textbook twins and against other people's tokenizers.
#![allow(missing_docs, clippy::expect_used)]

mod common;

use proptest::prelude::*;
use rustbpe::batch;
use rustbpe::count::{Corpus, Counts, Limits, count_segments, count_texts};
use rustbpe::decode::TextStream;
use rustbpe::encode::Tokenizer;
use rustbpe::source::{FileEntry, ReadOptions, Segment, read_segment};
use rustbpe::split::{Pattern, pieces, safe_cut};
use rustbpe::train::{TieOrder, train};
use rustbpe::vocab::{SPECIALS, Vocab};
use rustbpe::{Control, Error};

fn ids(tokenizer: &Tokenizer, text: &[u8]) -> Vec<u32> {
    let mut out = Vec::new();
    tokenizer.encoder().encode(text, &mut out);
    out
}

fn byte_order(ties: TieOrder) -> [u8; 256] {
    let mut bytes: Vec<u8> = (0..=255).collect();
    if ties == TieOrder::HuggingFace {
        // Its alphabet: the bytes that print keep their character, the others follow from U+0100 on.
        let prints = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
        bytes.sort_by_key(|byte| !prints(byte));
    }
    bytes.try_into().expect("256 bytes")
}

fn tokenizer_of(text: &str, vocab_size: u32) -> Tokenizer {
    let counts = count_texts(&[text], Pattern::Picollm, 1, &Control::default()).expect("counts");
    Tokenizer::new(
        Pattern::Picollm,
        train(&counts, vocab_size, TieOrder::Rustbpe, &Control::default()).expect("trains"),
    )
}

#[test]
fn rustbpes_merges_on_real_text_come_out_one_by_one() {
    let Some(shared) = common::shared() else { return };
    let texts = fineweb(&shared);
    for size in [512, 4096] {
        let name = format!("data/tokenizer/trained/fineweb_edu_166docs_v{size}.tiktoken.gz");
        let theirs = Vocab::from_ranks(common::ranks(&common::gunzip(shared.join(name)))).expect("ranks");
        for workers in [1, 3] {
            let counts = count_texts(&texts, Pattern::Picollm, workers, &Control::default()).expect("counts");
            let ours =
                train(&counts, size + SPECIALS.len() as u32, TieOrder::Rustbpe, &Control::default()).expect("trains");
            assert_eq!(ours.merges(), theirs.merges());
        }
    }
}

fn fineweb(shared: &std::path::Path) -> Vec<String> {
    let file = FileEntry { path: "fineweb_edu_166docs.parquet".into(), size: 0, sha256: None };
    let segment = Segment { index: 0, files: (0, 1), slice: (0, 1) };
    let mut texts = Vec::new();
    let root = shared.join("data/fineweb_edu_real");
    let size = std::fs::metadata(root.join(&file.path)).expect("there").len();
    let files = [FileEntry { size, ..file }];
    read_segment(&root, &files, &segment, &ReadOptions::default(), &Control::default(), &mut |text| {
        texts.push(text.to_owned());
        Ok(())
    })
    .expect("reads");
    texts
}

/// row T3
#[test]
fn ids_equal_tiktokens_on_the_reference_strings() {
    let Some(shared) = common::shared() else { return };
    for (name, pattern) in [("r50k_base", Pattern::Gpt2), ("cl100k_base", Pattern::Cl100k)] {
        let ranks = common::ranks(&common::gunzip(shared.join(format!("data/tokenizer/vocab/{name}.tiktoken.gz"))));
        let tokenizer = Tokenizer::new(pattern, Vocab::from_ranks(ranks).expect("ranks"));
        let mut encoder = tokenizer.encoder();
        for row in common::vectors(&shared) {
            let text = row["text"].as_str().expect("text");
            let expected: Vec<u64> = row[name].as_array().expect("ids").iter().filter_map(|id| id.as_u64()).collect();
            let mut out = Vec::new();
            encoder.encode(text.as_bytes(), &mut out);
            assert_eq!(out.iter().map(|id| u64::from(*id)).collect::<Vec<_>>(), expected, "{name} {text:?}");
        }
    }
}

#[test]
fn a_vocabulary_larger_than_the_corpus_gives_says_how_far_it_got() {
    let counts = count_texts(&["abc abc"], Pattern::Picollm, 1, &Control::default()).expect("counts");
    let error = train(&counts, 1000, TieOrder::Rustbpe, &Control::default()).expect_err("too small");
    assert!(matches!(error, Error::CorpusTooSmall { got: 268, wanted: 1000 }), "{error}");
    assert!(train(&counts, 268, TieOrder::Rustbpe, &Control::default()).is_ok());
    assert!(matches!(train(&counts, 264, TieOrder::Rustbpe, &Control::default()), Err(Error::Invalid { .. })));
}

/// row T5
#[test]
fn counts_beyond_32_bits_decide_rightly_and_beyond_64_are_refused() {
    let many = (1_u64 << 32) + 5;
    let counts = Counts::from_pieces(Pattern::Picollm, [(&b"ab"[..], many), (&b"cd"[..], many - 1), (&b"ef"[..], 7)]);
    let vocab = train(&counts.expect("counts"), 267, TieOrder::Rustbpe, &Control::default()).expect("trains");
    assert_eq!(vocab.token(256), Some(&b"ab"[..]));
    assert_eq!(vocab.token(257), Some(&b"cd"[..]));
    let edge = Counts::from_pieces(Pattern::Picollm, [(&b"ab"[..], u64::MAX), (&b"cd"[..], 1)]).expect("counts");
    assert!(matches!(train(&edge, 266, TieOrder::Rustbpe, &Control::default()), Err(Error::Invalid { .. })));
    assert!(Counts::from_pieces(Pattern::Picollm, [(&b"ab"[..], u64::MAX), (&b"ab"[..], 1)]).is_err());
}

#[test]
fn a_cancelled_training_stops() {
    let ctl = Control::default();
    let counts = count_texts(&["some text to learn from"], Pattern::Picollm, 1, &ctl).expect("counts");
    ctl.cancel();
    assert!(matches!(train(&counts, 270, TieOrder::Rustbpe, &ctl), Err(Error::Cancelled)));
    assert!(matches!(count_texts(&["text"], Pattern::Picollm, 1, &ctl), Err(Error::Cancelled)));
}

/// row T11
#[test]
fn counting_in_little_memory_loses_nothing_but_what_it_says() {
    use std::fmt::Write;
    let folder = tempfile::tempdir().expect("temp");
    let mut all = String::new();
    for line in 0..49_100_u32 {
        let unlike = line.wrapping_mul(2_654_435_761);
        let letters: String = (0..7).map(|at| char::from(b'a' + (unlike >> (4 * at) & 15) as u8)).collect();
        writeln!(all, "the cat {letters} sat {letters}{letters}{letters} here").expect("string");
    }
    let files: Vec<FileEntry> =
        (0..6).map(|n| FileEntry { path: format!("{n}.txt"), size: all.len() as u64, sha256: None }).collect();
    files.iter().for_each(|file| std::fs::write(folder.path().join(&file.path), &all).expect("write"));
    let segments: Vec<Segment> = (0..6).map(|n| Segment { index: n, files: (n, n + 1), slice: (0, 1) }).collect();
    let options = ReadOptions::default();
    let corpus =
        Corpus { root: folder.path(), files: &files, segments: &segments, options: &options, val_ppm: 0, supply: None };
    let count = |max_chars, max_ram, workers| {
        let limits = Limits { max_chars, max_ram };
        count_segments(&corpus, Pattern::Picollm, limits, workers, &Control::default()).expect("counts")
    };
    let of = |counts: &Counts| {
        let mut all = Vec::new();
        counts.for_each(|piece, count| all.push((piece.to_vec(), count)));
        all
    };
    let whole = count(None, None, 1);
    // Three of six files reach the limit, whichever thread is ahead.
    let limit = Some(2 * all.len() as u64 + 1);
    let some = count(limit, None, 1);
    assert_eq!((some.seen.segments, some.seen.bytes), (3, 3 * all.len() as u64));
    (2..5).for_each(|workers| assert_eq!((of(&count(limit, None, workers)), workers), (of(&some), workers)));
    assert_eq!(whole.thrift, rustbpe::count::Thrift::default());
    for (max_chars, workers) in [(None, 1), (None, 3), (Some(u64::MAX), 2)] {
        let spilled = count(max_chars, Some(84 << 20), workers);
        assert!(spilled.thrift.runs > 0 && spilled.thrift.pieces == 0, "{:?}", spilled.thrift);
        assert_eq!((of(&spilled), &spilled.seen), (of(&whole), &whole.seen));
        let tight = count(max_chars, Some(4 << 20), workers);
        assert!(tight.thrift.least > 1 && tight.thrift.pieces > 0, "{:?}", tight.thrift);
        let kept: Vec<_> = of(&whole).into_iter().filter(|(_, count)| *count >= tight.thrift.least).collect();
        assert_eq!((of(&tight), tight.thrift.pieces), (kept, (whole.len() - tight.len()) as u64));
    }
}

/// row T2
#[test]
fn endless_pieces_are_encoded_on_a_small_stack_as_the_textbook_does() {
    let tokenizer = tokenizer_of(&"aaaaaaaa ^^^^ 's's \n\n\n abcabcabc ___ ".repeat(20), 285);
    let run = move || {
        for text in ["a", "^", " ", "\n", "_", "ab", "abc", "\u{200d}", "é\u{301}", "0", "'s"] {
            let long = text.repeat(300);
            let vocab = tokenizer.vocab();
            let twin: Vec<u32> = pieces(Pattern::Picollm, long.as_bytes())
                .into_iter()
                .flat_map(|piece| common::textbook_encode(vocab.byte_ids(), vocab.merges(), piece))
                .collect();
            assert_eq!(ids(&tokenizer, long.as_bytes()), twin, "{text:?}");
            let huge = text.repeat(200_000);
            let mut back = Vec::new();
            tokenizer.decode(&ids(&tokenizer, huge.as_bytes()), &mut back).expect("decodes");
            assert_eq!(back, huge.as_bytes());
        }
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).expect("spawn").join().expect("no overflow");
}

#[test]
fn one_huge_document_on_four_threads_has_the_ids_of_one_thread() {
    let words = "The quick brown fox, 1234 jumps over\n\n  the lazy dog; 日本語のテキスト。it's naïve ";
    let tokenizer = tokenizer_of(&words.repeat(3), 320);
    for text in [words.repeat(20_000), "a".repeat(2_000_000), "日本語。".repeat(100_000)] {
        let caches = batch::Caches::default();
        let made = batch::encode::<u32, _>(&tokenizer, &caches, &[&text, ""], 4, &Control::default()).expect("encodes");
        assert_eq!(made.parts.concat(), ids(&tokenizer, text.as_bytes()));
        assert_eq!(made.offsets[1], made.offsets[2]);
    }
}

/// row T12
#[test]
fn text_that_spells_a_special_token_is_text() {
    let tokenizer = tokenizer_of(&SPECIALS.concat().repeat(3), 296);
    assert!(ids(&tokenizer, SPECIALS.concat().as_bytes()).iter().all(|id| *id < tokenizer.bos()));
    assert_eq!(tokenizer.token_bytes(tokenizer.bos()), Some(&b"<|bos|>"[..]));
    assert_eq!(tokenizer.token_bytes(tokenizer.vocab_size() - 1), Some(&b"<|output_end|>"[..]));
    assert_eq!(tokenizer.token_bytes(tokenizer.vocab_size()), None);
}

#[test]
fn a_tokenizer_file_reads_back_to_the_same_tokenizer() {
    let tokenizer = tokenizer_of(&"the quick brown fox\tjumps “over” 12 dogs \u{0}\u{7f}. ".repeat(4), 290);
    let again = Tokenizer::from_json(tokenizer.to_json()).expect("reads");
    assert_eq!(again.vocab(), tokenizer.vocab());
    assert_eq!(again.fingerprint(), tokenizer.fingerprint());
    assert_eq!(again.to_json(), tokenizer.to_json());
}

/// row T10
#[test]
fn a_hostile_tokenizer_file_is_refused() {
    let good = String::from_utf8(tokenizer_of(&"abab cdcd ".repeat(9), 268).to_json().to_vec()).expect("text");
    assert!(Tokenizer::from_json(good.as_bytes()).is_ok());
    let refused = [
        ("\"a\":97", "\"a\":2147483647"),
        ("\"a\":97", "\"a\":98"),
        ("\"a\":97,", ""),
        ("\"a\":97", "\"a\":97,\"a\":97"),
        ("[\"a\",\"b\"]", "[\"ab\",\"b\"]"),
        ("[\"a\",\"b\"]", "[\"b\",\"a\"]"),
        ("\"ab\":256", "\"ax\":256"),
        ("[\"a\",\"b\"],", ""),
        ("<|bos|>", "<|eos|>"),
        ("{1,2}", "{1,4}"),
        ("\"normalizer\":null", "\"normalizer\":{\"type\":\"NFC\"}"),
        ("\"ignore_merges\":false", "\"ignore_merges\":true"),
        ("\"type\":\"Split\"", "\"type\":0"),
        ("\"type\":\"BPE\"", "\"type\":0"),
        ("\"Isolated\"", "{\"Isolated\":null}"),
        ("{\"Regex\":", "[\"Regex\","),
        (
            r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}"#,
            r#"["ByteLevel",false,true,false]"#,
        ),
        ("\"version\":\"1.0\"", "\"version\":\"2.0\""),
        ("\"model\":", "\"extra\":1,\"model\":"),
        ("}", ""),
    ];
    for (from, to) in refused {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from} is not in the file");
        assert!(matches!(Tokenizer::from_json(bad.as_bytes()), Err(Error::Format { .. })), "{from} → {to}");
    }
    assert!(Tokenizer::from_json(&vec![b' '; (16 << 20) + 1]).is_err());
    assert!(Tokenizer::from_json(b"\xff").is_err());
    let decoder = r#""decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}"#;
    let defaults = decoder.replace("false", "true");
    assert!(good.contains(decoder) && Tokenizer::from_json(good.replace(decoder, &defaults).as_bytes()).is_ok());
}

fn corpus() -> impl Strategy<Value = Vec<(Vec<u8>, u64)>> {
    prop::collection::vec(
        (prop::collection::vec(prop::sample::select(b"aaabbc\x00\xff".to_vec()), 1..14), 1..6_u64),
        1..12,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// rows T4, T6
    #[test]
    fn training_agrees_with_the_textbook(words in corpus(), merges in 0..24_usize) {
        for ties in [TieOrder::Rustbpe, TieOrder::HuggingFace] {
            let pieces: Vec<(&[u8], u64)> = words.iter().map(|(word, count)| (word.as_slice(), *count)).collect();
            let twin = common::textbook_train(&pieces, merges, &byte_order(ties));
            let counts = Counts::from_pieces(Pattern::Gpt2, pieces).expect("counts");
            let ours = train(&counts, 265 + twin.len() as u32, ties, &Control::default()).expect("trains");
            prop_assert_eq!(ours.merges(), &twin[..]);
            if twin.len() < merges {
                let refused = train(&counts, 266 + twin.len() as u32, ties, &Control::default());
                prop_assert!(matches!(refused, Err(Error::CorpusTooSmall { .. })), "not refused");
            }
        }
    }

    #[test]
    fn encoding_agrees_with_the_textbook(words in corpus(), text in prop::collection::vec(prop::sample::select(b"aaabbc\x00\xff".to_vec()), 1..200)) {
        let pieces: Vec<(&[u8], u64)> = words.iter().map(|(word, count)| (word.as_slice(), *count)).collect();
        let merges = common::textbook_train(&pieces, 30, &byte_order(TieOrder::Rustbpe));
        let tokenizer = Tokenizer::new(Pattern::Gpt2, Vocab::from_merges(merges.clone()).expect("vocab"));
        let mut encoder = tokenizer.encoder();
        for _ in 0..2 {
            let mut out = Vec::new();
            encoder.encode(&text, &mut out);
            let twin: Vec<u32> = rustbpe::split::pieces(Pattern::Gpt2, &text)
                .into_iter()
                .flat_map(|piece| common::textbook_encode(tokenizer.vocab().byte_ids(), &merges, piece))
                .collect();
            prop_assert_eq!(out, twin);
        }
    }

    #[test]
    fn a_batch_on_any_threads_is_its_texts_one_by_one(texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20), workers in 1..5_usize) {
        let tokenizer = tokenizer_of("the cat sat on the mat, thé 12 34 ", 280);
        let made = batch::encode::<u32, _>(&tokenizer, &batch::Caches::default(), &texts, workers, &Control::default()).expect("encodes");
        let all = made.parts.concat();
        for (at, text) in texts.iter().enumerate() {
            prop_assert_eq!(&all[made.offsets[at] as usize..made.offsets[at + 1] as usize], &ids(&tokenizer, text)[..]);
        }
    }

    #[test]
    fn a_text_cut_at_a_safe_place_splits_as_the_whole(text in "([a-zé日']{1,3}|[0-9]{1,3}|[ \n\t。!]{1,3}){1,30}", bad in any::<bool>(), from in 0..60_usize) {
        let text = if bad { [text.as_bytes(), b"\xe3\x81", text.as_bytes()].concat() } else { text.into_bytes() };
        let Some(cut) = safe_cut(&text, from) else { return Ok(()) };
        for pattern in Pattern::ALL {
            let halves = [pieces(pattern, &text[..cut]), pieces(pattern, &text[cut..])].concat();
            prop_assert_eq!(halves, pieces(pattern, &text));
        }
    }

    /// row T1
    #[test]
    fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let tokenizer = tokenizer_of("the cat sat on the mat, thé 12 34 ", 280);
        let mut back = Vec::new();
        tokenizer.decode(&ids(&tokenizer, &bytes), &mut back).expect("decodes");
        prop_assert_eq!(back, bytes);
    }

    #[test]
    fn a_stream_says_what_the_whole_says(bytes in prop::collection::vec(any::<u8>(), 0..60), text in ".{0,20}", cut in 1..5_usize) {
        for bytes in [bytes, text.into_bytes()] {
            let mut stream = TextStream::default();
            let mut said: String = bytes.chunks(cut).map(|part| stream.push(part)).collect();
            said += &stream.finish();
            prop_assert_eq!(said, String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn counts_do_not_depend_on_threads_or_on_how_documents_are_grouped(texts in prop::collection::vec("[ab ]{0,30}", 0..600)) {
        let ctl = Control::default();
        let one = count_texts(&texts, Pattern::Picollm, 1, &ctl).expect("counts");
        let four = count_texts(&texts, Pattern::Picollm, 4, &ctl).expect("counts");
        prop_assert_eq!(&one, &four);
        let mut seen = 0;
        one.for_each(|piece, count| seen += piece.len() as u64 * count);
        prop_assert_eq!(seen, one.seen.bytes);
    }
}
