//! Promises of sharding: the same bytes whatever the workers and interruptions, and no damage unseen.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use rustbpe::encode::Tokenizer;
use rustbpe::shard::format::{Dtype, Header};
use rustbpe::shard::out::OutDir;
use rustbpe::shard::verify::verify;
use rustbpe::shard::write::{Facts, Split, SplitWriter};
use rustbpe::sharder::{Plan, SegmentRecord, Wanted, hex, run_segment, run_segments};
use rustbpe::source::{Supply, is_validation};
use rustbpe::split::Pattern;
use rustbpe::vocab::Vocab;
use rustbpe::{Control, Error, Result};
use serde_json::json;

/// Bytes only: 256 tokens and nine specials.
fn tokenizer() -> Tokenizer {
    Tokenizer::new(Pattern::Gpt2, Vocab::from_merges(Vec::new()).unwrap())
}

/// 60 texts in three files, one of them cut in two.
fn source(root: &Path) -> Vec<String> {
    let texts: Vec<String> = (0..60).map(|n| format!("text {n} ").repeat(1 + n % 7)).collect();
    for (file, texts) in texts.chunks(20).enumerate() {
        let lines: Vec<String> = texts.iter().map(|text| json!({"text": text}).to_string() + "\n").collect();
        fs::write(root.join(format!("{file}.jsonl")), lines.concat()).unwrap();
    }
    texts
}

fn plan(root: &Path, shard_tokens: u64) -> Plan {
    let files: Vec<_> = (0..3)
        .map(|file| {
            let path = format!("{file}.jsonl");
            let size = root.join(&path).metadata().unwrap().len();
            json!({"path": path, "size": size, "sha256": hex(&[file; 32])})
        })
        .collect();
    let segments: Vec<_> = [(0, 1, 0, 2), (0, 1, 1, 2), (1, 3, 0, 1)]
        .iter()
        .enumerate()
        .map(|(index, &(first, end, j, k))| json!({"index": index, "files": [first, end], "slice": [j, k]}))
        .collect();
    let tokenizer = tokenizer();
    let text = json!({
        "options": {"dtype": "uint16", "shard_tokens": shard_tokens, "val_ppm": 200_000, "text_column": "text"},
        "segments": segments,
        "source": {"files": files},
        "tokenizer": {"bos": 256, "sha256": hex(&tokenizer.fingerprint()), "vocab_size": 265},
    });
    Plan::from_json(text.to_string().as_bytes(), &tokenizer).unwrap()
}

fn run(root: &Path, out: &Path, workers: usize, wanted: &Wanted) -> Result<Vec<SegmentRecord>> {
    let out = OutDir::open(out)?;
    run_segments(&plan(root, 400), root, &tokenizer(), &out, wanted, workers, &Control::default())
}

fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.map(|path| (path.file_name().unwrap().to_str().unwrap().into(), fs::read(&path).unwrap())).collect()
}

/// Documents of one split, read with nothing but the offsets.
fn documents(root: &Path, records: &[SegmentRecord], split: Split) -> Vec<String> {
    let mut texts = Vec::new();
    for file in records.iter().flat_map(|record| &record.files).filter(|file| file.split == split) {
        let bin = fs::read(root.join(format!("{}.bin", file.name))).unwrap();
        let docs = fs::read(root.join(format!("{}.docs.npy", file.name))).unwrap();
        let ends: Vec<usize> =
            docs[128..].as_chunks().0.iter().map(|&word| u32::from_le_bytes(word) as usize).collect();
        for pair in ends.windows(2) {
            let ids: Vec<u16> = bin[1024 + 2 * pair[0]..1024 + 2 * pair[1]]
                .as_chunks()
                .0
                .iter()
                .map(|&id| u16::from_le_bytes(id))
                .collect();
            assert_eq!(ids[0], 256);
            texts.push(String::from_utf8(ids[1..].iter().map(|&id| id as u8).collect()).unwrap());
        }
    }
    texts
}

