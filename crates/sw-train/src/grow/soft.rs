//! Soft prompts before the last block of a language model, its own head frozen: tasks are questions with one word as the answer.

use ndarray::{Array2, ArrayView2, Axis, Zip, s};

use super::{Encoder, Samples, Split};
use crate::attention::Rope;
use crate::error::{Error, Result};
use crate::model::{Batch, forward};
use crate::params::{Params, Part, Shape, Tensor};

/// A text whose next token is the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The text's tokens.
    pub tokens: Vec<u32>,
    /// The answer: its number in the list of all answers.
    pub answer: usize,
}

/// Soft prompts before the last block of a frozen Llama.
///
/// A prompt row stands at position 0 of the last block, in the place of a normed row of the residual stream: it has keys and
/// values, which the last token of a question attends to beside those of the text; the rest of the block, the final norm
/// and the head are the model's. Nothing before the last block sees it, so a question's own rows are computed once. The logits of
/// the last token at the answers' tokens are the logits of the classes.
///
/// What meets a prompt is, for each head h, the last token's query as seen through the key matrix, `W_k,h^T q_h`: the attention
/// scores of old questions stay where a step is orthogonal to these. Their values do not stay with them: what a
/// question reads at a row that it attends to changes with the row.
pub struct SoftPrompts {
    frozen: Frozen,
    rows: usize,
    /// The head's rows of the answers, `[answers, hidden]`.
    answers: Array2<f64>,
    kinds: Vec<usize>,
    classes: Vec<Vec<usize>>,
    /// Per task: to learn from, to measure on.
    tasks: Vec<[Read; 2]>,
    pretrained: Array2<f64>,
}

/// The last block and the final norm.
struct Frozen {
    shape: Shape,
    /// `[kv_heads * head_dim, hidden]`.
    k: Array2<f64>,
    v: Array2<f64>,
    o: Array2<f64>,
    mlp_norm: Array2<f64>,
    gate: Array2<f64>,
    up: Array2<f64>,
    down: Array2<f64>,
    norm: Array2<f64>,
}

/// What the last block reads of some questions.
#[derive(Default)]
struct Read {
    labels: Vec<usize>,
    /// The last token's residual row, `[questions, hidden]`.
    resid: Array2<f64>,
    /// Its query, turned to its position, over the root of the head's width, `[questions, heads * head_dim]`.
    query: Array2<f64>,
    /// Attention scores of the text's own tokens, a row per question and head; and their values.
    scores: Vec<Vec<f64>>,
    values: Vec<Array2<f64>>,
    /// `[questions * heads, hidden]`.
    features: Array2<f64>,
}

/// What a forward pass keeps.
pub struct SoftTape {
    /// Attention weights of the prompt rows, `[questions * heads, rows]`.
    weights: Array2<f64>,
    /// What the head of each question read in all, `[questions, heads * head_dim]`.
    read: Array2<f64>,
    resid_mid: Array2<f64>,
    gate: Array2<f64>,
    up: Array2<f64>,
    resid: Array2<f64>,
}

