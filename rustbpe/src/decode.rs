//! Ids → bytes, and a stream of text that never shows half a character.

use crate::encode::Tokenizer;
use crate::{Error, Result};

impl Tokenizer {
    /// Append the bytes of `ids`; a special token gives its name.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first id outside the vocabulary; `out` then holds what came before it.
    pub fn decode(&self, ids: &[u32], out: &mut Vec<u8>) -> Result<()> {
        for &id in ids {
            out.extend_from_slice(self.token_bytes(id).ok_or_else(|| self.no_such_id(id))?);
        }
        Ok(())
    }

    /// The failure to say about an id outside the vocabulary.
    pub fn no_such_id(&self, id: u32) -> Error {
        Error::Invalid { what: format!("token id {id} is outside the vocabulary of {}", self.vocab_size()) }
    }
}

/// Bytes in, whole characters out. What it emits, joined, equals `String::from_utf8_lossy` of all bytes.
///
/// ```
/// let mut stream = rustbpe::decode::TextStream::default();
/// assert_eq!(stream.push("é".as_bytes()[..1].as_ref()), "");
/// assert_eq!(stream.push("é!".as_bytes()[1..].as_ref()), "é!");
/// ```
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    held: Vec<u8>,
}

impl TextStream {
    /// The characters that `bytes` complete. At most three bytes are held back.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (whole, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(whole));
                    rest = after;
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        let held = rest.len();
        self.held.drain(..self.held.len() - held);
        text
    }

    /// The end of the text: a character left unfinished becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}
