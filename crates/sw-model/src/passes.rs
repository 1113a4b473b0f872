//! The passes that a model offers: whole sequences, some layers, and sequences after a prefix.

use std::ops::Range;

use ndarray::{Array2, Axis, Slice};

use crate::{
    error::Result,
    forward::{self, Batch, Kept, Prefix, Seq},
    kv::{Kv, New},
    model::Model,
    site::{Hook, SeqRange},
};

impl Model {
    /// The rows after the final norm, one for each token whose row is wanted, sequences one after the other; `[tokens, hidden]`.
    ///
    /// A row's values do not depend on the other sequences, on where its sequence is cut into prefix and tokens, or on
    /// the number of threads: bit for bit.
    ///
    /// # Errors
    /// An empty sequence, a token id beyond the vocabulary, a prefix of another model, a non-finite activation (with
    /// the tensor that is to blame).
    ///
    /// # Panics
    /// When a [`Prefix::Seq`] is not the index of an earlier sequence.
    pub fn forward(&self, seqs: &[Seq<'_>], hook: &mut dyn Hook) -> Result<Array2<f32>> {
        let batch = Batch::of_seqs(self, seqs)?;
        let x = forward::embed(self, &batch, seqs.iter().map(|s| s.tokens))?;
        forward::run(self, &batch, x, self.all_layers(), hook, None)
    }

    /// Resumes at a layer: runs layers `layer..` on the residual stream that enters the first of them.
    ///
    /// `resid`: `[tokens, hidden]`, sequences of `lens` tokens one after the other, each from position 0.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    ///
    /// # Panics
    /// When `resid` has another shape than `[sum of lens, hidden]`.
    pub fn forward_from(
        &self,
        layer: usize,
        resid: Array2<f32>,
        lens: &[usize],
        hook: &mut dyn Hook,
    ) -> Result<Array2<f32>> {
        self.forward_layers(layer..self.spec().layers.len(), resid, lens, hook)
    }

    /// Runs some layers on the residual stream that enters the first of them; returns the stream that leaves the last of them, or,
    /// where that is the model's last layer, the rows after the final norm.
    ///
    /// `resid`: `[tokens, hidden]`, sequences of `lens` tokens one after the other, each from position 0.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    ///
    /// # Panics
    /// When `resid` has another shape than `[sum of lens, hidden]`, or there are no such layers.
    pub fn forward_layers(
        &self,
        layers: Range<usize>,
        resid: Array2<f32>,
        lens: &[usize],
        hook: &mut dyn Hook,
    ) -> Result<Array2<f32>> {
        assert!(layers.end <= self.spec().layers.len(), "layers");
        assert_eq!(
            resid.dim(),
            (lens.iter().sum(), self.spec().hidden_size),
            "residual stream"
        );
        let batch = Batch::new(self, lens.iter().map(|&n| (n, Prefix::Nothing)))?;
        forward::run(self, &batch, resid, layers, hook, None)
    }

    fn all_layers(&self) -> Range<usize> {
        0..self.spec().layers.len()
    }

    /// Runs tokens after an optional prefix; returns their rows (as [`forward`](Self::forward)) and the longer prefix.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn extend(
        &self,
        parent: Option<&Kv>,
        tokens: &[u32],
        hook: &mut dyn Hook,
    ) -> Result<(Array2<f32>, Kv)> {
        let seq = Seq::from(tokens).after(parent);
        let (rows, mut kvs) = self.extend_first(&[seq], 1, hook)?;
        Ok((rows, kvs.swap_remove(0)))
    }

    /// [`extend`](Self::extend), with the longer prefix in the place of `prefix`: in its memory, which grows, unless somebody
    /// else has a clone of it. So a sequence is continued token by token without a copy of what came before.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); `prefix` stays as it was.
    pub fn extend_in_place(
        &self,
        prefix: &mut Kv,
        tokens: &[u32],
        hook: &mut dyn Hook,
    ) -> Result<Array2<f32>> {
        let seq = Seq::from(tokens).after(&*prefix);
        let (rows, mut new) = self.run_keeping(&[seq], 1, hook)?;
        prefix.append(new.swap_remove(0));
        Ok(rows)
    }

    /// Runs sequences, and keeps the keys and values of the first `kept` of them.
    fn run_keeping(
        &self,
        seqs: &[Seq<'_>],
        kept: usize,
        hook: &mut dyn Hook,
    ) -> Result<(Array2<f32>, Vec<New>)> {
        let batch = Batch::of_seqs(self, seqs)?;
        let x = forward::embed(self, &batch, seqs.iter().map(|s| s.tokens))?;
        let kept = &batch.seqs[..kept];
        let mut keep = Kept {
            rows: kept.last().map_or(0, |last| last.rows.end),
            layers: Vec::with_capacity(self.spec().layers.len()),
        };
        let rows = forward::run(self, &batch, x, self.all_layers(), hook, Some(&mut keep))?;
        let new = |i: usize, layers| New {
            tokens: batch.seqs[i].rows.len(),
            rope: batch.variants[i],
            model: self.id(),
            layers,
        };
        if let [_] = kept {
            return Ok((rows, vec![new(0, keep.layers)]));
        }
        let of_seq = |(i, seq): (usize, &SeqRange)| {
            let own = |of: &Array2<f32>| {
                let rows = Slice::from(seq.rows.clone());
                of.slice_axis(Axis(0), rows).to_owned()
            };
            let layers = keep.layers.iter().map(|[k, v]| [own(k), own(v)]);
            new(i, layers.collect())
        };
        let new = kept.iter().enumerate().map(of_seq).collect();
        Ok((rows, new))
    }

    /// [`forward`](Self::forward), and prefixes that end with the first `kept` of the sequences, for sequences of later batches.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    ///
    /// # Panics
    /// When `kept` is more than there are sequences, or a [`Prefix::Seq`] not the index of an earlier one.
    pub fn extend_first(
        &self,
        seqs: &[Seq<'_>],
        kept: usize,
        hook: &mut dyn Hook,
    ) -> Result<(Array2<f32>, Vec<Kv>)> {
        let (rows, new) = self.run_keeping(seqs, kept, hook)?;
        let mut kvs: Vec<Kv> = Vec::with_capacity(kept);
        for (seq, new) in seqs.iter().zip(new) {
            let parent = match seq.prefix {
                Prefix::Nothing => None,
                Prefix::Known(kv) => Some(kv),
                Prefix::Seq(earlier) => Some(&kvs[earlier]),
            };
            kvs.push(Kv::new(parent, new));
        }
        Ok((rows, kvs))
    }

    /// Keys and values of tokens that several sequences will share.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn prefix(&self, parent: Option<&Kv>, tokens: &[u32], hook: &mut dyn Hook) -> Result<Kv> {
        let seq = Seq::from(tokens).after(parent).wanting_from(tokens.len());
        Ok(self.extend_first(&[seq], 1, hook)?.1.swap_remove(0))
    }
}
