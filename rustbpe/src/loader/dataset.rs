//! A shard set opened for one split: manifest, tokenizer and every header checked before the first row.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use sha2::Digest;

use crate::shard::format::{Dtype, FORMAT, Header};
use crate::shard::read::{Io, OpenFiles, ShardReader};
use crate::shard::verify::verify;
use crate::{Control, Error, Result};

/// Largest manifest read: 10,000 files take about 3 MB.
const MANIFEST_LIMIT: u64 = 256 << 20;

/// Which data set to open and what it must be.
#[derive(Debug, Clone)]
pub struct Request {
    /// Directory with `manifest.json`.
    pub directory: PathBuf,
    /// `train` or `val`.
    pub split: String,
    /// Fingerprint (64 hex digits) to insist on; an older manifest of the directory will do.
    pub fingerprint: Option<String>,
    /// sha256 (64 hex digits) of the tokenizer to insist on.
    pub tokenizer: Option<String>,
    /// How tokens are read.
    pub io: Io,
    /// Use only the shortest prefix of documents that holds this many tokens.
    pub limit: Option<u64>,
    /// What is checked before the first row.
    pub verify: Verify,
}

/// How much is checked on opening, besides the manifest, every header and every size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Nothing more.
    Sizes,
    /// The content of the first file.
    First,
    /// The content of every file.
    All,
}

impl Verify {
    /// # Errors
    /// [`Error::Invalid`] for any name but `sizes`, `first` and `all`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "sizes" => Ok(Verify::Sizes),
            "first" => Ok(Verify::First),
            "all" => Ok(Verify::All),
            _ => Err(Error::Invalid { what: format!("verify {name:?} is not \"sizes\", \"first\" or \"all\"") }),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Manifest {
    format: String,
    dtype: String,
    tokenizer: TokenizerFacts,
    splits: std::collections::BTreeMap<String, Vec<FileFacts>>,
    fingerprint: String,
}

#[derive(Debug, Deserialize)]
struct TokenizerFacts {
    sha256: String,
    vocab_size: u32,
    bos: u32,
}

#[derive(Debug, Deserialize)]
struct FileFacts {
    name: String,
    n_tokens: u32,
    n_docs: u64,
    blake3: String,
    blake3_docs: String,
}

/// Where a document lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index of the shard.
    pub shard: u32,
    /// First token in the shard.
    pub start: u32,
    /// Stored tokens, BOS included.
    pub length: u32,
}

/// The documents of one split, numbered 0 … by (file in manifest order, document).
#[derive(Debug)]
pub struct Dataset {
    /// blake3 identity of the tokens.
    pub fingerprint: [u8; 32],
    /// sha256 of the tokenizer, hex.
    pub tokenizer: String,
    /// Type of stored tokens.
    pub dtype: Dtype,
    /// Ids, special tokens included.
    pub vocab_size: u32,
    /// Id that begins every document.
    pub bos: u32,
    /// Documents in use.
    pub documents: u64,
    /// Stored tokens of the documents in use.
    pub tokens: u64,
    shards: Vec<ShardReader>,
    /// By shard: number of its first document.
    firsts: Vec<u64>,
}

