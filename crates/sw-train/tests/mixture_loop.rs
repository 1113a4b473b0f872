//! The mixture of sw-model against a loop over tokens, with weights that sw-train drew.

mod dice;

use dice::Dice;
use ndarray::{Array2, ArrayView1, Axis};
use sw_model::{Hook, Site, SiteView};
use sw_tensor::{Mat, matmul_t, silu_mul, softmax};
use sw_train::checkpoint::save;
use sw_train::{Experts, Params, Part, Precision, Shape, Tensor};

fn shape(experts: Vec<Experts>) -> Shape {
    Shape {
        vocab: 16,
        hidden: 16,
        layers: experts.len().max(2),
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        intermediate: 12,
        max_positions: 8,
        rope_theta: 1e4,
        eps: 1e-5,
        tied: true,
        experts,
    }
}

fn residual(count: usize, per_token: usize) -> Experts {
    Experts {
        residual: true,
        ..Experts::new(count, per_token)
    }
}

/// Six sequences of eight tokens.
fn tokens() -> Vec<u32> {
    let mut dice = Dice::new(4, 1);
    (0..48).map(|_| dice.below(16) as u32).collect()
}

/// The rows that enter and leave the MLPs of a model: the normed rows that they read, and the residual stream before and after.
struct Around(Vec<[Array2<f32>; 3]>);

impl Hook for Around {
    fn wants(&self, site: Site) -> bool {
        matches!(
            site,
            Site::MlpIn(_) | Site::ResidMid(_) | Site::ResidPost(_)
        )
    }
    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let (l, i) = match site {
            Site::MlpIn(l) => (l, 0),
            Site::ResidMid(l) => (l, 1),
            Site::ResidPost(l) => (l, 2),
            _ => return,
        };
        self.0
            .resize_with(self.0.len().max(l + 1), Default::default);
        self.0[l][i] = view.data.to_owned();
    }
}

/// What a block adds to the residual stream for one token: one row after the other, one expert after the other.
fn twin(params: &Params, l: usize, x: ArrayView1<f32>) -> Vec<f32> {
    let x = x.to_owned().insert_axis(Axis(0));
    let product = |x: &Array2<f32>, tensor| {
        let w = params.get(tensor);
        let w = Mat::from_f32(w.nrows(), w.ncols(), w.iter().copied().collect());
        let mut y = Array2::zeros((1, w.rows()));
        matmul_t(x.view(), &w, y.view_mut());
        y
    };
    let mlp = |tensor: &dyn Fn(Part) -> Tensor| {
        let (mut gate, up) = (
            product(&x, tensor(Part::Gate)),
            product(&x, tensor(Part::Up)),
        );
        silu_mul(gate.view_mut(), up.view());
        product(&gate, tensor(Part::Down))
    };
    let soft = |mut z: Array2<f32>| {
        softmax(z.as_slice_mut().unwrap());
        z.into_raw_vec_and_offset().0
    };
    let Some(mixture) = params.shape().mixture(l) else {
        return mlp(&|part| Tensor::Block(l, part))
            .into_raw_vec_and_offset()
            .0;
    };
    let p = soft(product(&x, Tensor::Router(l)));
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    let chosen = &order[..mixture.per_token];
    let sum: f32 = match mixture.per_token {
        1 => 1.0,
        _ => chosen.iter().map(|&e| p[e]).sum(),
    };
    let (mut out, mut a) = (Array2::zeros((1, x.ncols())), 1.0);
    if mixture.residual {
        let bias = params.get(Tensor::MixBias(l));
        let shares = soft(product(&x, Tensor::Mix(l)) + bias);
        out = mlp(&|part| Tensor::Block(l, part)).mapv(|y| shares[1] * y);
        a = shares[0];
    }
    for e in (0..mixture.count).filter(|e| chosen.contains(e)) {
        let share = if mixture.per_token > 1 {
            p[e] / sum
        } else {
            p[e]
        };
        let share = if mixture.residual { a * share } else { share };
        out.scaled_add(share, &mlp(&|part| Tensor::Expert(l, e, part)));
    }
    out.into_raw_vec_and_offset().0
}

#[test]
fn a_mixture_is_a_loop_over_tokens_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    for experts in [
        vec![Experts::new(4, 1), Experts::new(1, 1), Experts::new(7, 1)],
        vec![Experts::new(4, 2), Experts::new(5, 2)],
        vec![residual(2, 1), residual(6, 1)],
        vec![residual(4, 2), residual(3, 2)],
    ] {
        let params = Params::random(&shape(experts), 12, 0.3).unwrap();
        save(&params, Precision::F32, dir.path()).unwrap();
        let model = sw_model::Model::open(dir.path()).unwrap();
        let tokens = tokens();
        let seqs: Vec<_> = tokens.chunks(8).map(sw_model::Seq::from).collect();
        let mut around = Around(vec![]);
        model.forward(&seqs, &mut around).unwrap();
        for (l, [x, before, after]) in around.0.iter().enumerate() {
            for t in 0..x.nrows() {
                let added = twin(&params, l, x.row(t));
                for (c, y) in added.iter().enumerate() {
                    let expected = before[[t, c]] + y;
                    assert_eq!(
                        after[[t, c]].to_bits(),
                        expected.to_bits(),
                        "layer {l}, token {t}, channel {c}"
                    );
                }
            }
        }
    }
}
