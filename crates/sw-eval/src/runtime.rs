//! This workspace's own models behind [`LanguageModel`]: shared beginnings once, ragged batches without padding, logits
//! only for scored rows.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    ops::{ControlFlow, Range},
};

use ndarray::{Array2, ArrayView2, Axis, Slice};
use sw_intervene::{Applied, Intervention, Ranges};
use sw_model::{Coding, Kv, Model, Precision, Prefix, Seq};

use crate::{
    data,
    error::{Error, Result},
    lanes,
    model::{LanguageModel, ModelInfo, Score, Sink, Span},
    prefix_tree::{Leaf, Node, PrefixTree},
};

/// A model, what is done to it, and how much of it is run at once.
pub struct Runtime {
    base: Model,
    applied: Applied,
    name: String,
    budget: usize,
    sharing: bool,
    /// What tells a change of the checkpoint's weights apart.
    change: Option<String>,
}

/// What is known of a node that later batches share.
struct Known {
    kv: Kv,
    /// Its rows after the final norm that predict scored tokens; `[scored places, hidden]`.
    rows: Array2<f32>,
}

/// What is known of nodes, by their index in the plan.
type Prefixes = HashMap<usize, Known>;

/// Tokens of a batch without being told otherwise: enough for the matrix products, little memory.
pub const TOKEN_BUDGET: usize = 1024;

/// Bytes of activations of all batches that are run at once; one is run in any case.
const LANE_MEMORY: usize = 64 << 20;

impl Runtime {
    /// A model under interventions; shares the checkpoint with `model`.
    ///
    /// # Errors
    /// An intervention that the model cannot take.
    pub fn new(model: &Model, interventions: &[Intervention]) -> Result<Self> {
        Self::with_ranges(&Ranges::new(model), interventions)
    }

