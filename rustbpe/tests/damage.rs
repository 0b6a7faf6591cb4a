//! Malformed headers, sidecars and records, and flipped bits: none accepted, no panic. `DAMAGE_CASES` (100,000 of each
//! unless said) and `DAMAGE_SEED` are read from the environment; every failure prints the seed.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::chance::Chance;
use rustbpe::Control;
use rustbpe::encode::Tokenizer;
use rustbpe::shard::format::{Dtype, HEADER_BYTES, Header, check_docs, docs_prefix};
use rustbpe::shard::out::OutDir;
use rustbpe::shard::verify::verify;
use rustbpe::sharder::{Plan, SegmentRecord, hex, run_segment};
use rustbpe::split::Pattern;
use rustbpe::vocab::Vocab;
use serde_json::json;

fn cases() -> usize {
    std::env::var("DAMAGE_CASES").map_or(100_000, |said| said.parse().unwrap())
}

fn chance(stream: u64) -> Chance {
    Chance::new("DAMAGE_SEED", stream)
}

fn tokenizer() -> Tokenizer {
    Tokenizer::new(Pattern::Gpt2, Vocab::from_merges(Vec::new()).unwrap())
}

fn plan() -> Vec<u8> {
    let tokenizer = tokenizer();
    json!({
        "options": {"dtype": "uint16", "shard_tokens": 100, "val_ppm": 200_000, "text_column": "text"},
        "segments": [{"index": 0, "files": [0, 1], "slice": [0, 1]}],
        "source": {"files": [{"path": "x.jsonl", "size": 0, "sha256": hex(&[7; 32])}]},
        "tokenizer": {"bos": 256, "sha256": hex(&tokenizer.fingerprint()), "vocab_size": 265},
    })
    .to_string()
    .into_bytes()
}

/// A set of one segment in a folder: two training parts and one of validation, and the record.
fn one_segment() -> (tempfile::TempDir, Plan, SegmentRecord) {
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> =
        (0..20).map(|n| json!({"text": format!("text {n} ").repeat(1 + n % 4)}).to_string() + "\n").collect();
    fs::write(dir.path().join("x.jsonl"), lines.concat()).unwrap();
    let mut body: serde_json::Value = serde_json::from_slice(&plan()).unwrap();
    body["source"]["files"][0]["size"] = json!(lines.concat().len());
    let plan = Plan::from_json(body.to_string().as_bytes(), &tokenizer()).unwrap();
    let out = OutDir::open(dir.path()).unwrap();
    let record = run_segment(&plan, 0, dir.path(), &tokenizer(), &out, &Control::default()).unwrap();
    (dir, plan, record)
}

/// The rules of `shards/README.md`, section 2, read off one after the other: the twin of [`Header::parse`].
fn allowed(bytes: &[u8; HEADER_BYTES], size: u64) -> bool {
    let words: Vec<u64> =
        bytes.as_chunks().0.iter().map(|&word: &[u8; 4]| u64::from(u32::from_le_bytes(word))).collect();
    let wide = match (words[0], words[1]) {
        (20_240_520, 1) => false,
        (20_240_801, 7) => true,
        _ => return false,
    };
    let (n, documents, text) = (words[2], words[6] | words[7] << 32, words[12] | words[13] << 32);
    let (vocab, bos, largest) = (words[8], words[9], words[11]);
    let payload = n * if wide { 4 } else { 2 };
    words[3] == 0x4F43_4950
        && words[4] == 1
        && (words[5] == 1 || words[5] == 5)
        && words[10] == 0xFFFF_FFFF
        && words[48..254].iter().all(|&word| word == 0)
        && words[254] | words[255] << 32 == twox_hash::XxHash3_64::oneshot(&bytes[..1016])
        && (wide || vocab <= 65_536)
        && bos <= largest
        && largest < vocab
        && (1..=n).contains(&documents)
        && text >= documents
        && payload <= (1 << 31) - 4096
        && size == 1024 + payload
}

fn sample() -> Header {
    Header {
        dtype: Dtype::U16,
        permuted: false,
        tokens: 1000,
        documents: 10,
        vocab_size: 65_536,
        bos: 65_527,
        max_id: 65_535,
        text_bytes: 4321,
        segment: 7,
        part: 1,
        tokenizer: [1; 32],
        segment_id: [2; 32],
        payload: [3; 32],
        docs: [4; 32],
    }
}

