//! Mistral: the Llama block with a sliding window.

use super::{Family, llama::llama_like};
use crate::{config::Fields, error::Result, spec::Spec};

pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    read,
    inert: &[],
};

fn read(f: &Fields<'_>) -> Result<Spec> {
    let mut spec = llama_like("mistral", f, [false; 4], false, 4096 * 32)?;
    // Absent means the library's default of 4096; null means no window.
    let window = if f.is_null("sliding_window") {
        None
    } else {
        Some(f.opt_size("sliding_window")?.unwrap_or(4096))
    };
    for layer in &mut spec.layers {
        layer.window = window;
    }
    Ok(spec)
}