impl SoftPrompts {
    /// Questions for a model: per task its [kind](Encoder::kind), what to learn from and what to measure on; `answers` are the
    /// tokens of all answers, `texts` some of the text that the model was trained on, `rows` the prompt rows of a set.
    ///
    /// # Errors
    /// [`Error::Shape`] where a list is empty, an answer is not in the list, or a token is beyond the vocabulary.
    pub fn new(
        params: &Params,
        rows: usize,
        answers: &[u32],
        tasks: &[(usize, [Vec<Question>; 2])],
        texts: &[Vec<u32>],
    ) -> Result<Self> {
        let shape = params.shape().clone();
        let empty = tasks.iter().any(|t| t.1.iter().any(Vec::is_empty));
        if rows == 0 || answers.is_empty() || tasks.is_empty() || texts.is_empty() || empty {
            return Err(Error::Shape(
                "soft prompts: expected rows, answers, texts and tasks with questions".into(),
            ));
        }
        let wrong = |q: &&Question| q.answer >= answers.len() || q.tokens.is_empty();
        if let Some(q) = tasks.iter().flat_map(|t| t.1.iter().flatten()).find(wrong) {
            return Err(Error::Shape(format!(
                "a question of {} tokens with answer {} of {}",
                q.tokens.len(),
                q.answer,
                answers.len()
            )));
        }
        if let Some(token) = answers.iter().find(|&&t| t as usize >= shape.vocab) {
            return Err(Error::Shape(format!(
                "token {token} is not below the vocabulary of {}",
                shape.vocab
            )));
        }
        let wide = |tensor: Tensor| params.get(tensor).mapv(f64::from);
        let part = |part| wide(Tensor::Block(shape.layers - 1, part));
        let frozen = Frozen {
            k: part(Part::K),
            v: part(Part::V),
            o: part(Part::O),
            mlp_norm: part(Part::MlpNorm),
            gate: part(Part::Gate),
            up: part(Part::Up),
            down: part(Part::Down),
            norm: wide(Tensor::Norm),
            shape,
        };
        let numbers: Vec<usize> = answers.iter().map(|&t| t as usize).collect();
        let read = |questions: &Vec<Question>| {
            let mut read =
                frozen.read(params, questions.iter().map(|q| q.tokens.as_slice()), false)?;
            read.labels = questions.iter().map(|q| q.answer).collect();
            Ok::<Read, Error>(read)
        };
        let texts = texts.iter().map(Vec::as_slice);
        let pretrained = frozen.read(params, texts, true)?.features;
        let tasks_read: Result<Vec<_>> = tasks
            .iter()
            .map(|(_, [train, test])| Ok([read(train)?, read(test)?]))
            .collect();
        let classes = tasks.iter().map(|(_, splits)| {
            let mut classes: Vec<_> = splits.iter().flatten().map(|q| q.answer).collect();
            classes.sort_unstable();
            classes.dedup();
            classes
        });
        Ok(Self {
            rows,
            answers: wide(Tensor::Head).select(Axis(0), &numbers),
            kinds: tasks.iter().map(|t| t.0).collect(),
            classes: classes.collect(),
            tasks: tasks_read?,
            pretrained,
            frozen,
        })
    }

    fn read(&self, samples: Samples) -> &Read {
        &self.tasks[samples.task][samples.split as usize]
    }
}

impl Frozen {
    fn heads(&self) -> (usize, usize) {
        (self.shape.heads, self.shape.head_dim)
    }

    /// The columns of keys and values that a head reads.
    fn columns(&self, head: usize) -> std::ops::Range<usize> {
        let kv = head / (self.shape.heads / self.shape.kv_heads);
        kv * self.shape.head_dim..(kv + 1) * self.shape.head_dim
    }