/// Rows 10 and S13.
#[test]
fn any_number_of_workers_writes_the_same_bytes_and_every_document_once() {
    let source_dir = tempfile::tempdir().unwrap();
    let texts = source(source_dir.path());
    let (held_out, kept): (Vec<_>, Vec<_>) =
        texts.into_iter().partition(|text| is_validation(text.as_bytes(), 200_000));
    let mut first = None;
    for workers in [1, 2, 3, 7] {
        let out = tempfile::tempdir().unwrap();
        let records = run(source_dir.path(), out.path(), workers, &Wanted::default()).unwrap();
        assert_eq!(documents(out.path(), &records, Split::Train), kept);
        assert_eq!(documents(out.path(), &records, Split::Val), held_out);
        assert!(records.iter().flat_map(|record| &record.files).any(|file| file.name == "train_000002_01"));
        let tree = tree(out.path());
        for name in tree.keys().filter(|name| name.ends_with(".bin")) {
            verify(&out.path().join(name), &Control::default()).unwrap();
        }
        assert_eq!(*first.get_or_insert_with(|| tree.clone()), tree);
    }
}

#[test]
fn a_record_is_canonical_json_and_agrees_with_the_headers() {
    let source_dir = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    source(source_dir.path());
    for record in run(source_dir.path(), out.path(), 1, &Wanted::default()).unwrap() {
        let bytes = fs::read(out.path().join(format!("segment_{:06}.json", record.segment.index))).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value.to_string().as_bytes(), bytes);
        for file in &record.files {
            let path = out.path().join(format!("{}.bin", file.name));
            let bytes = fs::read(&path).unwrap();
            let header = Header::parse(&path, &bytes, bytes.len() as u64).unwrap();
            assert_eq!((header.tokens.into(), header.documents), (file.n_tokens, file.n_docs));
            assert_eq!((header.max_id, header.text_bytes), (file.max_id, file.utf8_bytes));
            assert_eq!((hex(&header.payload), hex(&header.docs)), (file.blake3.clone(), file.blake3_docs.clone()));
            assert_eq!(format!("blake3:{}", hex(&header.segment_id)), record.segment.id);
            assert!(path.metadata().unwrap().permissions().readonly());
        }
    }
}

#[test]
fn leading_segments_with_enough_tokens_suffice() {
    let source_dir = tempfile::tempdir().unwrap();
    source(source_dir.path());
    let out = tempfile::tempdir().unwrap();
    let some = run(source_dir.path(), out.path(), 1, &Wanted { tokens: Some(100), ..Default::default() }).unwrap();
    assert_eq!(some.iter().map(|record| record.segment.index).collect::<Vec<_>>(), [0]);
    let done = some.iter().map(|record| (record.segment.index, record.train_tokens())).collect();
    let rest = run(source_dir.path(), out.path(), 2, &Wanted { done, ..Default::default() }).unwrap();
    assert_eq!(rest.iter().map(|record| record.segment.index).collect::<Vec<_>>(), [1, 2]);
}

/// Writes a file only once it is asked for, and never the files of the last segment.
#[derive(Debug)]
struct LateFiles<'a> {
    root: &'a Path,
    done: Mutex<Vec<u32>>,
}

impl Supply for LateFiles<'_> {
    fn ready(&self, segment: u32) -> Result<bool> {
        if segment == 0 {
            source(self.root);
        }
        std::thread::yield_now();
        Ok(segment < 2)
    }

    fn done(&self, segment: u32, amount: u64) -> Result<()> {
        assert!(amount > 0);
        self.done.lock().unwrap().push(segment);
        Ok(())
    }
}

