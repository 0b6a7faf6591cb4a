//! Promises of reading: every document once, in order, whatever the slices; nothing bad passes in silence.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use common::chance::Chance;
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use proptest::prelude::*;
use rustbpe::source::{BadUtf8, FileEntry, OnBadFile, ReadOptions, ReadReport, Segment, read_segment, sniff};
use rustbpe::{Control, Error, Result};

type Rows<'a> = &'a [Option<&'a [u8]>];

fn write_parquet(path: &Path, groups: &[Rows<'_>], string: bool) {
    let logical = string.then_some(LogicalType::String);
    let field = Type::primitive_type_builder("text", Physical::BYTE_ARRAY)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical)
        .build()
        .unwrap();
    let schema = Type::group_type_builder("schema").with_fields(vec![Arc::new(field)]).build().unwrap();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.is_some())).collect();
        let values: Vec<ByteArray> = rows.iter().flatten().map(|row| ByteArray::from(row.to_vec())).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn entry(root: &Path, name: &str) -> FileEntry {
    FileEntry { path: name.into(), size: root.join(name).metadata().unwrap().len(), sha256: None }
}

fn read(root: &Path, names: &[&str], slice: (u32, u32), options: &ReadOptions) -> Result<(Vec<String>, ReadReport)> {
    let files: Vec<_> = names.iter().map(|name| entry(root, name)).collect();
    let segment = Segment { index: 0, files: (0, files.len() as u32), slice };
    let mut texts = Vec::new();
    let report = read_segment(root, &files, &segment, options, &Control::default(), &mut |text| {
        texts.push(text.to_owned());
        Ok(())
    })?;
    Ok((texts, report))
}

fn whole(root: &Path, name: &str) -> Result<(Vec<String>, ReadReport)> {
    read(root, &[name], (0, 1), &ReadOptions::default())
}

fn in_slices(root: &Path, name: &str, k: u32) -> Vec<String> {
    (0..k).flat_map(|j| read(root, &[name], (j, k), &ReadOptions::default()).unwrap().0).collect()
}

/// Row 4.
#[test]
fn nulls_and_empty_texts_are_counted_and_blanks_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let rows: [Rows<'_>; 3] = [&[Some(b"a"), None, Some(b"")], &[], &[Some(b" \n"), Some("ü".as_bytes())]];
    for string in [true, false] {
        write_parquet(&dir.path().join("x.parquet"), &rows, string);
        let (texts, report) = whole(dir.path(), "x.parquet").unwrap();
        assert_eq!(texts, ["a", " \n", "ü"]);
        assert_eq!((report.rows, report.null, report.empty), (5, 1, 1));
        for k in [2, 3, 7] {
            assert_eq!(in_slices(dir.path(), "x.parquet", k), texts);
        }
    }
}

/// Row 3.
#[test]
fn bad_utf8_stops_skips_or_is_replaced_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    write_parquet(&dir.path().join("x.parquet"), &[&[Some(b"a"), None, Some(b"b\xff\xf0\x9fc"), Some(b"d")]], false);
    fs::write(dir.path().join("x.jsonl"), b"{\"text\":\"a\"}\n{\"text\":\"b\xff\xf0\x9fc\"}\n{\"text\":\"d\"}")
        .unwrap();
    for (name, place) in [("x.parquet", "row group 0, row 2"), ("x.jsonl", "line at byte 13")] {
        let with = |bad_utf8| read(dir.path(), &[name], (0, 1), &ReadOptions { bad_utf8, ..Default::default() });
        let error = with(BadUtf8::Error).unwrap_err();
        assert!(matches!(error, Error::BadUtf8 { .. }) && error.to_string().contains(place), "{error}");
        let (texts, report) = with(BadUtf8::Skip).unwrap();
        assert_eq!((texts, report.bad_utf8), (vec!["a".to_owned(), "d".into()], 1));
        let (texts, report) = with(BadUtf8::Replace).unwrap();
        assert_eq!((texts[1].as_str(), report.bad_utf8), ("b\u{fffd}\u{fffd}c", 1));
    }
}