    /// [`new`](Self::new) on the model of `ranges`, where what calibration measures is kept for other settings.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_ranges(ranges: &Ranges, interventions: &[Intervention]) -> Result<Self> {
        let model = ranges.model();
        let applied = Applied::with_ranges(ranges, interventions, &data::read_texts)?;
        let name = model.source().display().to_string();
        Ok(Self {
            base: model.clone(),
            applied,
            name,
            budget: TOKEN_BUDGET,
            sharing: true,
            change: None,
        })
    }

    /// Says that the model's weights are not those of its checkpoint: `change` tells changes apart, in results and journals.
    #[must_use]
    pub fn with_change(mut self, change: String) -> Self {
        self.change = Some(change);
        self
    }

    /// The checkpoint's, and what tells changes of its weights apart.
    fn fingerprint(&self) -> String {
        let stored = self.base.fingerprint().map(|f| f.to_string());
        let stored = stored.unwrap_or_default();
        match &self.change {
            None => stored,
            Some(change) => format!("{stored}+{change}"),
        }
    }

    /// Another name than the checkpoint's folder.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..self
        }
    }

    /// Another number of tokens in a batch. Results do not depend on it.
    pub fn with_budget(self, tokens: usize) -> Self {
        Self {
            budget: tokens.max(1),
            ..self
        }
    }

    /// Whether shared beginnings are computed once. Results do not depend on it.
    pub fn with_sharing(self, sharing: bool) -> Self {
        Self { sharing, ..self }
    }

    /// The edited model.
    pub fn model(&self) -> &Model {
        self.applied.model()
    }

    /// The rows of one whole text after the final norm, hooks applied; `[tokens, hidden]`. A soft prompt of the model is before it.
    ///
    /// # Errors
    /// A text that the model cannot be run on.
    pub fn rows(&self, tokens: &[u32]) -> Result<Array2<f32>> {
        let mut all = self.base.virtual_tokens();
        let before = all.len();
        all.extend(tokens);
        let mut rows = self
            .applied
            .model()
            .forward(&[Seq::from(&all[..])], &mut self.applied.hook())?;
        self.applied.check()?;
        rows.slice_axis_inplace(Axis(0), Slice::from(before..));
        Ok(rows)
    }

    /// Rows after the final norm that predict the scored tokens of a batch, in one pass; `[scored tokens of all leaves, hidden]`.
    ///
    /// Shared beginnings that are in `prefixes` are known; the others are computed with the leaves, and those that leaves from
    /// `end` on share as well are added to `prefixes`.
    fn scored_rows(
        &self,
        spans: &[Span],
        nodes: &[Node],
        leaves: &[Leaf],
        end: usize,
        prefixes: &mut Prefixes,
    ) -> sw_model::Result<Array2<f32>> {
        let mut new = BTreeSet::new();
        for leaf in leaves {
            let mut next = leaf.node;
            while let Some(n) = next.filter(|n| !prefixes.contains_key(n) && new.insert(*n)) {
                next = nodes[n].parent;
            }
        }
        // Those that are kept come first; each after its parent, which is kept as long.
        let is_kept = |&n: &usize| nodes[n].last_leaf > end;
        let (mut new, others): (Vec<usize>, Vec<usize>) = new.into_iter().partition(is_kept);
        let kept = new.len();
        new.extend(others);
        let places: HashMap<usize, usize> = new.iter().enumerate().map(|(i, &n)| (n, i)).collect();
        let behind = |node: Option<usize>| match node {
            None => Prefix::Nothing,
            Some(n) => match prefixes.get(&n) {
                Some(known) => Prefix::Known(&known.kv),
                None => Prefix::Seq(places[&n]),
            },
        };
        let of_nodes = new.iter().map(|&n| {
            let node = &nodes[n];
            let tokens = &spans[node.span].tokens[node.start..node.end];
            let seq = Seq::from(tokens).after(behind(node.parent));
            seq.wanting_from(node.scored - node.start)
        });
        // Where all that is read of a span is shared, nothing is left.
        let of_leaves = leaves.iter().map(|leaf| {
            let span = &spans[leaf.span];
            let seq = Seq::from(read(span, leaf.start)).after(behind(leaf.node));
            seq.wanting_from(first_scored(span).saturating_sub(leaf.start))
        });
        let of_leaves = of_leaves.filter(|seq| !seq.tokens.is_empty());
        let seqs: Vec<Seq<'_>> = of_nodes.chain(of_leaves).collect();
        let model = self.applied.model();
        let (own, kvs) = model.extend_first(&seqs, kept, &mut self.applied.hook())?;
        let own_rows = |rows: Range<usize>| own.slice_axis(Axis(0), Slice::from(rows));
        // Of each sequence there is its last row in any case; those of a node that predict scored tokens are the last ones.
        let mut first = 0;
        let mut of_new = Vec::with_capacity(new.len());
        for &n in &new {
            let scored = nodes[n].end - nodes[n].scored;
            first += scored.max(1);
            of_new.push(own_rows(first - scored..first));
        }
        let mut rows: Vec<ArrayView2<'_, f32>> = Vec::new();
        for leaf in leaves {
            let span = &spans[leaf.span];
            let wanted = first_scored(span);
            let mut shared = Vec::new(); // from the last node to the first
            let mut next = leaf.node;
            while let Some(n) = next.filter(|&n| nodes[n].end > wanted) {
                let of_node = match prefixes.get(&n) {
                    Some(known) => known.rows.view(),
                    None => of_new[places[&n]],
                };
                let others = wanted.saturating_sub(nodes[n].scored);
                shared.push(of_node.slice_axis_move(Axis(0), Slice::from(others..)));
                next = nodes[n].parent;
            }
            rows.extend(shared.into_iter().rev());
            let after = first + read(span, wanted.max(leaf.start)).len();
            rows.push(own_rows(first..after));
            first = after;
        }
        let rows = ndarray::concatenate(Axis(0), &rows).expect("rows of one length");
        let of_kept = of_new.into_iter().map(|rows| rows.to_owned());
        for ((n, kv), rows) in new.into_iter().zip(kvs).zip(of_kept) {
            prefixes.insert(n, Known { kv, rows });
        }
        Ok(rows)
    }

    /// How many batches are run at once, each on its share of the threads.
    ///
    /// A model whose batches take little memory has steps so short that threads which share them mostly wait; a large one
    /// keeps all threads busy with one batch.
    fn lanes(&self) -> usize {
        let spec = self.base.spec();
        // The residual stream, queries, keys, values and their mix, two of the inner channels; the head's input.
        let floats = 4 * spec.hidden_size
            + 2 * (spec.q_width() + spec.kv_width())
            + 2 * spec.intermediate_size;
        (LANE_MEMORY / (self.budget * floats * size_of::<f32>())).max(1)
    }

    /// One batch: its scores, in the order of its leaves. `prefixes`: those that earlier batches of the lane left.
    ///
    /// Where the rope's frequencies depend on the length, a shared beginning may not fit what follows it; the batch runs without
    /// sharing then, in as many passes as the budget asks for.
    fn batch(
        &self,
        spans: &[Span],
        plan: &PrefixTree,
        batch: &Range<usize>,
        prefixes: &mut Prefixes,
    ) -> Result<Vec<Score>> {
        let leaves = &plan.leaves[batch.clone()];
        let rows = match self.scored_rows(spans, &plan.nodes, leaves, batch.end, prefixes) {
            Err(sw_model::Error::Prefix { .. }) => {
                let whole = PrefixTree {
                    nodes: Vec::new(),
                    leaves: leaves.iter().map(|leaf| Leaf::whole(leaf.span)).collect(),
                };
                let mut rows = Vec::new();
                for part in whole.batches(spans, self.budget, 1) {
                    let leaves = &whole.leaves[part.clone()];
                    rows.push(self.scored_rows(spans, &[], leaves, part.end, prefixes)?);
                }
                let rows: Vec<_> = rows.iter().map(|rows| rows.view()).collect();
                ndarray::concatenate(Axis(0), &rows).expect("rows of one length")
            }
            rows => rows?,
        };
        self.applied.check()?;
        prefixes.retain(|&n, _| plan.nodes[n].last_leaf > batch.end);
        let targets: Vec<u32> = leaves
            .iter()
            .flat_map(|l| &spans[l.span].tokens[spans[l.span].from..])
            .copied()
            .collect();
        let mut tokens = self
            .applied
            .model()
            .score(rows.view(), &targets)?
            .into_iter();
        let scores = leaves.iter().map(|leaf| {
            let span = &spans[leaf.span];
            let sum = Score {
                log_prob: 0.0,
                greedy: true,
            };
            tokens
                .by_ref()
                .take(span.tokens.len() - span.from)
                .fold(sum, |sum, token| Score {
                    log_prob: sum.log_prob + token.log_prob,
                    greedy: sum.greedy && token.greedy,
                })
        });
        Ok(scores.collect())
    }
}

