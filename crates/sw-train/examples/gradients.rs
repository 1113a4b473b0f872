//! Writes the gradient of the mean negative log-likelihood with respect to every weight of a model, in F32, under the weights'
//! names: `cargo run --release -p sw-train --example gradients -- MODEL TEXTS.json OUT.safetensors`.
//!
//! `TEXTS.json` is a list of lists of token ids. `tests/golden/check_gradients.py` compares the file with PyTorch's gradients.

use std::collections::BTreeMap;
use std::error::Error;

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use safetensors::tensor::{Dtype, TensorView};
use sw_model::{LinearAt, Model, Site};
use sw_train::mapped::{Gradients, backward};

/// Gradients by the name of the weight.
struct Named<'m> {
    model: &'m Model,
    found: BTreeMap<String, Array2<f32>>,
}

impl Named<'_> {
    fn add(&mut self, name: String, gradient: Array2<f32>) {
        match self.found.get_mut(&name) {
            Some(sum) => *sum += &gradient,
            None => drop(self.found.insert(name, gradient)),
        }
    }

    fn whole(&self, name: &str) -> String {
        format!("{}{name}", self.model.spec().names.base)
    }

    fn embedding_name(&self) -> String {
        self.whole(self.model.spec().names.embed)
    }
}

impl Gradients for Named<'_> {
    fn linear(&mut self, at: LinearAt, dy: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>) {
        let name = self.model.spec().tensor_name_at(at);
        self.add(name.unwrap_or_default(), dy.t().dot(&x));
    }

    fn head(&mut self, dy: ArrayView2<'_, f32>, x: ArrayView2<'_, f32>) {
        let spec = self.model.spec();
        let name = if spec.tied {
            self.embedding_name()
        } else {
            spec.names.head.to_string()
        };
        self.add(name, dy.t().dot(&x));
    }

    fn norm(&mut self, at: Site, gradient: ArrayView1<'_, f32>) {
        let names = &self.model.spec().names;
        let of_layer = |l: usize, name: Option<&str>| {
            let layer = names.layer.replacen("{}", &l.to_string(), 1);
            format!("{layer}{}", name.unwrap_or_default())
        };
        let name = match at {
            Site::AttnIn(l) => of_layer(l, names.norms.attn_in),
            Site::MlpIn(l) => of_layer(l, names.norms.mlp_in),
            _ => names.final_norm.to_string(),
        };
        let name = self.whole(&format!("{name}.weight"));
        self.add(name, gradient.to_owned().insert_axis(Axis(0)));
    }

    fn embedding(&mut self, tokens: &[u32], gradient: ArrayView2<'_, f32>) {
        let mut rows = Array2::zeros((self.model.spec().vocab_size, gradient.ncols()));
        for (&token, gradient) in tokens.iter().zip(gradient.rows()) {
            let mut row = rows.row_mut(token as usize);
            row += &gradient;
        }
        self.add(self.embedding_name(), rows);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, texts, out] = args.as_slice() else {
        return Err("expected MODEL TEXTS.json OUT.safetensors".into());
    };
    let texts: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(texts)?)?;
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let model = Model::open(model)?;
    let mut named = Named {
        model: &model,
        found: BTreeMap::new(),
    };
    let loss = backward(&model, &texts, &mut named)?;
    println!("{loss}");
    let bytes: BTreeMap<&String, (Vec<usize>, Vec<u8>)> = named
        .found
        .iter()
        .map(|(name, g)| {
            let bytes = g.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, (g.shape().to_vec(), bytes))
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, (dims, bytes))| Ok((name, TensorView::new(Dtype::F32, dims.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    std::fs::write(out, safetensors::serialize(views, None)?)?;
    Ok(())
}
