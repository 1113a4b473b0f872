//! The passes that a model offers: whole sequences, some layers, and sequences after a prefix.

use std::ops::Range;

use ndarray::{Array2, Axis, Slice};

use crate::{
    error::Result,
    forward::{self, Batch, Seq},
    kv::{Kv, New},
    model::Model,
    site::{Hook, SeqRange},
};

impl Model {
    /// The rows after the final norm, one per token, sequences one after the other; `[tokens, hidden]`.
    ///
    /// A row's values do not depend on the other sequences, on where its sequence is cut into prefix and tokens, or on
    /// the number of threads: bit for bit.
    ///
    /// # Errors
    /// An empty sequence, a token id beyond the vocabulary, a prefix of another model, a non-finite activation (with
    /// the tensor that is to blame).
    pub fn forward(&self, seqs: &[Seq<'_>], hook: &mut dyn Hook) -> Result<Array2<f32>> {
        let batch = Batch::new(self, seqs.iter().map(|s| (s.tokens.len(), s.prefix)))?;
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
        let batch = Batch::new(self, lens.iter().map(|&n| (n, None)))?;
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
        let prefix = parent;
        let (rows, mut new) = self.run_keeping(&[Seq { tokens, prefix }], hook)?;
        Ok((rows, Kv::new(parent, new.swap_remove(0))))
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
        let seq = Seq {
            tokens,
            prefix: Some(prefix),
        };
        let (rows, mut new) = self.run_keeping(&[seq], hook)?;
        prefix.append(new.swap_remove(0));
        Ok(rows)
    }

    /// Runs sequences, and keeps the keys and values of each.
    fn run_keeping(
        &self,
        seqs: &[Seq<'_>],
        hook: &mut dyn Hook,
    ) -> Result<(Array2<f32>, Vec<New>)> {
        let batch = Batch::new(self, seqs.iter().map(|s| (s.tokens.len(), s.prefix)))?;
        let x = forward::embed(self, &batch, seqs.iter().map(|s| s.tokens))?;
        let mut layers = Vec::with_capacity(self.spec().layers.len());
        let rows = forward::run(self, &batch, x, self.all_layers(), hook, Some(&mut layers))?;
        let own = |of: &Array2<f32>, rows: &Range<usize>| {
            of.slice_axis(Axis(0), Slice::from(rows.clone())).to_owned()
        };
        let new = |i: usize, layers| New {
            tokens: batch.seqs[i].rows.len(),
            rope: batch.variants[i],
            model: self.id(),
            layers,
        };
        if seqs.len() == 1 {
            return Ok((rows, vec![new(0, layers)]));
        }
        let of_seq = |i: usize| {
            let SeqRange { rows, .. } = &batch.seqs[i];
            let layers = layers.iter().map(|[k, v]| [own(k, rows), own(v, rows)]);
            new(i, layers.collect())
        };
        Ok((rows, (0..seqs.len()).map(of_seq).collect()))
    }

    /// [`extend`](Self::extend) of several sequences in one pass: their rows, one sequence after the other, and the longer prefix of
    /// each, bit for bit.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn extend_each(
        &self,
        seqs: &[Seq<'_>],
        hook: &mut dyn Hook,
    ) -> Result<(Array2<f32>, Vec<Kv>)> {
        let (rows, new) = self.run_keeping(seqs, hook)?;
        let kv = |(seq, new): (&Seq<'_>, New)| Kv::new(seq.prefix, new);
        Ok((rows, seqs.iter().zip(new).map(kv).collect()))
    }

    /// Keys and values of tokens that several sequences will share.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn prefix(&self, parent: Option<&Kv>, tokens: &[u32], hook: &mut dyn Hook) -> Result<Kv> {
        Ok(self.extend(parent, tokens, hook)?.1)
    }
}