/// The first token of a span whose row predicts a scored one.
fn first_scored(span: &Span) -> usize {
    span.from - 1
}

/// What the model reads of a span: all but the last token.
fn read(span: &Span, start: usize) -> &[u32] {
    &span.tokens[start..span.tokens.len() - 1]
}

impl LanguageModel for Runtime {
    fn info(&self) -> ModelInfo {
        let precision = self.base.precision();
        let is_rounding = precision == Precision::Bfloat16;
        ModelInfo {
            name: self.name.clone(),
            fingerprint: self.fingerprint(),
            dtype: self.base.coding().to_string().to_lowercase(),
            kernel: sw_tensor::kernel_name(precision).into(),
            compute_dtype: is_rounding.then(|| precision.name().into()),
            weights_rounded: is_rounding && self.base.coding() != Coding::BF16,
            gguf: self.base.gguf().map(|gguf| gguf.file.display().to_string()),
            ignored_config_fields: self.base.ignored_config_fields().to_vec(),
            unknown_config_fields: self.base.unknown_config_fields().to_vec(),
            warnings: self.base.warnings().to_vec(),
        }
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        Ok(self.base.tokenizer()?.encode(text, special)?)
    }

    fn bos(&self) -> Option<u32> {
        self.base.tokenizer().ok()?.bos()
    }

    fn eos(&self) -> Option<u32> {
        self.base.tokenizer().ok()?.eos()
    }

    fn max_length(&self) -> usize {
        self.base.spec().max_positions - self.base.virtual_tokens().len()
    }

    fn score(&self, spans: &[Span], sink: &mut Sink<'_>) -> Result<()> {
        if let Some(bad) = spans
            .iter()
            .find(|s| s.from == 0 || s.from >= s.tokens.len())
        {
            return Err(Error::Runtime(format!(
                "a span of {} tokens, scored from {}",
                bad.tokens.len(),
                bad.from
            )));
        }
        let virtual_tokens = self.base.virtual_tokens();
        let spans = match virtual_tokens.len() {
            0 => Cow::Borrowed(spans),
            before => {
                let behind = |span: &Span| Span {
                    tokens: [&virtual_tokens[..], &span.tokens].concat(),
                    from: before + span.from,
                };
                spans.iter().map(behind).collect()
            }
        };
        let spans = &*spans;
        let sharing = self.sharing && !self.applied.whole_sequences();
        let plan = if sharing {
            PrefixTree::new(spans)
        } else {
            PrefixTree::flat(spans)
        };
        let lanes = self.lanes().min(rayon::current_num_threads());
        let batches = plan.batches(spans, self.budget, lanes);
        let work = |prefixes: &mut Prefixes, batch: &Range<usize>| {
            let scores = self.batch(spans, &plan, batch, prefixes)?;
            Ok((batch.clone(), scores))
        };
        let deliver = |(batch, scores): (Range<usize>, Vec<Score>)| {
            let mut stop = false;
            for (leaf, score) in plan.leaves[batch].iter().zip(scores) {
                stop |= sink(leaf.span, score).is_break(); // the others are known as well: none is lost
            }
            if stop {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        lanes::run(&batches, lanes, work, deliver)
    }
}