impl Dataset {
    /// Open and check: contents as far as the request says, in `ctl.bytes`.
    ///
    /// # Errors
    /// [`Error::Missing`] without manifest, file or documents; [`Error::Fingerprint`] and
    /// [`Error::Tokenizer`] where it is not what was asked for; [`Error::Format`] or
    /// [`Error::Corrupt`] where its parts do not agree; [`Error::Cancelled`].
    pub fn open(request: &Request, ctl: &Control) -> Result<Self> {
        let (path, manifest) = read_manifest(&request.directory, request.fingerprint.as_deref())?;
        let tokenizer = bare(&manifest.tokenizer.sha256);
        if let Some(wanted) = request.tokenizer.as_deref().map(bare).filter(|&wanted| wanted != tokenizer) {
            return Err(Error::Tokenizer { path, found: tokenizer.into(), wanted: wanted.into() });
        }
        let beside = request.directory.join("tokenizer.json");
        let found = hex(&sha2::Sha256::digest(read_all(&beside)?));
        if found != tokenizer {
            return Err(Error::Tokenizer { path: beside, found, wanted: tokenizer.into() });
        }
        let Some(entries) = manifest.splits.get(&request.split) else {
            let splits = manifest.splits.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Error::Invalid { what: format!("no split {:?}; there are: {splits}", request.split) });
        };
        let files = Arc::<OpenFiles>::default();
        let (mut shards, mut firsts) = (Vec::with_capacity(entries.len()), vec![]);
        let (mut documents, mut tokens) = (0, 0);
        for entry in entries {
            if !entry.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(Error::Format { path, what: format!("file name {:?}", entry.name) });
            }
            let shard = ShardReader::open(&request.directory, &entry.name, request.io, &files)?;
            agree(&shard, entry, &manifest)?;
            firsts.push(documents);
            documents += shard.documents();
            tokens += u64::from(shard.header().tokens);
            shards.push(shard);
        }
        let verified = match request.verify {
            Verify::Sizes => 0,
            Verify::First => 1,
            Verify::All => shards.len(),
        };
        for shard in shards.iter().take(verified) {
            verify(shard.path(), ctl)?;
        }
        let mut dataset = Dataset {
            tokenizer: tokenizer.to_owned(),
            dtype: Dtype::from_name(&manifest.dtype)?,
            fingerprint: unhex(&manifest.fingerprint)
                .ok_or_else(|| Error::Format { path: path.clone(), what: "fingerprint is not 64 hex digits".into() })?,
            vocab_size: manifest.tokenizer.vocab_size,
            bos: manifest.tokenizer.bos,
            documents,
            tokens,
            shards,
            firsts,
        };
        if let Some(limit) = request.limit {
            dataset.keep_prefix(limit)?;
        }
        if dataset.documents == 0 {
            let what = format!("{}: no documents in split {:?}", path.display(), request.split);
            return Err(Error::Missing { what });
        }
        Ok(dataset)
    }

    fn keep_prefix(&mut self, limit: u64) -> Result<()> {
        let mut before = 0;
        for (shard, first) in self.shards.iter().zip(&self.firsts) {
            let tokens = u64::from(shard.header().tokens);
            if before + tokens >= limit {
                let mut scratch = vec![];
                let documents = shard.documents_reaching((limit - before) as u32, &mut scratch)?;
                self.documents = first + documents;
                self.tokens = before;
                if documents > 0 {
                    let (start, length) = shard.document(documents - 1, &mut scratch)?;
                    self.tokens += u64::from(start) + u64::from(length);
                }
                return Ok(());
            }
            before += tokens;
        }
        Ok(())
    }

    /// Where document `number` lies.
    ///
    /// # Errors
    /// As [`ShardReader::document`].
    ///
    /// # Panics
    /// Where there is no such document.
    pub fn place(&self, number: u64, scratch: &mut Vec<u8>) -> Result<Place> {
        assert!(number < self.documents, "document {number} of {}", self.documents);
        let shard = self.firsts.partition_point(|&first| first <= number) - 1;
        let (start, length) = self.shards[shard].document(number - self.firsts[shard], scratch)?;
        Ok(Place { shard: shard as u32, start, length })
    }

    /// A shard by its index in a [`Place`].
    pub fn shard(&self, index: u32) -> &ShardReader {
        &self.shards[index as usize]
    }
}

/// The manifest in use, or the one kept under the fingerprint asked for.
fn read_manifest(directory: &Path, wanted: Option<&str>) -> Result<(PathBuf, Manifest)> {
    let path = directory.join("manifest.json");
    let manifest = parse_manifest(&path)?;
    let Some(wanted) = wanted.map(bare).filter(|&wanted| wanted != bare(&manifest.fingerprint)) else {
        return Ok((path, manifest));
    };
    let kept = directory.join("manifests").join(format!("{}.json", wanted.get(..16).unwrap_or(wanted)));
    if unhex(wanted).is_some() && kept.is_file() {
        let older = parse_manifest(&kept)?;
        if bare(&older.fingerprint) == wanted {
            return Ok((kept, older));
        }
    }
    Err(Error::Fingerprint { path, found: bare(&manifest.fingerprint).into(), wanted: wanted.into() })
}

