//! Phi-3 and Phi-4: the Llama block with fused projections, a sliding window or LongRoPE.

use super::{Family, llama::LlamaLike};
use crate::{
    config::Fields,
    edit::Linear,
    error::Result,
    rope::{RopeKeys, RopeScaling},
    spec::{Slot, Spec},
};

pub(super) const FAMILY: Family = Family {
    model_type: "phi3",
    read,
    inert: &[],
};

fn read(f: &Fields<'_>) -> Result<Spec> {
    for name in ["attention_bias", "mlp_bias", "lm_head_bias"] {
        f.expect(name, false)?;
    }
    for name in ["full_attn_mod", "interpolate_factor"] {
        f.expect(name, 1)?;
    }
    let defaults = LlamaLike {
        max_positions: 4096,
        eps: 1e-5,
        rope: RopeKeys {
            theta: ("rope_theta", 10_000.0),
            partial: Some(("partial_rotary_factor", 1.0)),
        },
        ..LlamaLike::new("phi3")
    };
    let mut spec = defaults.read(f)?;
    let scaling = &spec.ropes[0].scaling;
    if !matches!(scaling, RopeScaling::Default | RopeScaling::LongRope { .. }) {
        let problem = "only longrope is defined for this family";
        return Err(f.error("rope_scaling", problem));
    }
    let window = f.opt_size("sliding_window")?;
    for layer in &mut spec.layers {
        layer.window = window;
    }
    let slot = |module| Slot {
        module,
        bias: false,
    };
    spec.names.linears = vec![
        (Linear::Qkv, slot("self_attn.qkv_proj")),
        (Linear::O, slot("self_attn.o_proj")),
        (Linear::GateUp, slot("mlp.gate_up_proj")),
        (Linear::Down, slot("mlp.down_proj")),
    ];
    Ok(spec)
}
