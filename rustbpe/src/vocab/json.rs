//! `tokenizer.json`, the file of Hugging Face `tokenizers`: a Split by one of our named patterns, the
//! byte-level alphabet, BPE merges, the specials as added tokens. It alone defines a tokenizer.
//!
//! Reading trusts nothing: the file is at most 16 MB, the regex must be one that we know (it selects a
//! splitter and is never compiled), and no size comes from a number in the file. What decides the ids must be there
//! value for value as we would write it.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use rustc_hash::FxHashMap;
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{MOST_TOKENS, SPECIALS, Vocab, byte_char};
use crate::split::Pattern;
use crate::{Error, Result};

/// Largest file that is read.
pub const MOST_BYTES: usize = 16 << 20;

/// Largest part of it beside the model.
const MOST_PART_BYTES: usize = 1 << 16;

/// The file as it is written.
#[derive(Serialize)]
struct File<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: [AddedToken; SPECIALS.len()],
    normalizer: (),
    pre_tokenizer: Sequence,
    post_processor: (),
    decoder: ByteLevel,
    model: Model<'a>,
}

/// The file as it is read: its parts are looked at one by one. (A derived struct also takes a list of its fields'
/// values, and a derived tag the number of a variant; where that could happen the JSON itself is compared.)
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts<'a> {
    #[serde(borrow)]
    version: &'a RawValue,
    #[serde(rename = "truncation")]
    _truncation: (),
    #[serde(rename = "padding")]
    _padding: (),
    #[serde(borrow)]
    added_tokens: &'a RawValue,
    #[serde(rename = "normalizer")]
    _normalizer: (),
    #[serde(borrow)]
    pre_tokenizer: &'a RawValue,
    #[serde(rename = "post_processor")]
    _post_processor: (),
    #[serde(borrow)]
    decoder: &'a RawValue,
    #[serde(borrow)]
    model: &'a RawValue,
}

#[derive(Serialize)]
struct AddedToken {
    id: u32,
    content: &'static str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Sequence {
    Sequence { pretokenizers: (Split, ByteLevel) },
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Split {
    Split { pattern: Regex, behavior: &'static str, invert: bool },
}

#[derive(Serialize)]
enum Regex {
    Regex(&'static str),
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum ByteLevel {
    ByteLevel { add_prefix_space: bool, trim_offsets: bool, use_regex: bool },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Model<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    dropout: (),
    unk_token: (),
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: Entries<'a>,
    #[serde(borrow)]
    merges: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// A JSON object as it stands, so that a key given twice is seen.
struct Entries<'a>(Vec<(Cow<'a, str>, u32)>);

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (token, id) in &self.0 {
            map.serialize_entry(token, id)?;
        }
        map.end()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tokens and ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if entries.len() == MOST_TOKENS {
                        return Err(serde::de::Error::custom("too many tokens"));
                    }
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

fn specials(first: u32) -> [AddedToken; SPECIALS.len()] {
    let token = |at| AddedToken {
        id: first + at as u32,
        content: SPECIALS[at],
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
    };
    std::array::from_fn(token)
}

fn pre_tokenizer(pattern: Pattern) -> Sequence {
    let split = Split::Split { pattern: Regex::Regex(pattern.regex()), behavior: "Isolated", invert: false };
    Sequence::Sequence { pretokenizers: (split, byte_level()) }
}

fn byte_level() -> ByteLevel {
    ByteLevel::ByteLevel { add_prefix_space: false, trim_offsets: true, use_regex: false }
}

/// The one form in which we write a tokenizer: the same tokenizer, the same bytes.
pub(crate) fn write(pattern: Pattern, vocab: &Vocab) -> Vec<u8> {
    let chars: [char; 256] = std::array::from_fn(|byte| byte_char(byte as u8));
    let shown = |id: u32| -> Cow<'_, str> {
        vocab.token(id).unwrap_or_default().iter().map(|byte| chars[usize::from(*byte)]).collect::<String>().into()
    };
    let file = File {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: specials(vocab.len()),
        normalizer: (),
        pre_tokenizer: pre_tokenizer(pattern),
        post_processor: (),
        decoder: byte_level(),
        model: Model {
            kind: "BPE".into(),
            dropout: (),
            unk_token: (),
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab: Entries((0..vocab.len()).map(|id| (shown(id), id)).collect()),
            merges: vocab.merges().iter().map(|&(left, right)| (shown(left), shown(right))).collect(),
        },
    };
    serde_json::to_vec(&file).unwrap_or_else(|error| unreachable!("plain data cannot fail to be written: {error}"))
}

/// Read and check a file.
pub(crate) fn read(json: &[u8]) -> Result<(Pattern, Vocab)> {
    if json.len() > MOST_BYTES {
        return Err(wrong(format!("{} bytes, more than the {MOST_BYTES} that are read", json.len())));
    }
    let parts: Parts<'_> = object(json)?;
    if part("version", parts.version)? != "1.0" {
        return Err(wrong(format!("version is {:.20}, only 1.0 is known", parts.version.get())));
    }
    let pattern = pattern_of(&part("pre_tokenizer", parts.pre_tokenizer)?)?;
    check_decoder(&part("decoder", parts.decoder)?)?;
    let model: Model<'_> = object(parts.model.get().as_bytes())?;
    if model.kind != "BPE" {
        return Err(wrong(format!("the model is {:.20}, only BPE is known", model.kind)));
    }
    for (name, said) in
        [("fuse_unk", model.fuse_unk), ("byte_fallback", model.byte_fallback), ("ignore_merges", model.ignore_merges)]
    {
        if said {
            return Err(wrong(format!("{name} is true, only false is known")));
        }
    }
    let vocab = checked_vocab(&model.vocab.0, &model.merges)?;
    if part("added_tokens", parts.added_tokens)? != value(&specials(vocab.len())) {
        return Err(wrong(format!("added_tokens are not the nine specials with ids {}…", vocab.len())));
    }
    Ok((pattern, vocab))
}

/// A JSON object, not a list of its values.
fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(wrong("not an object".into()));
    }
    serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))
}

