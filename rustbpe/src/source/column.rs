//! Which column holds the text. The one place that decides.

use std::path::Path;

use serde::Serialize;

use crate::{Error, Result};

/// Names that mean text, best first.
const USUAL: [&str; 5] = ["text", "content", "raw_content", "document", "body"];
/// Names that mean a conversation, which is not a document.
const CHATS: [&str; 2] = ["messages", "conversations"];

/// A column of parquet or a key of jsonl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type in words: `string`, `binary`, `int64`, `list`, …
    pub kind: String,
}

impl Column {
    /// Whether it may hold text: strings, bytes that may be UTF-8, and keys that were null so far.
    fn readable(&self) -> bool {
        matches!(self.kind.as_str(), "string" | "binary" | "null")
    }
}

/// The wanted column, else the first of the usual names that holds text, else the only string column.
///
/// # Errors
/// [`Error::TextColumn`] with the columns there are.
pub fn choose_text_column(path: &Path, columns: &[Column], wanted: Option<&str>) -> Result<String> {
    let named = |name: &str| columns.iter().find(|column| column.name == name);
    let refuse = |why: String| {
        let list: Vec<_> = columns.iter().map(|column| format!("{} ({})", column.name, column.kind)).collect();
        let list = if list.is_empty() { "none".into() } else { list.join(", ") };
        Err(Error::TextColumn { path: path.to_owned(), what: format!("{why}; columns: {list}") })
    };
    if let Some(name) = wanted {
        return match named(name) {
            Some(column) if column.readable() => Ok(name.into()),
            Some(column) => refuse(format!("column {name:?} is {}, not text", column.kind)),
            None => refuse(format!("no column {name:?}")),
        };
    }
    if let Some(name) = USUAL.into_iter().find(|name| named(name).is_some_and(Column::readable)) {
        return Ok(name.into());
    }
    if let Some(chat) = CHATS.into_iter().find(|name| named(name).is_some()) {
        return refuse(format!("column {chat:?} holds conversations, not documents: that is for `picollm sft`"));
    }
    let mut strings = columns.iter().filter(|column| column.kind == "string");
    match (strings.next(), strings.next()) {
        (Some(only), None) => Ok(only.name.clone()),
        (None, _) => refuse("no column holds text".into()),
        _ => refuse("several columns could hold the text: name one with --text-column".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(columns: &[(&str, &str)], wanted: Option<&str>) -> Result<String> {
        let columns: Vec<_> =
            columns.iter().map(|&(name, kind)| Column { name: name.into(), kind: kind.into() }).collect();
        choose_text_column(Path::new("x"), &columns, wanted)
    }

    #[test]
    fn the_wanted_then_the_usual_then_the_only_string() {
        let several = [("url", "string"), ("body", "string"), ("content", "binary"), ("n", "int64")];
        assert_eq!(choose(&several, Some("url")).unwrap(), "url");
        assert_eq!(choose(&several, None).unwrap(), "content");
        assert_eq!(choose(&[("n", "int64"), ("poem", "string")], None).unwrap(), "poem");
        assert_eq!(choose(&[("text", "list"), ("poem", "string")], None).unwrap(), "poem");
    }

    /// Row 14.
    #[test]
    fn a_refusal_lists_the_columns() {
        for (columns, wanted, says) in [
            (&[("a", "string"), ("b", "string")][..], None, "--text-column"),
            (&[("a", "string")], Some("foo"), "no column \"foo\""),
            (&[("a", "list")], Some("a"), "is list"),
            (&[("a", "int64")], None, "no column holds text"),
            (&[("a", "string"), ("messages", "list")], None, "picollm sft"),
        ] {
            let error = choose(columns, wanted).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("columns: a ("), "{error}");
        }
    }
}
