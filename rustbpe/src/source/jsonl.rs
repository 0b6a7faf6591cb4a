//! One JSON object a line; the text is one key's string.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;

use super::column::{Column, choose_text_column};
use super::documents::{Documents, MAX_DOCUMENT_BYTES, open, open_coded, read_error};
use super::{Coding, ReadOptions, share};
use crate::{Error, Result};

/// Lines at the head of a file whose keys are its columns.
const HEAD_LINES: usize = 256;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Hand on the texts of slice j of k: of the lines whose first byte lies in that share of the file.
pub fn read(
    path: &Path,
    coding: Coding,
    size: u64,
    slice: (u32, u32),
    options: &ReadOptions,
    documents: &mut Documents<'_>,
) -> Result<()> {
    let (start, end) = if slice.1 > 1 { share(size, slice) } else { (0, u64::MAX) };
    if start == end {
        return Ok(());
    }
    let key = match &options.text_column {
        Some(key) => key.clone(),
        None => match columns(path, coding)? {
            none if none.is_empty() => return Ok(()), // not one line
            columns => choose_text_column(path, &columns, None)?,
        },
    };
    let mut lines = Lines::open(path, coding, start)?;
    let mut text = Vec::new();
    let (mut rows, mut keyless) = (0_u64, 0_u64);
    while lines.at < end {
        let at = lines.at;
        let Some(line) = lines.next()? else { break };
        if line.is_empty() {
            continue;
        }
        rows += 1;
        match parse(line, &key, &mut text).map_err(|error| line_error(path, at, &key, &error))? {
            Found::Text => documents.text(&text, path, || format!("line at byte {at}"))?,
            Found::Null => documents.null()?,
            Found::Missing => {
                keyless += 1;
                documents.null()?;
            }
        }
    }
    if rows > 0 && keyless == rows {
        // Not one line has the key: a misspelling, not a sparse column. Answers with the list of keys.
        choose_text_column(path, &columns(path, coding)?, Some(&key))?;
    }
    Ok(())
}

/// Keys of the first lines and the types of their values.
pub fn columns(path: &Path, coding: Coding) -> Result<Vec<Column>> {
    let mut columns: Vec<Column> = Vec::new();
    let mut lines = Lines::open(path, coding, 0)?;
    for _ in 0..HEAD_LINES {
        let at = lines.at;
        let Some(line) = lines.next()? else { break };
        if line.is_empty() {
            continue;
        }
        let line = String::from_utf8_lossy(line);
        let value: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&line).map_err(|error| line_error(path, at, "", &error))?;
        for (name, value) in value {
            let kind = type_name(&value);
            match columns.iter_mut().find(|column| column.name == name) {
                None => columns.push(Column { name, kind: kind.into() }),
                Some(column) if column.kind == "null" => column.kind = kind.into(),
                Some(_) => {}
            }
        }
    }
    Ok(columns)
}

fn type_name(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "bool",
        serde_json::Value::Number(_) => "number",
        serde_json::Value::String(_) => "string",
        serde_json::Value::Array(_) => "list",
        serde_json::Value::Object(_) => "object",
    }
}

fn line_error(path: &Path, at: u64, key: &str, error: &serde_json::Error) -> Error {
    let path = path.to_owned();
    let what = format!("line at byte {at}, column {}: {error}", error.column());
    if error.classify() == Category::Data && !key.is_empty() {
        return Error::TextColumn { path, what: format!("{what} (key {key:?})") };
    }
    Error::BadFile { path, what }
}

/// Lines of a file, without their ends, and where the next one begins.
struct Lines<'a> {
    path: &'a Path,
    reader: Box<dyn BufRead>,
    at: u64,
    line: Vec<u8>,
}

impl<'a> Lines<'a> {
    /// From the first line that begins at `start` or later. Only plain files can start past 0.
    fn open(path: &'a Path, coding: Coding, start: u64) -> Result<Self> {
        if start == 0 {
            return Ok(Self { path, reader: open_coded(path, coding)?, at: 0, line: Vec::new() });
        }
        // One byte early: if that byte ends a line, the line at `start` is ours.
        let mut file = open(path)?;
        file.seek(SeekFrom::Start(start - 1)).map_err(|error| Error::io(path, error))?;
        let mut reader = BufReader::with_capacity(1 << 18, file);
        let skipped = reader.skip_until(b'\n').map_err(|error| Error::io(path, error))?;
        Ok(Self { path, reader: Box::new(reader), at: start - 1 + skipped as u64, line: Vec::new() })
    }

    /// The next line; `None` at the end of the file.
    fn next(&mut self) -> Result<Option<&[u8]>> {
        self.line.clear();
        let read = self
            .reader
            .by_ref()
            .take(MAX_DOCUMENT_BYTES)
            .read_until(b'\n', &mut self.line)
            .map_err(|error| read_error(self.path, &format!("line at byte {}", self.at), error))?;
        if read as u64 == MAX_DOCUMENT_BYTES {
            let what = format!("line at byte {} is over {MAX_DOCUMENT_BYTES} bytes", self.at);
            return Err(Error::BadFile { path: self.path.to_owned(), what });
        }
        let mut line = self.line.as_slice();
        if self.at == 0 {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        self.at += read as u64;
        Ok((read > 0).then_some(line.trim_ascii()))
    }
}

enum Found {
    Missing,
    Null,
    Text,
}

/// Put the string under `key` into `text`, as raw bytes: whether they are UTF-8 is the policy's
/// question. Of a key that occurs twice the last counts.
fn parse(line: &[u8], key: &str, text: &mut Vec<u8>) -> Result<Found, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let found = Object { key, text }.deserialize(&mut json)?;
    json.end()?;
    Ok(found)
}

struct Object<'a> {
    key: &'a str,
    text: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Found;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found::Missing;
        while let Some(wanted) = map.next_key_seed(Key(self.key))? {
            if wanted {
                found = map.next_value_seed(Text(self.text))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a key is the wanted one.
struct Key<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_bytes<E: de::Error>(self, key: &[u8]) -> Result<bool, E> {
        Ok(key == self.0.as_bytes())
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

struct Text<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Text<'_> {
    type Value = Found;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a string")
    }

    fn visit_none<E: de::Error>(self) -> Result<Found, E> {
        Ok(Found::Null)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Found, E> {
        Ok(Found::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_bytes(self)
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Found, E> {
        self.0.clear();
        self.0.extend_from_slice(bytes);
        Ok(Found::Text)
    }
}
