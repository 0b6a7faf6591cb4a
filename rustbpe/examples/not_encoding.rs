//! What sharding costs beside encoding, with an encoder that does nothing: milliseconds of CPU for a MB of text.
//! `cargo run --release --example not_encoding -- FILE.parquet OUT [RUNS]`; Linux, prints JSON.
#![allow(missing_docs)]

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use rustbpe::shard::out::OutDir;
use rustbpe::sharder::{Plan, hex, run_segment_with};
use rustbpe::source::sha256_files;
use rustbpe::{Control, Error, Result};
use serde_json::json;

const VOCAB: u32 = 65_536;
/// Bytes of a token of English.
const BYTES_PER_TOKEN: usize = 4;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, out, runs @ ..] = args.as_slice() else {
        eprintln!("usage: not_encoding FILE.parquet OUT [RUNS]");
        std::process::exit(2);
    };
    let runs = runs.first().and_then(|runs| runs.parse().ok()).unwrap_or(5);
    match (0..runs).map(|_| shard(Path::new(file), Path::new(out))).collect::<Result<Vec<_>>>() {
        Ok(found) => println!("{}", json!({ "ms_per_mb": found })),
        Err(error) => {
            eprintln!("error: {error}");
            std::process::exit(1);
        }
    }
}

/// Milliseconds for a MB of text, from the file to its shards.
fn shard(file: &Path, out: &Path) -> Result<f64> {
    let size = file.metadata().map_err(|error| Error::io(file, error))?.len();
    let sha256 = sha256_files(&[file.to_owned()], 1, &Control::default())?;
    let name = file.file_name().map(|name| name.to_string_lossy());
    let plan = json!({
        "options": {"dtype": "uint16", "shard_tokens": 100_000_000, "val_ppm": 2_000, "text_column": "text"},
        "segments": [{"index": 0, "files": [0, 1], "slice": [0, 1]}],
        "source": {"files": [{"path": name, "size": size, "sha256": sha256.first()}]},
        "tokenizer": {"bos": VOCAB - 9, "sha256": hex(&[0; 32]), "vocab_size": VOCAB},
    });
    let plan = Plan::parse(plan.to_string().as_bytes())?;
    let (ctl, began) = (Control::default(), thread_ns()?);
    run_segment_with(&plan, 0, file.parent().unwrap_or(Path::new("")), &OutDir::open(out)?, &ctl, &mut |text, ids| {
        ids.resize(1 + text.len() / BYTES_PER_TOKEN, 7);
    })?;
    Ok((thread_ns()? - began) as f64 / ctl.bytes.load(Relaxed) as f64)
}

/// Nanoseconds this thread has run.
fn thread_ns() -> Result<u64> {
    let path = Path::new("/proc/thread-self/schedstat");
    let text = fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    Ok(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}