    /// What the last block reads at the last token of each text, or at every token for the features alone.
    fn read<'t>(
        &self,
        params: &Params,
        texts: impl Iterator<Item = &'t [u32]>,
        features_only: bool,
    ) -> Result<Read> {
        let layer = self.shape.layers - 1;
        let (heads, width) = self.heads();
        let root = (width as f64).sqrt();
        let mut read = Read {
            resid: Array2::zeros((0, self.shape.hidden)),
            query: Array2::zeros((0, heads * width)),
            features: Array2::zeros((0, self.shape.hidden)),
            ..Read::default()
        };
        for tokens in texts {
            let batch = Batch {
                len: tokens.len(),
                inputs: tokens.to_vec(),
                targets: vec![crate::IGNORE; tokens.len()],
            };
            let tape = forward(params, &batch)?;
            // The text stands behind the prompt: one position further.
            let rope = Rope::new(&self.shape, tokens.len() + 1);
            let block = &tape.blocks[layer];
            let normed = block.normed().to_owned();
            let turned = |part| {
                let w = params.get(Tensor::Block(layer, part));
                let first = Array2::zeros((1, w.nrows()));
                let mut rows = first;
                rows.append(Axis(0), normed.dot(&w.t()).view())
                    .expect("one width");
                rope.rotate(&mut rows, width, tokens.len() + 1, false);
                rows.slice_move(s![1.., ..]).mapv(f64::from)
            };
            let (query, keys) = (turned(Part::Q), turned(Part::K));
            let values = normed.mapv(f64::from).dot(&self.v.t());
            let from = if features_only { 0 } else { tokens.len() - 1 };
            for q in query.rows().into_iter().skip(from) {
                let q = &q / root;
                for h in 0..heads {
                    let columns = self.columns(h);
                    let q = q.slice(s![h * width..(h + 1) * width]);
                    let feature = self.k.slice(s![columns.clone(), ..]).t().dot(&q);
                    read.features.push_row(feature.view()).expect("one width");
                    if !features_only {
                        let keys = keys.slice(s![.., columns.clone()]);
                        read.scores.push(keys.dot(&q).to_vec());
                        read.values.push(values.slice(s![.., columns]).to_owned());
                    }
                }
                read.query.push_row(q.view()).expect("one width");
            }
            let last = block.resid_pre.row(tokens.len() - 1).mapv(f64::from);
            read.resid.push_row(last.view()).expect("one width");
        }
        Ok(read)
    }

    /// `x / rms(x) * weight` per row, and `1 / rms(x)`.
    fn norm(&self, x: &Array2<f64>, weight: &Array2<f64>) -> (Array2<f64>, Vec<f64>) {
        let inverse: Vec<f64> = x
            .rows()
            .into_iter()
            .map(|row| (row.dot(&row) / x.ncols() as f64 + f64::from(self.shape.eps)).powf(-0.5))
            .collect();
        let mut y = x * weight;
        for (mut row, inverse) in y.rows_mut().into_iter().zip(&inverse) {
            row *= *inverse;
        }
        (y, inverse)
    }

    /// The gradient before a norm, given that behind it: `r (w dy) - x r^3 mean(x w dy)` with `r = 1 / rms(x)`.
    fn norm_backward(
        &self,
        x: &Array2<f64>,
        weight: &Array2<f64>,
        dy: &Array2<f64>,
    ) -> Array2<f64> {
        let (_, inverse) = self.norm(x, weight);
        let mut dx = dy * weight;
        for ((mut dx, x), r) in dx.rows_mut().into_iter().zip(x.rows()).zip(inverse) {
            let pull = r.powi(3) * dx.dot(&x) / x.len() as f64;
            dx *= r;
            dx.scaled_add(-pull, &x);
        }
        dx
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Encoder for SoftPrompts {
    type Tape = SoftTape;

    fn tasks(&self) -> usize {
        self.tasks.len()
    }

    fn prompt(&self) -> (usize, usize) {
        (self.rows, self.frozen.shape.hidden)
    }

    /// As large as a normed row.
    fn scale(&self) -> f64 {
        1.0
    }

    fn classes(&self) -> usize {
        self.answers.nrows()
    }

    fn head(&self) -> usize {
        0
    }

    fn classes_of(&self, task: usize) -> &[usize] {
        &self.classes[task]
    }

    fn kind(&self, task: usize) -> usize {
        self.kinds[task]
    }

    fn count(&self, task: usize, split: Split) -> usize {
        self.tasks[task][split as usize].labels.len()
    }

    fn labels(&self, samples: Samples) -> &[usize] {
        &self.read(samples).labels[..samples.count]
    }

    fn features(&self, samples: Samples) -> ArrayView2<'_, f64> {
        let heads = self.frozen.shape.heads;
        self.read(samples)
            .features
            .slice(s![..samples.count * heads, ..])
    }

    fn pretrained(&self) -> ArrayView2<'_, f64> {
        self.pretrained.view()
    }

    fn forward(
        &self,
        samples: Samples,
        prompt: &Array2<f64>,
        _head: &Array2<f64>,
        classes: &[usize],
    ) -> (Array2<f64>, SoftTape) {
        let (f, read) = (&self.frozen, self.read(samples));
        let (heads, width) = f.heads();
        let (keys, values) = (prompt.dot(&f.k.t()), prompt.dot(&f.v.t()));
        let mut weights = Array2::zeros((samples.count * heads, self.rows));
        let mut mixed = Array2::zeros((samples.count, heads * width));
        for i in 0..samples.count {
            for h in 0..heads {
                let (n, own) = (i * heads + h, h * width..(h + 1) * width);
                let columns = f.columns(h);
                let query = read.query.slice(s![i, own.clone()]);
                let mut scores = keys.slice(s![.., columns.clone()]).dot(&query);
                let text = &read.scores[n];
                let all = scores.iter().chain(text);
                let max = all.fold(f64::NEG_INFINITY, |a, &b| a.max(b));
                scores.mapv_inplace(|v| (v - max).exp());
                let text: Vec<f64> = text.iter().map(|v| (v - max).exp()).collect();
                let sum = scores.sum() + text.iter().sum::<f64>();
                scores /= sum;
                let mut z = values.slice(s![.., columns]).t().dot(&scores);
                for (weight, value) in text.iter().zip(read.values[n].rows()) {
                    z.scaled_add(weight / sum, &value);
                }
                weights.row_mut(n).assign(&scores);
                mixed.slice_mut(s![i, own]).assign(&z);
            }
        }
        let resid_mid = &read.resid.slice(s![..samples.count, ..]) + &mixed.dot(&f.o.t());
        let (mlp_in, _) = f.norm(&resid_mid, &f.mlp_norm);
        let (gate, up) = (mlp_in.dot(&f.gate.t()), mlp_in.dot(&f.up.t()));
        let mut act = up.clone();
        Zip::from(&mut act)
            .and(&gate)
            .for_each(|a, &g| *a *= g * sigmoid(g));
        let resid = &resid_mid + &act.dot(&f.down.t());
        let (normed, _) = f.norm(&resid, &f.norm);
        let logits = normed.dot(&self.answers.select(Axis(0), classes).t());
        let tape = SoftTape {
            weights,
            read: mixed,
            resid_mid,
            gate,
            up,
            resid,
        };
        (logits, tape)
    }

    fn backward(
        &self,
        samples: Samples,
        prompt: &Array2<f64>,
        _head: &Array2<f64>,
        classes: &[usize],
        tape: &SoftTape,
        dlogits: &Array2<f64>,
    ) -> (Array2<f64>, Array2<f64>) {
        let (f, read) = (&self.frozen, self.read(samples));
        let (heads, width) = f.heads();
        let dnormed = dlogits.dot(&self.answers.select(Axis(0), classes));
        let mut dresid = f.norm_backward(&tape.resid, &f.norm, &dnormed);
        // resid = resid_mid + down(silu(gate(x)) * up(x)), x = norm(resid_mid)
        let mut dgate = dresid.dot(&f.down);
        let mut dup = dgate.clone();
        Zip::from(&mut dgate)
            .and(&mut dup)
            .and(&tape.gate)
            .and(&tape.up)
            .for_each(|dg, du, &g, &u| {
                let s = sigmoid(g);
                *du *= g * s;
                *dg *= u * s * (1.0 + g * (1.0 - s));
            });
        let dmlp_in = dgate.dot(&f.gate) + dup.dot(&f.up);
        dresid += &f.norm_backward(&tape.resid_mid, &f.mlp_norm, &dmlp_in);
        // What the prompt's rows add to what is read: sum_m w_m (v_m), w = softmax over text and prompt.
        let dread = dresid.dot(&f.o);
        let values = prompt.dot(&f.v.t());
        let (mut dkeys, mut dvalues) = (Array2::zeros(values.dim()), Array2::zeros(values.dim()));
        for i in 0..samples.count {
            for h in 0..heads {
                let (n, own, columns) = (i * heads + h, h * width..(h + 1) * width, f.columns(h));
                let (dz, z) = (
                    dread.slice(s![i, own.clone()]),
                    tape.read.slice(s![i, own.clone()]),
                );
                let query = read.query.slice(s![i, own]);
                let mean = dz.dot(&z);
                for (m, &weight) in tape.weights.row(n).iter().enumerate() {
                    let value = values.slice(s![m, columns.clone()]);
                    let dscore = weight * (dz.dot(&value) - mean);
                    dkeys
                        .slice_mut(s![m, columns.clone()])
                        .scaled_add(dscore, &query);
                    dvalues
                        .slice_mut(s![m, columns.clone()])
                        .scaled_add(weight, &dz);
                }
            }
        }
        (
            dkeys.dot(&f.k) + dvalues.dot(&f.v),
            Array2::zeros((classes.len(), 0)),
        )
    }
}
