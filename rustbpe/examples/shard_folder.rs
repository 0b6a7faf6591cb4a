//! A folder of jsonl files → shards, in one thread and without Python:
//! `cargo run --example shard_folder -- SOURCE OUT`. Run it again to go on where it was stopped.
//!
//! It is the process that the crash campaign kills (`tests/campaigns/crashpoints.py`). A third argument breaks the
//! protocol on purpose, so that the campaign can show that it would notice.
#![allow(missing_docs)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustbpe::encode::Tokenizer;
use rustbpe::shard::blake3_hex;
use rustbpe::shard::out::OutDir;
use rustbpe::sharder::{Plan, hex, record_name, run_segment};
use rustbpe::source::sha256_files;
use rustbpe::split::Pattern;
use rustbpe::vocab::Vocab;
use rustbpe::{Control, Error, Result};
use serde_json::json;

/// Small, so that the first file becomes two parts of two segments.
const SHARD_TOKENS: u64 = 3_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [source, out, broken @ ..] = args.as_slice() else {
        eprintln!("usage: shard_folder SOURCE OUT [direct|early-rename|trusting|manifest-first]");
        std::process::exit(2);
    };
    if let Err(error) = shard(Path::new(source), Path::new(out), broken.first().map(String::as_str)) {
        let _ = writeln!(std::io::stderr(), "error: {error}"); // in a campaign no write at all may succeed
        std::process::exit(1);
    }
}

fn shard(source: &Path, folder: &Path, broken: Option<&str>) -> Result<()> {
    let tokenizer = Tokenizer::new(Pattern::Gpt2, Vocab::from_merges(Vec::new())?);
    let out = OutDir::open(folder)?;
    out.clean()?;
    let text = plan_json(source, &tokenizer)?;
    keep(&out, "plan.json", &text)?;
    let plan = Plan::from_json(&text, &tokenizer)?;
    let ctl = Control::default();
    if broken == Some("manifest-first") {
        let elsewhere = folder.join(".picollm/whole");
        shard(source, &elsewhere, None)?;
        keep(&out, "manifest.json", &fs::read(elsewhere.join("manifest.json")).map_err(|e| Error::io(&elsewhere, e))?)?;
    }
    let mut records = Vec::new();
    for index in (0..).take(plan.segments()) {
        let there = folder.join(record_name(index)).exists();
        match plan.committed(folder, index) {
            Ok(record) => records.push(blake3_hex(&record.to_json()?)),
            Err(_) if broken == Some("trusting") && there => {}
            Err(_) => {
                let record = match broken {
                    None | Some("manifest-first") => run_segment(&plan, index, source, &tokenizer, &out, &ctl)?,
                    Some(how) => {
                        let aside = folder.join(".picollm/aside");
                        let made = run_segment(&plan, index, source, &tokenizer, &OutDir::open(&aside)?, &ctl)?;
                        copy_badly(&aside, folder, how)?;
                        made
                    }
                };
                records.push(blake3_hex(&record.to_json()?));
            }
        }
    }
    keep(&out, "manifest.json", json!({"records": records}).to_string().as_bytes())
}

fn plan_json(source: &Path, tokenizer: &Tokenizer) -> Result<Vec<u8>> {
    let entries = fs::read_dir(source).map_err(|error| Error::io(source, error))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let hashes = sha256_files(&paths, 1, &Control::default())?;
    let mut files = Vec::new();
    for (path, sha256) in paths.iter().zip(hashes) {
        let size = path.metadata().map_err(|error| Error::io(path, error))?.len();
        files
            .push(json!({"path": path.file_name().map(|name| name.to_string_lossy()), "size": size, "sha256": sha256}));
    }
    let segments: Vec<_> =
        (0..files.len()).map(|index| json!({"index": index, "files": [index, index + 1], "slice": [0, 1]})).collect();
    let plan = json!({
        "options": {"dtype": "uint16", "shard_tokens": SHARD_TOKENS, "val_ppm": 200_000, "text_column": "text"},
        "segments": segments,
        "source": {"files": files},
        "tokenizer": {
            "bos": tokenizer.bos(), "sha256": hex(&tokenizer.fingerprint()), "vocab_size": tokenizer.vocab_size(),
        },
    });
    Ok(plan.to_string().into_bytes())
}

/// Publish what is not there already.
fn keep(out: &OutDir, name: &str, bytes: &[u8]) -> Result<()> {
    let same = fs::read(out.root().join(name)).is_ok_and(|found| found == bytes);
    if same { Ok(()) } else { out.publish(name, bytes) }
}

/// What the protocol must not do: final names for files that are not whole, records before their files.
fn copy_badly(from: &Path, to: &Path, how: &str) -> Result<()> {
    let entries = fs::read_dir(from).map_err(|error| Error::io(from, error))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort_by_key(|path| path.extension().is_some_and(|kind| kind == "json") != (how == "trusting"));
    for path in paths {
        let write = || -> std::io::Result<()> {
            let name = path.file_name().unwrap_or_default();
            let (bytes, place) = (fs::read(&path)?, to.join(name));
            let (head, tail) = bytes.split_at(bytes.len() / 2);
            let partial = to.join(".picollm/partial").join(name);
            if how == "early-rename" {
                let mut file = File::create(&partial)?;
                file.write_all(head)?;
                fs::rename(&partial, &place)?;
                file.write_all(tail)
            } else {
                let _ = fs::remove_file(&place);
                let mut file = File::create(&place)?;
                file.write_all(head)?;
                file.write_all(tail)
            }
        };
        write().map_err(|error| Error::io(&path, error))?;
        fs::remove_file(&path).map_err(|error| Error::io(&path, error))?;
    }
    Ok(())
}