/// Rows 1, 2 and S10: cut anywhere, or with any byte changed, a file is read right or refused; never a panic.
#[test]
fn damaged_parquet_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let words: Vec<Vec<u8>> = (0..50).map(|n| format!("document number {n}").into_bytes()).collect();
    let rows: Vec<Option<&[u8]>> = words.iter().map(|word| Some(word.as_slice())).collect();
    write_parquet(&path, &[&rows, &rows], true);
    let good = fs::read(&path).unwrap();
    for cut in 0..good.len() {
        fs::write(&path, &good[..cut]).unwrap();
        let error = whole(dir.path(), "x.parquet").unwrap_err();
        assert!(matches!(error, Error::BadFile { .. }), "{cut}: {error}");
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).unwrap();
        match whole(dir.path(), "x.parquet") {
            Ok(_) | Err(Error::BadFile { .. } | Error::TextColumn { .. } | Error::BadUtf8 { .. }) => {}
            Err(error) => panic!("byte {at}: {error:?}"),
        }
    }
    std::panic::set_hook(hook);
    fs::write(&path, &good[..100]).unwrap();
    fs::write(dir.path().join("y.txt"), "after").unwrap();
    let options = ReadOptions { on_bad_file: OnBadFile::Skip, ..Default::default() };
    let (texts, report) = read(dir.path(), &["x.parquet", "y.txt"], (0, 1), &options).unwrap();
    assert_eq!((texts, report.bad_files), (vec!["after".to_owned()], vec!["x.parquet".to_owned()]));
}

/// Row S10: a tenth of `DAMAGE_CASES` (100,000) files with a few bytes changed, most of them in the footer, in 4 GiB of
/// address space: read or refused by name; no end of the process, no panic that gets out, no memory without measure.
#[test]
fn mutants_of_parquet_are_read_or_refused() {
    let cases = std::env::var("DAMAGE_CASES").map_or(100_000, |said| said.parse::<usize>().unwrap()) / 10;
    let (space, limit) = (4 << 30, rustix::process::getrlimit(rustix::process::Resource::As));
    rustix::process::setrlimit(
        rustix::process::Resource::As,
        rustix::process::Rlimit { current: Some(space), maximum: limit.maximum },
    )
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let words: Vec<Vec<u8>> = (0..40).map(|n| format!("document number {n}").repeat(1 + n % 5).into_bytes()).collect();
    let rows: Vec<Option<&[u8]>> = words.iter().enumerate().map(|(n, word)| (n % 7 > 0).then_some(&word[..])).collect();
    write_parquet(&path, &[&rows, &rows[..20], &rows], true);
    let good = fs::read(&path).unwrap();
    let footer = u32::from_le_bytes(good[good.len() - 8..good.len() - 4].try_into().unwrap()) as usize + 8;
    let mut chance = Chance::new("DAMAGE_SEED", 10);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut refused = 0;
    for case in 0..cases {
        let mut bytes = good.clone();
        for _ in 0..=chance.below(4) {
            let from = if chance.below(4) == 0 { 0 } else { good.len() - footer };
            let at = from + chance.below(good.len() - from);
            bytes[at] = chance.value(bytes[at].into()) as u8;
        }
        fs::write(&path, &bytes).unwrap();
        match whole(dir.path(), "x.parquet") {
            Ok(_) => {}
            Err(Error::BadFile { .. } | Error::TextColumn { .. } | Error::BadUtf8 { .. }) => refused += 1,
            Err(error) => panic!("case {case}: {error:?}"),
        }
    }
    std::panic::set_hook(hook);
    assert!(refused > cases / 4, "{refused} of {cases}");
}

#[test]
fn members_and_frames_follow_each_other_and_an_end_cut_off_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut gz = Vec::new();
    let mut zst = Vec::new();
    for text in ["{\"text\":\"a\"}\n{\"te", "xt\":\"b\"}\n"] {
        let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        member.write_all(text.as_bytes()).unwrap();
        gz.extend(member.finish().unwrap());
        zst.extend(zstd::encode_all(text.as_bytes(), 1).unwrap());
    }
    for (name, bytes) in [("x.jsonl.gz", gz), ("x.jsonl.zst", zst)] {
        fs::write(dir.path().join(name), &bytes).unwrap();
        assert_eq!(whole(dir.path(), name).unwrap().0, ["a", "b"]);
        fs::write(dir.path().join(name), &bytes[..bytes.len() - 3]).unwrap();
        assert!(matches!(whole(dir.path(), name).unwrap_err(), Error::BadFile { .. }));
    }
}

