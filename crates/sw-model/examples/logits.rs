//! Prints a text's tokens and the logits at each of them, one JSON line per token:
//! `cargo run --release -p sw-model --example logits -- MODEL TEXT`.

use sw_model::{Model, Seq};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(text)) = (args.next(), args.next()) else {
        return Err("usage: logits MODEL TEXT".into());
    };
    let model = Model::open(dir)?;
    let tokens = model.tokenizer()?.encode(&text, true)?;
    let rows = model.forward(&[Seq::from(&tokens[..])], &mut ())?;
    for (token, logits) in tokens.iter().zip(model.logits(rows.view())?.rows()) {
        println!("{}", serde_json::json!([token, logits.to_vec()]));
    }
    Ok(())
}
