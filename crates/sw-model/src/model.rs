//! A model: a spec, weights and a tokenizer, opened from a checkpoint directory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use sw_tensor::{Arithmetic, Checkpoint, Coding, Dtype, Mat, Order, Precision, files, machine};

use crate::{
    block::Scratch,
    config::MAX_FILE,
    edit::{EditOp, Linear, LinearAt, WeightCoord, WeightEdit},
    error::{Error, Result},
    fingerprint::Fingerprint,
    gguf::{self, GgufFile},
    layout,
    product::Weight,
    rope::RopeTables,
    spec::Spec,
    tokenizer::Tokenizer,
    weights::{Weights, no_such_tensor},
};

/// A language model on memory-mapped weights. Cheap to clone; edits share everything untouched.
#[derive(Clone)]
pub struct Model {
    id: u64,
    opened: Arc<Opened>,
    weights: Arc<Weights>,
    arithmetic: Arithmetic,
}

/// What an edited model shares with the one it came from.
pub(crate) struct Opened {
    pub(crate) dir: PathBuf,
    /// The file, where it is GGUF.
    pub(crate) gguf: Option<GgufFile>,
    pub(crate) spec: Spec,
    pub(crate) dtype: Dtype,
    pub(crate) coding: Coding,
    pub(crate) ropes: RopeTables,
    pub(crate) ignored: Vec<String>,
    pub(crate) unknown: Vec<String>,
    pub(crate) warnings: Vec<String>,
    /// Where generation ends, as far as config files say it.
    pub(crate) eos: Vec<u32>,
    /// The error is kept: a model without a tokenizer still runs on token ids.
    pub(crate) tokenizer: Result<Tokenizer, (PathBuf, String)>,
    /// What the last forward pass worked in, for the next.
    pub(crate) scratch: Mutex<Vec<Scratch>>,
    /// How often this process had waited for the disk when the last forward pass began.
    pub(crate) waited: AtomicU64,
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Model {
    pub(crate) fn new(opened: Opened, weights: Weights) -> Self {
        Self {
            id: next_id(),
            opened: Arc::new(opened),
            weights: Arc::new(weights),
            arithmetic: Arithmetic::default(),
        }
    }

    /// What distinguishes this model from others.
    pub fn spec(&self) -> &Spec {
        &self.opened.spec
    }

    /// The directory it was opened from; of a GGUF file, the one that holds it.
    pub fn dir(&self) -> &Path {
        &self.opened.dir
    }

    /// What it was opened from: its directory, or its GGUF file.
    pub fn source(&self) -> &Path {
        self.gguf().map_or(self.dir(), |gguf| &gguf.file)
    }

    /// The GGUF file it was opened from; `None` where that was a directory in Hugging Face layout.
    pub fn gguf(&self) -> Option<&GgufFile> {
        self.opened.gguf.as_ref()
    }

    /// The stored tensors under the names of a checkpoint in Hugging Face layout.
    ///
    /// # Errors
    /// When the files have changed since the model was opened.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        match self.gguf() {
            Some(gguf) => gguf::checkpoint(&gguf.file),
            None => {
                let mut checkpoint = Checkpoint::open(self.dir())?;
                layout::publish(self.spec(), &mut checkpoint)?;
                Ok(checkpoint)
            }
        }
    }

    /// The content of a file of the checkpoint, such as `config.json`: what lies in its directory, or what the metadata of
    /// its GGUF file say; `None` where there is no such file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if let Some(gguf) = self.gguf() {
            return gguf::beside(&gguf.file, name);
        }
        let path = self.dir().join(name);
        match files::is_there(&path) {
            Ok(true) => files::read_inside(&path, MAX_FILE).map(Some),
            Ok(false) => Ok(None),
            Err(e) => Err(e),
        }
        .map_err(|e| Error::io(&path, e))
    }

    /// Config fields that it was told to pass over.
    pub fn ignored_config_fields(&self) -> &[String] {
        &self.opened.ignored
    }

    /// Config fields, or metadata keys of a GGUF file, that were passed over because no model is known to read them.
    pub fn unknown_config_fields(&self) -> &[String] {
        &self.opened.unknown
    }

    /// What was noticed while opening that does not stop the model from running: one line each, for a person.
    pub fn warnings(&self) -> &[String] {
        &self.opened.warnings
    }

    /// The type its large weights are stored in (of the first layer's attention output, where they differ).
    pub fn dtype(&self) -> Dtype {
        self.opened.dtype
    }

    /// How its large weights are coded where they lie; of a GGUF file, the type of most of them.
    pub fn coding(&self) -> Coding {
        self.opened.coding
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing or broken.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        let (path, problem) = match &self.opened.tokenizer {
            Ok(tokenizer) => return Ok(tokenizer),
            Err(error) => error.clone(),
        };
        Err(Error::Tokenizer { path, problem })
    }

    /// The tokens at which generation ends: all that `config.json` and `generation_config.json` name, else the tokenizer's.
    pub fn eos_tokens(&self) -> Vec<u32> {
        match &self.opened.eos[..] {
            [] => self
                .tokenizer()
                .ok()
                .and_then(Tokenizer::eos)
                .into_iter()
                .collect(),
            named => named.to_vec(),
        }
    }

    /// A digest of config, tokenizer, tensor headers, file sizes and sampled blocks.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        match self.gguf() {
            Some(gguf) => Fingerprint::of_gguf(&gguf.file),
            None => Fingerprint::of(self.dir()),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(crate) fn ropes(&self) -> &RopeTables {
        &self.opened.ropes
    }

    /// Memory for a forward pass: an earlier one's that no other thread has.
    pub(crate) fn take_scratch(&self) -> Scratch {
        let kept = self.opened.scratch.lock();
        let spare = kept.unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_default()
    }

    /// Whether a pass that begins should ask for weights before they are read: whether any came from a disk since the pass
    /// before began. Where all are in memory, asking for them would take a tenth of the time in which one token is decoded.
    pub(crate) fn reads_ahead(&self) -> bool {
        let waited = machine::major_faults();
        waited.is_none_or(|n| self.opened.waited.swap(n, Ordering::Relaxed) != n)
    }

    pub(crate) fn keep_scratch(&self, scratch: Scratch) {
        let kept = self.opened.scratch.lock();
        kept.unwrap_or_else(PoisonError::into_inner).push(scratch);
    }

    pub(crate) fn non_finite(&self, site: String, last_layer: Option<usize>) -> Error {
        let culprit = match self.weights.non_finite(self.spec(), last_layer) {
            Some(tensor) => tensor,
            None => "every weight up to there is finite: the activations overflowed".into(),
        };
        Error::NonFinite { site, culprit }
    }

    /// The weight of a linear map outside experts, `[output channels, input channels]`, edits included.
    pub fn weight(&self, layer: usize, linear: Linear) -> Option<&Mat> {
        self.weight_at(LinearAt::dense(layer, linear))
    }

    /// The weight of a linear map, `[output channels, input channels]`, edits included; where a [`Product`] stands in its
    /// place, the matrix that this stands for.
    ///
    /// [`Product`]: crate::Product
    pub fn weight_at(&self, at: LinearAt) -> Option<&Mat> {
        let layer = self.weights.layers.get(at.layer)?;
        Some(layer.linear(at.expert, at.linear)?.w.mat())
    }

    /// All linear maps of the layers, in the order of the computation (embedding, router and head are not among them).
    pub fn linears(&self) -> impl Iterator<Item = LinearAt> + '_ {
        self.spec().linears()
    }

    /// How many numbers its weights are: linear maps with their biases, router, norms, embedding, positions, and a head of its
    /// own.
    pub fn parameters(&self) -> usize {
        self.weights.count(self.spec().tied)
    }

    /// The value at a coordinate.
    ///
    /// # Errors
    /// When the coordinate names no tensor of this model or lies outside it.
    pub fn value(&self, coord: WeightCoord) -> Result<f32> {
        let w = self
            .weight_at(coord.at())
            .ok_or_else(|| no_such_tensor(coord))?;
        if coord.row >= w.rows() || coord.col >= w.cols() {
            let problem = format!("outside the tensor's shape [{}, {}]", w.rows(), w.cols());
            return Err(Error::Coordinate {
                coord: coord.to_string(),
                problem,
            });
        }
        Ok(w.get(coord.row, coord.col))
    }

    /// A model with sparse edits; shares the checkpoint and everything untouched.
    ///
    /// # Errors
    /// When a coordinate names no tensor of this model, lies outside it, or belongs to a map whose product is not computed
    /// from a stored matrix.
    pub fn edited(&self, edits: &[WeightEdit]) -> Result<Model> {
        let mut weights = (*self.weights).clone();
        let mut sorted: Vec<_> = edits.iter().collect();
        sorted.sort_by_key(|e| e.coord.at()); // stable: edits of one scalar keep their order
        for group in sorted.chunk_by(|a, b| a.coord.at() == b.coord.at()) {
            let mut values = BTreeMap::new();
            for edit in group {
                let coord = edit.coord;
                let stored = self.value(coord)?;
                let value = values.entry((coord.row, coord.col)).or_insert(stored);
                *value = match edit.op {
                    EditOp::Set(x) => x,
                    EditOp::Scale(factor) => *value * factor,
                };
            }
            let values: Vec<_> = values.into_iter().map(|((r, c), x)| (r, c, x)).collect();
            let at = group[0].coord.at();
            let affine = Arc::make_mut(&mut weights.layers[at.layer])
                .linear_mut(at)
                .ok_or_else(|| no_such_tensor(at))?;
            let w = affine.w.stored().ok_or_else(|| Error::Coordinate {
                coord: at.to_string(),
                problem: "its product does not read stored numbers, so none can be edited; edit the model first and replace its products then".into(),
            })?;
            affine.w = w.edited(&values)?.into();
        }
        Ok(self.with_weights(weights))
    }

    /// This model, set up for detection and decoding: products add up their terms in [any order](sw_tensor::Order::Any), which is
    /// faster for up to 16 rows, so that the last bits of a row do depend on how many rows there are.
    pub fn for_few_tokens(&self) -> Model {
        let mut model = self.clone();
        model.arithmetic.order = Order::Any;
        model
    }

    /// This model, with linear maps (the router and the head among them) computed in another
    /// [precision](sw_tensor::Precision). Everything else stays f32: norms, rotary embeddings, attention, softmax, activations and
    /// the residual stream. A [`Product`](crate::Product) in a matrix's place keeps an arithmetic of its own. What another
    /// precision computed does not fit: a prefix is refused.
    pub fn with_precision(&self, precision: Precision) -> Model {
        let mut model = self.clone();
        if precision != self.precision() {
            model.arithmetic.precision = precision;
            model.id = next_id();
        }
        model
    }

    /// How exactly linear maps are computed.
    pub fn precision(&self) -> Precision {
        self.arithmetic.precision
    }

    /// How products are computed.
    pub(crate) fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// A model in which some linear maps have another weight: another matrix (rounded to few values, say) or a [`Product`];
    /// `replace` returns `None` to keep one.
    ///
    /// [`Product`]: crate::Product
    ///
    /// # Errors
    /// What `replace` returns, and a replacement of another shape.
    pub fn replaced<W: Into<Weight>, E: From<Error>>(
        &self,
        mut replace: impl FnMut(LinearAt, &Mat) -> Result<Option<W>, E>,
    ) -> Result<Model, E> {
        let mut weights = (*self.weights).clone();
        for at in self.linears() {
            let affine = Arc::make_mut(&mut weights.layers[at.layer])
                .linear_mut(at)
                .ok_or_else(|| no_such_tensor(at))?;
            let Some(new) = replace(at, affine.w.mat())? else {
                continue;
            };
            let (new, [rows, cols]) = (new.into(), affine.w.shape());
            let [new_rows, new_cols] = new.shape();
            if [new_rows, new_cols] != [rows, cols] {
                let problem = format!(
                    "a replacement of shape [{new_rows}, {new_cols}] for a weight of [{rows}, {cols}]"
                );
                return Err(Error::Coordinate {
                    coord: at.to_string(),
                    problem,
                }
                .into());
            }
            affine.w = new;
        }
        Ok(self.with_weights(weights))
    }

    /// The weights, to be changed: a copy of their list where a clone shares it. What was computed before is another model's.
    pub(crate) fn weights_mut(&mut self) -> &mut Weights {
        self.id = next_id();
        Arc::make_mut(&mut self.weights)
    }

    fn with_weights(&self, weights: Weights) -> Model {
        Model {
            id: next_id(),
            opened: self.opened.clone(),
            weights: Arc::new(weights),
            arithmetic: self.arithmetic,
        }
    }
}