#[test]
fn files_may_come_late_and_nobody_waits_for_those_no_longer_needed() {
    let source_dir = tempfile::tempdir().unwrap();
    source(source_dir.path());
    let planned = plan(source_dir.path(), 400);
    let whole = tempfile::tempdir().unwrap();
    let all = run(source_dir.path(), whole.path(), 1, &Wanted::default()).unwrap();
    fs::remove_file(source_dir.path().join("0.jsonl")).unwrap();
    let tokens = Some(all[0].train_tokens() + 1); // the first two segments have them; three workers take all three
    let supply = LateFiles { root: source_dir.path(), done: Mutex::default() };
    let wanted = Wanted { tokens, supply: Some(&supply), ..Default::default() };
    let out = tempfile::tempdir().unwrap();
    let opened = OutDir::open(out.path()).unwrap();
    let root = source_dir.path();
    let some = run_segments(&planned, root, &tokenizer(), &opened, &wanted, 3, &Control::default()).unwrap();
    assert_eq!(some, all[..2]);
    let mut done = supply.done.into_inner().unwrap();
    done.sort_unstable();
    assert_eq!(done, [0, 1]);
}

#[test]
fn a_stopped_segment_leaves_nothing_behind() {
    let source_dir = tempfile::tempdir().unwrap();
    source(source_dir.path());
    let out = tempfile::tempdir().unwrap();
    let ctl = Control::default();
    ctl.cancel();
    let folder = OutDir::open(out.path()).unwrap();
    let plan = plan(source_dir.path(), 1000);
    let outcome = run_segments(&plan, source_dir.path(), &tokenizer(), &folder, &Wanted::default(), 2, &ctl);
    assert!(matches!(outcome.unwrap_err(), Error::Cancelled));
    fs::write(source_dir.path().join("1.jsonl"), "{").unwrap();
    let outcome = run_segment(&plan, 2, source_dir.path(), &tokenizer(), &folder, &Control::default());
    assert!(matches!(outcome.unwrap_err(), Error::SourceChanged { .. }));
    assert!(tree(out.path()).is_empty());
    assert_eq!(fs::read_dir(out.path().join(".picollm/partial")).unwrap().count(), 0);
}

fn facts(dtype: Dtype, vocab_size: u32) -> Facts {
    Facts { dtype, vocab_size, bos: 0, segment: 0, tokenizer: [0; 32], segment_id: [0; 32], part_tokens: u64::MAX }
}

/// Row S9.
#[test]
fn an_id_outside_the_vocabulary_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = OutDir::open(dir.path()).unwrap();
    for (dtype, vocab_size) in [(Dtype::U16, 300), (Dtype::U16, 65_536), (Dtype::U32, 70_000)] {
        let facts = facts(dtype, vocab_size);
        let mut writer = SplitWriter::new(&out, &facts, Split::Train);
        writer.push(&[0, vocab_size - 1], 1).unwrap();
        for id in [vocab_size, u32::MAX] {
            assert!(matches!(writer.push(&[0, id], 1).unwrap_err(), Error::Corrupt { .. }));
        }
        drop(writer);
        assert!(SplitWriter::new(&out, &facts, Split::Val).finish().unwrap().is_empty());
    }
    assert_eq!(fs::read_dir(dir.path().join(".picollm/partial")).unwrap().count(), 0);
}

/// Rows S7 and 17: every byte of a small shard and of its sidecar is guarded.
#[test]
fn every_changed_byte_and_every_cut_is_found_by_verify() {
    let source_dir = tempfile::tempdir().unwrap();
    source(source_dir.path());
    let out = tempfile::tempdir().unwrap();
    run(source_dir.path(), out.path(), 1, &Wanted { tokens: Some(1), ..Default::default() }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let check = || verify(&dir.path().join("train_000000.bin"), &Control::default());
    let copy = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    let tree = tree(out.path());
    for name in ["train_000000.bin", "train_000000.docs.npy"] {
        for (name, bytes) in &tree {
            copy(name, bytes);
        }
        check().unwrap();
        let good = &tree[name];
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            copy(name, &bad);
            assert!(check().is_err(), "{name} byte {at}");
            copy(name, &good[..at]);
            assert!(check().is_err(), "{name} cut at {at}");
        }
        copy(name, &[good.as_slice(), &[0]].concat());
        assert!(check().is_err());
        fs::remove_file(dir.path().join(name)).unwrap();
        assert!(matches!(check().unwrap_err(), Error::Missing { .. }));
    }
}
