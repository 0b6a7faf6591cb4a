//! Bytes per second of each stage of the tokenizer, on the real text beside the checkout.
//! `PICOLLM_SHARED=… cargo bench -p rustbpe --bench tokenizer`
#![allow(missing_docs, clippy::expect_used)]

use std::path::PathBuf;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rustbpe::Control;
use rustbpe::count::count_texts;
use rustbpe::encode::Tokenizer;
use rustbpe::source::{FileEntry, ReadOptions, Segment, read_segment};
use rustbpe::split::{Pattern, for_each_piece};
use rustbpe::train::{TieOrder, train};

/// Documents of `english_100`: its first 23,000 are for training, the others held out.
fn documents() -> Option<Vec<String>> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = PathBuf::from(std::env::var_os("PICOLLM_SHARED").unwrap_or_else(|| beside.into()));
    let root = root.join("data/bench_corpus");
    let path = "english_100.parquet".to_owned();
    let size = std::fs::metadata(root.join(&path)).ok()?.len();
    let files = [FileEntry { path, size, sha256: None }];
    let segment = Segment { index: 0, files: (0, 1), slice: (0, 1) };
    let options = ReadOptions { text_column: Some("text".into()), ..ReadOptions::default() };
    let mut texts = Vec::new();
    read_segment(&root, &files, &segment, &options, &Control::default(), &mut |text| {
        texts.push(text.to_owned());
        Ok(())
    })
    .expect("reads");
    Some(texts)
}

fn bench(criterion: &mut Criterion) {
    let Some(texts) = documents() else {
        eprintln!("skipped: no bench_corpus; set PICOLLM_SHARED");
        return;
    };
    let (seen, held_out) = texts.split_at(23_000);
    let ctl = Control::default();
    let bytes = |texts: &[String]| Throughput::Bytes(texts.iter().map(|text| text.len() as u64).sum());
    let mut group = criterion.benchmark_group("english");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(5));

    group.throughput(bytes(held_out));
    for pattern in Pattern::ALL {
        group.bench_function(format!("split/{}", pattern.name()), |bencher| {
            bencher.iter(|| {
                let mut pieces = 0_usize;
                held_out.iter().for_each(|text| for_each_piece(pattern, text.as_bytes(), |_, _, _| pieces += 1));
                pieces
            });
        });
    }
    group.throughput(bytes(seen));
    for workers in [1, 2] {
        group.bench_function(format!("count/{workers}"), |bencher| {
            bencher.iter(|| count_texts(seen, Pattern::Picollm, workers, &ctl).expect("counts"));
        });
    }
    let counts = count_texts(seen, Pattern::Picollm, 2, &ctl).expect("counts");
    group.bench_function("merge/65536", |bencher| {
        bencher.iter(|| train(&counts, 65_536, TieOrder::Rustbpe, &ctl).expect("trains"));
    });
    let vocab = train(&counts, 65_536, TieOrder::Rustbpe, &ctl).expect("trains");
    let tokenizer = Tokenizer::new(Pattern::Picollm, vocab);
    group.throughput(bytes(held_out));
    let encode = |encoder: &mut rustbpe::encode::Encoder<'_>, out: &mut Vec<u32>| {
        out.clear();
        held_out.iter().for_each(|text| encoder.encode(text.as_bytes(), out));
        out.len()
    };
    group.bench_function("encode/cold", |bencher| {
        let mut out = Vec::new();
        bencher.iter_batched_ref(|| tokenizer.encoder(), |encoder| encode(encoder, &mut out), BatchSize::LargeInput);
    });
    group.bench_function("encode/warm", |bencher| {
        let (mut encoder, mut out) = (tokenizer.encoder(), Vec::new());
        bencher.iter(|| encode(&mut encoder, &mut out));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