fn parse_manifest(path: &Path) -> Result<Manifest> {
    let refuse = |what: String| Error::Format { path: path.to_owned(), what };
    let value: Value = serde_json::from_slice(&read_all(path)?).map_err(|error| refuse(error.to_string()))?;
    let manifest = Manifest::deserialize(&value).map_err(|error| refuse(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(refuse(format!("format is {:?}; this picollm reads {FORMAT}", manifest.format)));
    }
    let found = fingerprint(&value);
    if found != bare(&manifest.fingerprint) {
        let what = format!("fingerprint is {}, its content gives {found}", manifest.fingerprint);
        return Err(Error::Corrupt { path: path.to_owned(), what });
    }
    Ok(manifest)
}

/// blake3 of the canonical JSON of what names the tokens: not the road they came by.
fn fingerprint(manifest: &Value) -> String {
    // `serde_json` keeps keys sorted (it is built without `preserve_order`) and writes no spaces.
    let named: serde_json::Map<_, _> = ["dtype", "format", "splits", "tokenizer"]
        .into_iter()
        .map(|key| (key.to_owned(), manifest.get(key).cloned().unwrap_or_default()))
        .collect();
    blake3::hash(Value::Object(named).to_string().as_bytes()).to_hex().to_string()
}

/// A header and its line in the manifest speak of the same file.
fn agree(shard: &ShardReader, entry: &FileFacts, manifest: &Manifest) -> Result<()> {
    let header: &Header = shard.header();
    let tokenizer = hex(&header.tokenizer);
    if tokenizer != bare(&manifest.tokenizer.sha256) {
        let wanted = bare(&manifest.tokenizer.sha256).into();
        return Err(Error::Tokenizer { path: shard.path().to_owned(), found: tokenizer, wanted });
    }
    let facts = [
        ("type", header.dtype.name().to_owned(), manifest.dtype.clone()),
        ("tokens", header.tokens.to_string(), entry.n_tokens.to_string()),
        ("documents", header.documents.to_string(), entry.n_docs.to_string()),
        ("vocabulary", header.vocab_size.to_string(), manifest.tokenizer.vocab_size.to_string()),
        ("BOS", header.bos.to_string(), manifest.tokenizer.bos.to_string()),
        ("blake3", hex(&header.payload), bare(&entry.blake3).to_owned()),
        ("blake3 of offsets", hex(&header.docs), bare(&entry.blake3_docs).to_owned()),
    ];
    match facts.iter().find(|(_, in_header, in_manifest)| in_header != in_manifest) {
        None => Ok(()),
        Some((field, in_header, in_manifest)) => Err(Error::Corrupt {
            path: shard.path().to_owned(),
            what: format!("{field} is {in_header}; the manifest says {in_manifest}"),
        }),
    }
}

fn read_all(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let read = std::fs::File::open(path).and_then(|file| file.take(MANIFEST_LIMIT + 1).read_to_end(&mut bytes));
    match read {
        Ok(size) if size as u64 <= MANIFEST_LIMIT => Ok(bytes),
        Ok(_) => Err(Error::Format { path: path.to_owned(), what: format!("over {MANIFEST_LIMIT} bytes") }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::Missing { what: format!("{}: no such file", path.display()) })
        }
        Err(error) => Err(Error::io(path, error)),
    }
}

/// A hash without the name of its function.
fn bare(hash: &str) -> &str {
    hash.split_once(':').map_or(hash, |(_, digits)| digits)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = bare(text);
    let valid = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate().take(if valid { 32 } else { 0 }) {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    valid.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_of_sorted_keys_and_of_nothing_else() {
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let one = value(r#"{"tokenizer":{"b":1,"a":2},"format":"f","dtype":"d","splits":{},"source":1}"#);
        let two = value(r#"{"dtype":"d","splits":{},"format":"f","tokenizer":{"a":2,"b":1},"totals":9}"#);
        assert_eq!(fingerprint(&one), fingerprint(&two));
        let text = r#"{"dtype":"d","format":"f","splits":{},"tokenizer":{"a":2,"b":1}}"#;
        assert_eq!(fingerprint(&one), blake3::hash(text.as_bytes()).to_hex().to_string());
    }

    #[test]
    fn a_hash_comes_back_from_its_digits() {
        let bytes: [u8; 32] = std::array::from_fn(|index| index as u8 * 7);
        assert_eq!(unhex(&format!("blake3:{}", hex(&bytes))), Some(bytes));
        assert_eq!(unhex("blake3:00"), None);
        assert_eq!(unhex(&"é".repeat(32)), None);
    }
}
