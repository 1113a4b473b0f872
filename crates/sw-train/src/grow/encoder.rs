//! What a learner of prompts sees of a frozen encoder and its tasks.

use ndarray::{Array2, ArrayView2};

/// Which samples of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// To measure on.
    Test,
}

/// The first samples of a task's split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Samples {
    /// The task.
    pub task: usize,
    /// Its split.
    pub split: Split,
    /// How many; at most [`Encoder::count`].
    pub count: usize,
}

/// A frozen encoder, with tasks that come one after the other. A set of prompts is a matrix `[rows, dim]`.
pub trait Encoder: Sync {
    /// What [`forward`](Self::forward) keeps for [`backward`](Self::backward).
    type Tape;

    /// Tasks.
    fn tasks(&self) -> usize;

    /// Rows and channels of a set of prompts.
    fn prompt(&self) -> (usize, usize);

    /// Standard deviation of a fresh set of prompts.
    fn scale(&self) -> f64;

    /// Classes of all tasks together.
    fn classes(&self) -> usize;

    /// Channels of the trained head's rows, one row for each class; 0 where the head is frozen.
    fn head(&self) -> usize;

    /// The classes of a task, by number.
    fn classes_of(&self, task: usize) -> &[usize];

    /// Tasks of the same kind are served by the same prompts.
    fn kind(&self, task: usize) -> usize;

    /// Samples of a task's split.
    fn count(&self, task: usize, split: Split) -> usize;

    /// The class of each sample.
    fn labels(&self, samples: Samples) -> &[usize];

    /// The features that meet a prompt row, `[features, dim]`; every sample has as many as the others, one after the other.
    fn features(&self, samples: Samples) -> ArrayView2<'_, f64>;

    /// The features of the text that the encoder was trained on, `[features, dim]`.
    fn pretrained(&self) -> ArrayView2<'_, f64>;

    /// Logits of `classes`, `[samples, classes]`, with the head's rows of these classes, `[classes, head]`.
    fn forward(
        &self,
        samples: Samples,
        prompt: &Array2<f64>,
        head: &Array2<f64>,
        classes: &[usize],
    ) -> (Array2<f64>, Self::Tape);

    /// The gradients of prompt and head rows, given that of the logits.
    fn backward(
        &self,
        samples: Samples,
        prompt: &Array2<f64>,
        head: &Array2<f64>,
        classes: &[usize],
        tape: &Self::Tape,
        dlogits: &Array2<f64>,
    ) -> (Array2<f64>, Array2<f64>);
}
