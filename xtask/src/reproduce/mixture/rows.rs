//! The models that are compared: sizes, experts of each layer, and how many of them a token takes.

use sw_train::{Experts, Shape};

/// One model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    /// Neurons of an MLP, and of an expert.
    intermediate: usize,
    /// Experts of each layer; one is a dense layer.
    experts: &'static [usize],
    per_token: usize,
    residual: bool,
    copied: bool,
}

const fn row(id: &'static str, name: &'static str, experts: &'static [usize]) -> Row {
    Row {
        id,
        name,
        intermediate: 128,
        experts,
        per_token: 1,
        residual: false,
        copied: false,
    }
}

const fn residual(id: &'static str, name: &'static str, experts: &'static [usize]) -> Row {
    Row {
        residual: true,
        ..row(id, name, experts)
    }
}

const DENSE: &[usize] = &[1; 4];

/// All models of PR-MoE, in the order of the tables.
pub(super) const ROWS: [Row; 12] = [
    row("dense-128", "dense, 128 neurons", DENSE),
    Row {
        intermediate: 256,
        ..row("dense-256", "dense, 256: active as residual", DENSE)
    },
    Row {
        intermediate: 896,
        ..row("dense-896", "dense, 896: all as PR", DENSE)
    },
    row("moe-8", "MoE-8 everywhere", &[8; 4]),
    row("moe-first", "MoE-8, first half", &[8, 8, 1, 1]),
    row("moe-second", "MoE-8, second half", &[1, 1, 8, 8]),
    Row {
        per_token: 2,
        ..row("top-2", "top-2 MoE-8", &[8; 4])
    },
    row("pyramid", "pyramid 4-4-8-8", &[4, 4, 8, 8]),
    residual("residual", "residual MoE-8", &[8; 4]),
    PR,
    residual("pr-inverted", "PR inverted 8-8-4-4", &[8, 8, 4, 4]),
    Row {
        copied: true,
        ..residual("pr-copied", "PR 4-4-8-8, copied experts", &[4, 4, 8, 8])
    },
];

/// Fewer experts in the first half, and an MLP beside all of them; the teacher of Mixture-of-Students.
pub(super) const PR: Row = residual("pr", "PR 4-4-8-8", &[4, 4, 8, 8]);

/// The student of Mixture-of-Students: one layer fewer than its teacher, which is `pr`.
pub(super) const STUDENT: Row = residual("student", "student 4-8-8", &[4, 8, 8]);

pub(super) fn named(id: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.id == id)
}

impl Row {
    pub(super) fn shape(&self, vocab: usize) -> Shape {
        let experts = self.experts.iter().map(|&count| Experts {
            count,
            per_token: self.per_token.min(count),
            residual: self.residual,
            copied: self.copied,
        });
        let dense = self.experts.iter().all(|&count| count == 1);
        Shape {
            vocab,
            hidden: 64,
            layers: self.experts.len(),
            heads: 2,
            kv_heads: 2,
            head_dim: 32,
            intermediate: self.intermediate,
            max_positions: 256,
            rope_theta: 1e4,
            eps: 1e-5,
            tied: true,
            experts: if dense { vec![] } else { experts.collect() },
        }
    }
}

/// Weights of a model: all, and those that work on one token, embeddings left out.
pub(super) fn weights(shape: &Shape) -> [usize; 2] {
    let count = |tensor: sw_train::Tensor| {
        let (rows, cols) = tensor.dim(shape);
        rows * cols
    };
    let all: usize = sw_train::Tensor::all(shape).into_iter().map(count).sum();
    let idle = (0..shape.layers).filter_map(|l| shape.mixture(l));
    let idle = idle.map(|e| (e.count - e.per_token) * 3 * shape.hidden * shape.intermediate);
    [all, all - shape.vocab * shape.hidden - idle.sum::<usize>()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_the_pilot() {
        let of = |id| weights(&named(id).unwrap().shape(1034));
        assert_eq!(of("dense-128"), [230_592, 164_416]);
        assert_eq!(of("dense-256"), [328_896, 262_720]);
        assert_eq!(of("moe-8"), [920_768, 166_464]);
        assert_eq!(of("moe-second"), [575_680, 165_440]);
        assert_eq!(of("top-2"), [920_768, 264_768]);
        assert_eq!(of("residual"), [1_019_592, 265_288]);
        assert_eq!(of("pr"), [822_472, 264_776]);
        assert_eq!(weights(&STUDENT.shape(1034)), [682_694, 198_726]);
    }
}
