//! `tokenizer.json`, the file of Hugging Face `tokenizers`: a Split by one of our named patterns, the
//! byte-level alphabet, BPE merges, the specials as added tokens. It alone defines a tokenizer.
//!
//! Reading trusts nothing: the file is at most 16 MB, the regex must be one that we know (it selects a
//! splitter and is never compiled), and no size comes from a number in the file.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use rustc_hash::FxHashMap;
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{MOST_TOKENS, SPECIALS, Vocab, byte_char};
use crate::split::Pattern;
use crate::{Error, Result};

/// Largest file that is read.
pub const MOST_BYTES: usize = 16 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File<'a> {
    #[serde(borrow)]
    version: Cow<'a, str>,
    truncation: (),
    padding: (),
    #[serde(borrow)]
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: (),
    #[serde(borrow)]
    pre_tokenizer: Sequence<'a>,
    post_processor: (),
    decoder: ByteLevel,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct AddedToken<'a> {
    id: u32,
    #[serde(borrow)]
    content: Cow<'a, str>,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Sequence<'a> {
    Sequence {
        #[serde(borrow)]
        pretokenizers: (Split<'a>, ByteLevel),
    },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Split<'a> {
    Split {
        #[serde(borrow)]
        pattern: Regex<'a>,
        behavior: Isolated,
        invert: bool,
    },
}

#[derive(Serialize, Deserialize)]
enum Regex<'a> {
    #[serde(borrow)]
    Regex(Cow<'a, str>),
}

#[derive(Serialize, Deserialize)]
enum Isolated {
    Isolated,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum ByteLevel {
    ByteLevel { add_prefix_space: bool, trim_offsets: bool, use_regex: bool },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Model<'a> {
    #[serde(rename = "BPE")]
    Bpe {
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
    },
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

fn special(id: u32, content: &str) -> AddedToken<'_> {
    let content = Cow::Borrowed(content);
    AddedToken { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
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
        version: "1.0".into(),
        truncation: (),
        padding: (),
        added_tokens: (vocab.len()..).zip(SPECIALS).map(|(id, content)| special(id, content)).collect(),
        normalizer: (),
        pre_tokenizer: Sequence::Sequence {
            pretokenizers: (
                Split::Split {
                    pattern: Regex::Regex(pattern.regex().into()),
                    behavior: Isolated::Isolated,
                    invert: false,
                },
                byte_level(),
            ),
        },
        post_processor: (),
        decoder: byte_level(),
        model: Model::Bpe {
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
    let file: File<'_> = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
    let Sequence::Sequence { pretokenizers: (Split::Split { pattern: Regex::Regex(regex), invert, .. }, alphabet) } =
        file.pre_tokenizer;
    let pattern = Pattern::from_regex(&regex).ok_or_else(|| {
        wrong(format!("the split regex is none of the named patterns (picollm, cl100k, gpt2): {regex:.80}"))
    })?;
    let ByteLevel::ByteLevel { add_prefix_space, use_regex, .. } = alphabet;
    let Model::Bpe { fuse_unk, byte_fallback, ignore_merges, vocab, merges, .. } = file.model;
    for (name, said) in [
        ("invert", invert),
        ("add_prefix_space", add_prefix_space),
        ("use_regex", use_regex),
        ("fuse_unk", fuse_unk),
        ("byte_fallback", byte_fallback),
        ("ignore_merges", ignore_merges),
    ] {
        if said {
            return Err(wrong(format!("{name} is true, only false is known")));
        }
    }
    if file.version != "1.0" {
        return Err(wrong(format!("version is {:.20}, only 1.0 is known", file.version)));
    }
    let vocab = checked_vocab(&vocab.0, &merges)?;
    let specials: Vec<_> = (vocab.len()..).zip(SPECIALS).map(|(id, content)| special(id, content)).collect();
    if file.added_tokens != specials {
        return Err(wrong(format!("added_tokens are not the nine specials with ids {}…", vocab.len())));
    }
    Ok((pattern, vocab))
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