/// Rows S8 and 18: of headers that lie on purpose, checksum and all, only those that mean something are read, and they
/// are read as what they say.
#[test]
fn a_malformed_header_is_refused_by_the_rules_as_they_are_written() {
    let (mut chance, mut read) = (chance(1), 0);
    for case in 0..cases() {
        let mut header = sample();
        if chance.below(2) == 0 {
            header.dtype = Dtype::U32;
        }
        let mut bytes = header.encode();
        for _ in 0..=chance.below(3) {
            let word = if chance.below(4) == 0 { chance.below(256) } else { chance.below(16) };
            let old = u32::from_le_bytes(*bytes[4 * word..].first_chunk().unwrap());
            bytes[4 * word..4 * word + 4].copy_from_slice(&chance.value(old).to_le_bytes());
        }
        if chance.below(8) > 0 {
            let checksum = twox_hash::XxHash3_64::oneshot(&bytes[..1016]);
            bytes[1016..].copy_from_slice(&checksum.to_le_bytes());
        }
        let tokens = u64::from(u32::from_le_bytes(*bytes[8..].first_chunk().unwrap()));
        let width = if bytes[0..4] == 20_240_801_u32.to_le_bytes() { 4 } else { 2 };
        let size = if chance.below(8) > 0 { 1024 + width * tokens } else { chance.next() };
        match Header::parse(Path::new("x.bin"), &bytes, size) {
            Ok(found) => {
                read += 1;
                assert!(allowed(&bytes, size), "case {case}: {found:?}");
                assert_eq!(found.encode(), bytes, "case {case}");
            }
            Err(error) => assert!(!allowed(&bytes, size), "case {case}: {error}"),
        }
    }
    assert!(read > cases() / 100, "{read} of {} were read: the lies are too coarse to show anything", cases());
}

/// Row S8.
#[test]
fn a_malformed_sidecar_is_refused_unless_it_says_something_true() {
    let mut chance = chance(2);
    let header = Header { documents: 5, tokens: 40, ..sample() };
    let mut good = docs_prefix(5).to_vec();
    good.extend([0_u32, 3, 9, 10, 31, 40].iter().flat_map(|end| end.to_le_bytes()));
    check_docs(Path::new("x.docs.npy"), &good, &header).unwrap();
    for case in 0..cases() {
        let mut bad = good.clone();
        for _ in 0..=chance.below(3) {
            match chance.below(5) {
                0 => bad.truncate(chance.below(bad.len() + 1)),
                1 => bad.push(chance.next() as u8),
                2 if !bad.is_empty() => {
                    let at = chance.below(bad.len());
                    bad[at] = chance.next() as u8;
                }
                _ => {
                    let at = 128 + 4 * chance.below(6);
                    if let Some(word) = bad.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
                        *word = chance.value(u32::from_le_bytes(*word)).to_le_bytes();
                    }
                }
            }
        }
        let ends: Vec<u32> = bad
            .get(128..)
            .unwrap_or(&[])
            .chunks(4)
            .map(|word| word.iter().rfold(0, |n, &b| n << 8 | u32::from(b)))
            .collect();
        let true_of_it = bad.len() == good.len()
            && bad[..128] == good[..128]
            && (ends[0], ends[5]) == (0, 40)
            && ends.is_sorted_by(|a, b| a < b);
        assert_eq!(check_docs(Path::new("x.docs.npy"), &bad, &header).is_ok(), true_of_it, "case {case}: {ends:?}");
    }
}

/// A change of a few bytes: flipped, replaced, dropped, doubled, or a digit made another.
fn changed(good: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bad = good.to_vec();
    for _ in 0..=chance.below(2) {
        let at = chance.below(bad.len());
        match chance.below(6) {
            0 => bad[at] ^= 1 << chance.below(8),
            1 => bad[at] = b"{}[]\",:0123456789eE+-. tfn\\"[chance.below(27)],
            2 => drop(bad.remove(at)),
            3 => bad.insert(at, bad[at]),
            4 => bad.truncate(at + 1),
            _ => {
                if let Some(digit) = bad[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                    *digit = b'0' + (*digit - b'0' + 1) % 10;
                }
            }
        }
    }
    bad
}