/// A small part of the file, whole.
fn part(name: &str, raw: &RawValue) -> Result<Value> {
    if raw.get().len() > MOST_PART_BYTES {
        return Err(wrong(format!("{name} has {} bytes, more than {MOST_PART_BYTES}", raw.get().len())));
    }
    serde_json::from_str(raw.get()).map_err(|error| wrong(format!("{name}: {error}")))
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_else(|error| unreachable!("plain data cannot fail to be written: {error}"))
}

/// The named pattern of a pre-tokenizer that is ours but for `trim_offsets`, which decides no id.
fn pattern_of(said: &Value) -> Result<Pattern> {
    let regex = said.pointer("/pretokenizers/0/pattern/Regex").and_then(Value::as_str).unwrap_or_default();
    let pattern = Pattern::from_regex(regex).ok_or_else(|| {
        wrong(format!("the split regex is none of the named patterns (picollm, cl100k, gpt2): {regex:.80}"))
    })?;
    let mut known = value(&pre_tokenizer(pattern));
    let flag = "/pretokenizers/1/trim_offsets";
    if let (Some(place), Some(&Value::Bool(trim))) = (known.pointer_mut(flag), said.pointer(flag)) {
        *place = trim.into();
    }
    if *said != known {
        return Err(wrong(format!("pre_tokenizer is not {known}")));
    }
    Ok(pattern)
}

/// A decoder of bytes, whatever its three flags say: decoding asks for none of them.
fn check_decoder(said: &Value) -> Result<()> {
    let known = value(&byte_level());
    let same = |(key, value): (&String, &Value)| match known.get(key) {
        Some(Value::Bool(_)) => value.is_boolean(),
        other => other == Some(value),
    };
    match said.as_object() {
        Some(fields) if fields.len() == 4 && fields.iter().all(same) => Ok(()),
        _ => Err(wrong("decoder is not ByteLevel".into())),
    }
}

type Merge<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Ids dense from 0, the bytes first and in order, every other token the merge of two earlier ones.
fn checked_vocab(entries: &[(Cow<'_, str>, u32)], merges: &[Merge<'_>]) -> Result<Vocab> {
    let mut tokens: Vec<Option<&str>> = vec![None; entries.len()];
    let mut ids = FxHashMap::default();
    for (token, id) in entries {
        let place = tokens.get_mut(*id as usize).ok_or_else(|| wrong(format!("id {id} leaves a gap below it")))?;
        if place.replace(token).is_some() || ids.insert(&**token, *id).is_some() {
            return Err(wrong(format!("id {id} or its token stands twice")));
        }
    }
    if entries.len() < 256 || merges.len() != entries.len() - 256 {
        return Err(wrong(format!("{} tokens and {} merges do not leave 256 bytes", entries.len(), merges.len())));
    }
    for byte in 0..=u8::MAX {
        if ids.get(byte_char(byte).encode_utf8(&mut [0; 4]) as &str) != Some(&u32::from(byte)) {
            return Err(wrong(format!("id {byte} is not the byte {byte}")));
        }
    }
    let mut pairs = Vec::new();
    for (id, (left, right)) in (256..).zip(merges) {
        let part = |token: &str| ids.get(token).copied().filter(|part| *part < id);
        let (Some(first), Some(second)) = (part(left), part(right)) else {
            return Err(wrong(format!("the merge that makes id {id} joins a token that does not come before it")));
        };
        let made = tokens[id as usize].unwrap_or_default();
        if made.strip_prefix(&**left) != Some(right) {
            return Err(wrong(format!("id {id} is not what its merge makes")));
        }
        pairs.push((first, second));
    }
    Vocab::from_merges(pairs)
}

fn wrong(what: String) -> Error {
    Error::Format { path: PathBuf::from("tokenizer.json"), what }
}
