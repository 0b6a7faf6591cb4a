//! Where a stream of rows stands, as a short JSON text that is equal on all ranks.

use serde::{Deserialize, Serialize};

use super::mix::BLOCK_ROWS;
use crate::{Error, Result};

/// Version of the state this code writes.
const VERSION: u32 = 1;

/// Next row of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Times the source was read to its end.
    pub epoch: u64,
    /// Window of the epoch.
    pub window: u64,
    /// Row of the window, in the order rows are handed out.
    pub row: u64,
}

/// What was handed out so far, and the order it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub(super) v: u32,
    pub(super) fingerprints: Vec<String>,
    pub(super) split: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<u64>,
    pub(super) seed: u64,
    pub(super) seq_len: u32,
    pub(super) window: u64,
    pub(super) pack: String,
    pub(super) max_docs: u32,
    pub(super) shuffle: String,
    pub(super) weights: Vec<u64>,
    pub(super) cursors: Vec<Cursor>,
    pub(super) block: u64,
    pub(super) in_block: u64,
    pub(super) rows: u64,
    pub(super) stored_tokens: u64,
}

impl State {
    pub(super) const VERSION: u32 = VERSION;

    /// Read a state.
    ///
    /// # Errors
    /// [`Error::LoaderState`] for a later version and for anything that is not a state.
    pub fn from_json(text: &str) -> Result<Self> {
        let refuse = |why: String| Error::LoaderState { field: "state", saved: why, found: "version 1".into() };
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        match value.get("v").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {}
            other => {
                let saved = other.map_or_else(|| "none".into(), |version| version.to_string());
                return Err(Error::LoaderState { field: "v", saved, found: VERSION.to_string() });
            }
        }
        State::deserialize(value).map_err(|error| refuse(error.to_string()))
    }

    /// The state as text.
    ///
    /// # Errors
    /// Never, for the fields this type has.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::Invalid { what: error.to_string() })
    }

    /// Whether this state continues the order of `here`; with `reweigh` at the border of a block, under its weights.
    ///
    /// # Errors
    /// [`Error::LoaderState`] with the first field that differs and both values.
    pub(super) fn continues(&self, here: &State, reweigh: bool) -> Result<()> {
        let limit = |state: &State| state.limit.map_or_else(|| "none".into(), |limit| limit.to_string());
        let fields = [
            ("fingerprints", self.fingerprints.join(", "), here.fingerprints.join(", ")),
            ("split", self.split.clone(), here.split.clone()),
            ("limit", limit(self), limit(here)),
            ("seed", self.seed.to_string(), here.seed.to_string()),
            ("seq_len", self.seq_len.to_string(), here.seq_len.to_string()),
            ("window", self.window.to_string(), here.window.to_string()),
            ("pack", self.pack.clone(), here.pack.clone()),
            ("max_docs", self.max_docs.to_string(), here.max_docs.to_string()),
            ("shuffle", self.shuffle.clone(), here.shuffle.clone()),
            ("cursors", self.cursors.len().to_string(), here.cursors.len().to_string()),
        ];
        if let Some((field, saved, found)) = fields.into_iter().find(|(_, saved, found)| saved != found) {
            return Err(Error::LoaderState { field, saved, found });
        }
        if self.weights != here.weights && !(reweigh && self.in_block == 0) {
            let (saved, found) = (format!("{:?}, row {} of a block", self.weights, self.in_block), &here.weights);
            return Err(Error::LoaderState { field: "weights", saved, found: format!("{found:?}") });
        }
        let alone = self.cursors.len() == 1;
        let below = |most: u64| if alone { 1 } else { most };
        for (field, saved, below) in
            [("block", self.block, below(1 << 40)), ("in_block", self.in_block, below(BLOCK_ROWS))]
        {
            if saved >= below {
                return Err(Error::LoaderState { field, saved: saved.to_string(), found: format!("below {below}") });
            }
        }
        Ok(())
    }
}