#[test]
fn a_separator_cuts_a_text_file_wherever_it_falls() {
    let dir = tempfile::tempdir().unwrap();
    let options = ReadOptions { doc_sep: Some("<|end|>".into()), ..Default::default() };
    let texts: Vec<String> = (0..5).map(|n| "x".repeat((1 << 20) - 3 * n)).collect();
    fs::write(dir.path().join("x.txt"), texts.join("<|end|>")).unwrap();
    assert_eq!(read(dir.path(), &["x.txt"], (0, 1), &options).unwrap().0, texts);
    fs::write(dir.path().join("x.txt"), "<|end|>a<|end|<|end|><|end|>b").unwrap();
    let (texts, report) = read(dir.path(), &["x.txt"], (0, 1), &options).unwrap();
    assert_eq!(texts, ["a<|end|", "b"]);
    assert_eq!((report.rows, report.empty), (4, 2));
}

/// Row 14.
#[test]
fn a_key_that_no_line_has_is_a_misspelling_and_a_number_is_no_text() {
    let dir = tempfile::tempdir().unwrap();
    let lines = "\u{feff}{\"a\":\"t\",\"n\":1}\n\n{\"a\":\"\\u00fc\\ud83d\\ude00\"}\n";
    fs::write(dir.path().join("x.jsonl"), lines).unwrap();
    let with = |key: &str| {
        let options = ReadOptions { text_column: Some(key.into()), ..Default::default() };
        read(dir.path(), &["x.jsonl"], (0, 1), &options)
    };
    assert_eq!(with("a").unwrap().0, ["t", "ü😀"]);
    for key in ["b", "n"] {
        let error = with(key).unwrap_err();
        assert!(matches!(error, Error::TextColumn { .. }), "{error}");
    }
    assert!(with("b").unwrap_err().to_string().contains("a (string), n (number)"));
    let look = sniff(dir.path(), &[entry(dir.path(), "x.jsonl")], &ReadOptions::default()).unwrap();
    assert_eq!(look.text_column.unwrap(), "a");
    fs::write(dir.path().join("x.jsonl"), "{\"a\":\"t\"}\n{\"a\":").unwrap();
    assert!(matches!(with("a").unwrap_err(), Error::BadFile { .. }));
}

/// Row 13.
#[test]
fn a_file_of_another_size_or_outside_the_root_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.txt"), "abc").unwrap();
    let segment = Segment { index: 0, files: (0, 1), slice: (0, 1) };
    let look = |path: &str, size| {
        let files = [FileEntry { path: path.into(), size, sha256: None }];
        read_segment(dir.path(), &files, &segment, &ReadOptions::default(), &Control::default(), &mut |_| Ok(()))
    };
    assert!(look("x.txt", 3).is_ok());
    assert!(matches!(look("x.txt", 4).unwrap_err(), Error::SourceChanged { .. }));
    assert!(matches!(look("y.txt", 4).unwrap_err(), Error::SourceChanged { .. }));
    for path in ["../x.txt", "/etc/passwd", "a/../../x.txt"] {
        assert!(matches!(look(path, 3).unwrap_err(), Error::Invalid { .. }));
    }
}

#[test]
fn a_wish_to_stop_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.jsonl"), "{\"text\":\"a\"}\n".repeat(1000)).unwrap();
    let ctl = Control::default();
    let mut seen = 0;
    let segment = Segment { index: 0, files: (0, 1), slice: (0, 1) };
    let files = [entry(dir.path(), "x.jsonl")];
    let outcome = read_segment(dir.path(), &files, &segment, &ReadOptions::default(), &ctl, &mut |_| {
        seen += 1;
        ctl.cancel();
        Ok(())
    });
    assert!(matches!(outcome.unwrap_err(), Error::Cancelled));
    assert!(seen < 300);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn slices_of_a_jsonl_file_are_the_file(texts in prop::collection::vec("\\PC{0,20}", 1..20), k in 1_u32..9, end: bool) {
        let dir = tempfile::tempdir().unwrap();
        let lines: Vec<_> = texts.iter().map(|text| serde_json::json!({"id": 1, "text": text}).to_string()).collect();
        let last = if end { "\n" } else { "" };
        fs::write(dir.path().join("x.jsonl"), lines.join("\n") + last).unwrap();
        let kept: Vec<_> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        prop_assert_eq!(in_slices(dir.path(), "x.jsonl", k), kept);
    }
}