/// Row S8.
#[test]
fn a_malformed_commit_record_is_refused() {
    let (_dir, _plan, record) = one_segment();
    let good = record.to_json().unwrap();
    let path = Path::new("segment_000000.json");
    assert_eq!(SegmentRecord::from_json(path, &good).unwrap(), record);
    let mut chance = chance(3);
    for case in 0..cases() {
        let bad = changed(&good, &mut chance);
        let accepted = SegmentRecord::from_json(path, &bad).is_ok();
        assert_eq!(accepted, bad == good, "case {case}: {}", String::from_utf8_lossy(&bad));
    }
}

/// Rows S7 and 17: a bit flipped anywhere in a segment's files is found, by the restart where it reads, else by `verify`.
#[test]
fn no_flipped_bit_is_accepted() {
    let (dir, plan, record) = one_segment();
    let bins: Vec<PathBuf> = record.files.iter().map(|file| dir.path().join(format!("{}.bin", file.name))).collect();
    assert!(bins.len() > 2);
    let mut places = vec![(dir.path().join("segment_000000.json"), None)];
    for bin in &bins {
        places.push((bin.clone(), Some(bin)));
        places.push((bin.with_extension("docs.npy"), Some(bin)));
    }
    let open: Vec<(File, Vec<u8>, Option<&PathBuf>)> = places
        .into_iter()
        .map(|(path, bin)| {
            let mut mode = path.metadata().unwrap().permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o644);
            fs::set_permissions(&path, mode).unwrap();
            (File::options().write(true).open(&path).unwrap(), fs::read(&path).unwrap(), bin)
        })
        .collect();
    let found = |bin: Option<&PathBuf>| match bin {
        Some(bin) => verify(bin, &Control::default()).is_err(),
        None => plan.committed(dir.path(), 0).is_err(),
    };
    assert!(open.iter().all(|(.., bin)| !found(*bin)));
    let mut chance = chance(4);
    let bytes: usize = open.iter().map(|(_, good, _)| good.len()).sum();
    for case in 0..cases() {
        let mut at = chance.below(bytes);
        let (file, good, bin) = open
            .iter()
            .find(|(_, good, _)| {
                let here = at < good.len();
                at -= if here { 0 } else { good.len() };
                here
            })
            .unwrap();
        file.write_all_at(&[good[at] ^ 1 << chance.below(8)], at as u64).unwrap();
        assert!(found(*bin), "case {case}: byte {at} of {bin:?}");
        file.write_all_at(&good[at..=at], at as u64).unwrap();
    }
    assert!(open.iter().all(|(.., bin)| !found(*bin)));
}

/// Row S7: whole files in each other's places, cut or longer.
#[test]
fn a_file_in_the_place_of_another_is_found_at_the_restart() {
    let (dir, plan, record) = one_segment();
    let names: Vec<PathBuf> = record.files.iter().map(|file| dir.path().join(format!("{}.bin", file.name))).collect();
    let others: Vec<PathBuf> = names.iter().map(|path| path.with_extension("docs.npy")).collect();
    plan.committed(dir.path(), 0).unwrap();
    for paths in [names, others] {
        let good: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        for (at, path) in paths.iter().enumerate() {
            let mine = &good[at];
            let cut = mine[..mine.len() - 1].to_vec();
            for bad in [good[(at + 1) % good.len()].clone(), cut, [mine.as_slice(), b"x"].concat(), vec![]] {
                let same = bad.len() == mine.len() && path.extension().is_some_and(|kind| kind == "npy");
                fs::remove_file(path).unwrap();
                fs::write(path, bad).unwrap();
                assert!(same || plan.committed(dir.path(), 0).is_err(), "{path:?}");
                fs::remove_file(path).unwrap();
                assert!(plan.committed(dir.path(), 0).is_err(), "{path:?}");
                fs::write(path, mine).unwrap();
            }
        }
    }
    plan.committed(dir.path(), 0).unwrap();
}
