//! Learn a small vocabulary from a text, encode a sentence with it, and get the sentence back.
//!
//! `cargo run --example train_and_encode`

use rustbpe::Control;
use rustbpe::count::count_texts;
use rustbpe::encode::Tokenizer;
use rustbpe::split::Pattern;
use rustbpe::train::{TieOrder, train};

const TEXT: &str = "the cat sat on the mat, the rat sat on the cat, and that was that.";
const IDS: u32 = 280; // 256 bytes, 15 merges, 9 special tokens

fn main() -> rustbpe::Result<()> {
    let ctl = Control::default();
    let counts = count_texts(&[TEXT], Pattern::Picollm, 1, &ctl)?;
    let tokenizer = Tokenizer::new(Pattern::Picollm, train(&counts, IDS, TieOrder::Rustbpe, &ctl)?);

    let mut ids = Vec::new();
    tokenizer.encoder().encode(b"the rat sat", &mut ids);
    for &id in &ids {
        println!("{id:>4}  {:?}", String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()));
    }

    let mut bytes = Vec::new();
    tokenizer.decode(&ids, &mut bytes)?;
    assert_eq!(bytes, b"the rat sat");
    Ok(())
}
