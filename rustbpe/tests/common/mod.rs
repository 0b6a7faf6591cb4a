//! Real data beside the checkout, and the slow twins.
#![allow(dead_code, missing_docs, clippy::expect_used)]

pub mod chance;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use flate2::read::GzDecoder;

/// `../shared` or `PICOLLM_SHARED`; absent: `None` with a reason, a failure in CI.
pub fn shared() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let folder = PathBuf::from(std::env::var_os("PICOLLM_SHARED").unwrap_or_else(|| beside.into()));
    if folder.is_dir() {
        return Some(folder);
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no real data at {}", folder.display());
    eprintln!("skipped: no real data at {}; set PICOLLM_SHARED", folder.display());
    None
}

pub fn gunzip(path: PathBuf) -> String {
    let mut text = String::new();
    GzDecoder::new(std::fs::File::open(&path).expect("open")).read_to_string(&mut text).expect("gzip");
    text
}

/// Lines of `vectors.jsonl.gz`.
pub fn vectors(shared: &std::path::Path) -> Vec<serde_json::Value> {
    let lines = gunzip(shared.join("data/tokenizer/vectors.jsonl.gz"));
    lines.lines().map(|line| serde_json::from_str(line).expect("json")).collect()
}

/// A `.tiktoken` file: base64 token, space, rank.
pub fn ranks(text: &str) -> Vec<(Vec<u8>, u32)> {
    let one = |line: &str| {
        let (token, rank) = line.split_once(' ').expect("two columns");
        (base64(token), rank.parse().expect("rank"))
    };
    text.lines().map(one).collect()
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(digit).collect();
    let bits = digits.iter().flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1));
    let bits: Vec<u8> = bits.collect();
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | bit)).collect()
}

/// The textbook merge loop: of all pairs with a merge, join the first one of lowest rank.
pub fn textbook_encode(byte_ids: &[u32; 256], merges: &[(u32, u32)], piece: &[u8]) -> Vec<u32> {
    let rank_of: BTreeMap<(u32, u32), u32> = merges.iter().copied().zip(256..).collect();
    let mut ids: Vec<u32> = piece.iter().map(|byte| byte_ids[usize::from(*byte)]).collect();
    while let Some((rank, at)) =
        ids.windows(2).enumerate().filter_map(|(at, pair)| Some((*rank_of.get(&(pair[0], pair[1]))?, at))).min()
    {
        ids.splice(at..at + 2, [rank]);
    }
    ids
}

/// The textbook trainer: recount every pair before every merge.
pub fn textbook_train(pieces: &[(&[u8], u64)], merges: usize, byte_of: &[u8; 256]) -> Vec<(u32, u32)> {
    let symbol = |byte: u8| byte_of.iter().position(|other| *other == byte).expect("every byte") as u32;
    let mut words: Vec<(Vec<u32>, u64)> =
        pieces.iter().map(|(piece, count)| (piece.iter().map(|byte| symbol(*byte)).collect(), *count)).collect();
    let mut learned = Vec::new();
    for id in 256..256 + merges as u32 {
        let mut weights = BTreeMap::new();
        for (word, count) in &words {
            for pair in word.windows(2) {
                *weights.entry((pair[0], pair[1])).or_insert(0) += count;
            }
        }
        let best = weights
            .into_iter()
            .filter(|(_, weight)| *weight > 0)
            .max_by_key(|&(pair, weight)| (weight, std::cmp::Reverse(pair)));
        let Some((pair, _)) = best else { break };
        for (word, _) in &mut words {
            let mut at = 0;
            while at + 1 < word.len() {
                if (word[at], word[at + 1]) == pair {
                    word.splice(at..at + 2, [id]);
                }
                at += 1;
            }
        }
        let shown = |symbol: u32| byte_of.get(symbol as usize).map_or(symbol, |byte| u32::from(*byte));
        learned.push((shown(pair.0), shown(pair.1)));
    }
    learned
}
