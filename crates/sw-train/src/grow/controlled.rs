//! Tasks of which it is known what they share: the encoder hands out tokens with keys and values, a prompt row reads them.

use ndarray::{Array2, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};

use super::{Encoder, Samples, Split};
use crate::draw::Draw;
use crate::error::{Error, Result};

/// Feature directions of a task; the first is its cue.
const DIRECTIONS: usize = 6;
/// Tokens of a sample; one of them carries the class.
const TOKENS: usize = 6;
/// Features of the text that the encoder was trained on.
const PRETRAINED: usize = 2000;
/// Sharpness of a prompt's reading.
const SHARPNESS: f64 = 4.0;

/// Which token carries the class: the one that the cue direction marks, or the one that its opposite marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cue {
    /// The marked one has a positive part along the cue direction, all others a negative one.
    Plus,
    /// The reverse: what serves a task with [`Cue::Plus`] misleads this one.
    Minus,
}

/// What a task shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Tasks of a group share directions.
    pub group: usize,
    /// The share of its six directions, cue first, that are its group's; the rest are its own.
    pub overlap: f64,
    /// Which token carries the class.
    pub cue: Cue,
}

impl TaskSpec {
    /// Tasks that share nothing.
    pub fn unlike(tasks: usize) -> Vec<Self> {
        let task = |group| Self {
            group,
            overlap: 0.0,
            cue: Cue::Plus,
        };
        (0..tasks).map(task).collect()
    }

    /// `groups` groups of `each` tasks that take turns; within a group tasks share `overlap`. With `opposite`, every second task of
    /// a group has the opposite cue.
    pub fn groups(groups: usize, each: usize, overlap: f64, opposite: bool) -> Vec<Self> {
        let task = |i: usize| Self {
            group: i % groups,
            overlap,
            cue: if opposite && (i / groups) % 2 == 1 {
                Cue::Minus
            } else {
                Cue::Plus
            },
        };
        (0..groups * each).map(task).collect()
    }

    /// Directions that are the group's.
    fn shared(&self) -> usize {
        (self.overlap * DIRECTIONS as f64).round() as usize
    }
}

/// Sizes of the controlled tasks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlledOptions {
    /// Channels of keys and values.
    pub dim: usize,
    /// Prompt rows of a set.
    pub rows: usize,
    /// Classes of a task.
    pub classes: usize,
    /// Samples that a task is learned from.
    pub train: usize,
    /// Samples that it is measured on.
    pub test: usize,
    /// Standard deviation of the noise in each channel of keys.
    pub noise: f64,
    /// Whether the directions of different groups, and a task's own ones, are orthogonal to all others, for as long as there are
    /// channels; without it they are random.
    pub orthogonal: bool,
    /// The variance of the pre-training's features along its n-th principal direction falls as n to the minus this.
    pub decay: f64,
}

impl Default for ControlledOptions {
    fn default() -> Self {
        Self {
            dim: 48,
            rows: 2,
            classes: 4,
            train: 80,
            test: 100,
            noise: 0.1,
            orthogonal: false,
            decay: 1.25,
        }
    }
}

/// Tokens with their keys and values, `[samples * TOKENS, dim]`.
struct Drawn {
    keys: Array2<f64>,
    values: Array2<f64>,
    labels: Vec<usize>,
}

/// Controlled tasks.
///
/// A sample is six tokens. A token's key is a random mixture of its task's feature directions, plus or minus the cue direction,
/// plus noise; its value is the vector of a class plus noise. The one token whose key has the cue of [`TaskSpec::cue`]
/// carries the sample's class, the values of the others are of classes of the same task at random. Row m of a prompt reads
/// `z_m = sum_j softmax_j(4 p_m . k_j / sqrt(dim)) v_j`; a linear head over all rows answers. Keys are what meets a prompt.
pub struct Controlled {
    options: ControlledOptions,
    specs: Vec<TaskSpec>,
    classes: Vec<Vec<usize>>,
    /// Per task: to learn from, to measure on.
    drawn: Vec<[Drawn; 2]>,
    pretrained: Array2<f64>,
}

/// Attention weights `[samples * TOKENS, rows]` and what was read `[samples, rows * dim]`.
pub struct ReadTape {
    weights: Array2<f64>,
    read: Array2<f64>,
}

impl Controlled {
    /// Draws tasks.
    ///
    /// # Errors
    /// [`Error::Shape`] where there are no tasks, a size is zero, there are fewer channels than a task has directions, or an
    /// overlap is no share.
    pub fn new(seed: u64, tasks: &[TaskSpec], options: &ControlledOptions) -> Result<Self> {
        let o = *options;
        let sizes = [tasks.len(), o.rows, o.classes, o.train, o.test];
        if sizes.contains(&0) || o.dim < DIRECTIONS {
            return Err(Error::Shape(format!(
                "controlled tasks: expected tasks, rows, classes and samples above 0 and at least {DIRECTIONS} channels, \
                 found {sizes:?} and {}",
                o.dim
            )));
        }
        if let Some(task) = tasks.iter().find(|t| !(0.0..=1.0).contains(&t.overlap)) {
            return Err(Error::Shape(format!(
                "overlap {}: expected 0 to 1",
                task.overlap
            )));
        }
        let mut draw = Draw::new(seed, 0);
        let groups = tasks.iter().map(|t| t.group + 1).max().unwrap_or(0);
        let mut taken = Array2::zeros((0, o.dim));
        let mut fresh = |count: usize, beside: &Array2<f64>| {
            let directions = orthonormal(&mut draw, count, beside, &taken);
            if o.orthogonal && taken.nrows() + count <= o.dim {
                taken.append(Axis(0), directions.view()).expect("one width");
            }
            directions
        };
        let none = Array2::zeros((0, o.dim));
        let shared: Vec<_> = (0..groups)
            .map(|group| {
                let members = tasks.iter().filter(|task| task.group == group);
                fresh(members.map(TaskSpec::shared).max().unwrap_or(0), &none)
            })
            .collect();
        let own: Vec<_> = tasks
            .iter()
            .map(|task| {
                let kept = shared[task.group].slice(s![..task.shared(), ..]).to_owned();
                let mut all = kept.clone();
                all.append(Axis(0), fresh(DIRECTIONS - kept.nrows(), &kept).view())
                    .expect("one width");
                all
            })
            .collect();
        let classes = (0..tasks.len()).map(|t| (t * o.classes..(t + 1) * o.classes).collect());
        let drawn = tasks
            .iter()
            .zip(&own)
            .enumerate()
            .map(|(t, (task, directions))| {
                let mut draw = Draw::new(seed, 2 + t as u64);
                let mut vectors = draw.normals((o.classes, o.dim), 1.0);
                vectors.rows_mut().into_iter().for_each(normalise);
                [o.train, o.test].map(|count| {
                    sample(
                        &mut draw,
                        count,
                        task.cue,
                        directions,
                        &vectors,
                        &o,
                        t * o.classes,
                    )
                })
            });
        Ok(Self {
            options: o,
            specs: tasks.to_vec(),
            classes: classes.collect(),
            drawn: drawn.collect(),
            pretrained: pretrained(&mut Draw::new(seed, 1), &o),
        })
    }

    fn drawn(&self, samples: Samples) -> (ArrayView2<'_, f64>, ArrayView2<'_, f64>) {
        let drawn = &self.drawn[samples.task][samples.split as usize];
        let tokens = s![..samples.count * TOKENS, ..];
        (drawn.keys.slice(tokens), drawn.values.slice(tokens))
    }

    fn sharpness(&self) -> f64 {
        SHARPNESS / (self.options.dim as f64).sqrt()
    }
}

/// `count` orthonormal directions, orthogonal to `beside`, and to `taken` while there is room for that.
fn orthonormal(
    draw: &mut Draw,
    count: usize,
    beside: &Array2<f64>,
    taken: &Array2<f64>,
) -> Array2<f64> {
    let dim = beside.ncols();
    let mut all = beside.clone();
    if taken.nrows() + count <= dim {
        // What is beside and taken stands there twice, which changes nothing.
        all.append(Axis(0), taken.view()).expect("one width");
    }
    let start = all.nrows();
    for _ in 0..count {
        let mut row = draw.normals((1, dim), 1.0).remove_axis(Axis(0));
        for _ in 0..2 {
            for other in all.rows() {
                let along = row.dot(&other);
                row.scaled_add(-along, &other);
            }
            normalise(row.view_mut());
        }
        all.push_row(row.view()).expect("one width");
    }
    all.slice(s![start.., ..]).to_owned()
}

fn normalise(mut row: ndarray::ArrayViewMut1<f64>) {
    let norm = row.dot(&row).sqrt();
    row /= norm;
}

fn sample(
    draw: &mut Draw,
    count: usize,
    cue: Cue,
    directions: &Array2<f64>,
    vectors: &Array2<f64>,
    o: &ControlledOptions,
    first: usize,
) -> Drawn {
    /// Noise in each channel of values.
    const BLUR: f64 = 0.1;
    let mut keys = draw.normals((count * TOKENS, o.dim), o.noise);
    let mut values = draw.normals((count * TOKENS, o.dim), BLUR);
    let mut labels = Vec::new();
    for i in 0..count {
        let (class, carrier) = (draw.below(o.classes), draw.below(TOKENS));
        labels.push(first + class);
        for j in 0..TOKENS {
            let t = i * TOKENS + j;
            let mark = if (j == carrier) == (cue == Cue::Plus) {
                1.0
            } else {
                -1.0
            };
            let mut key = keys.row_mut(t);
            key.scaled_add(mark, &directions.row(0));
            for direction in directions.rows().into_iter().skip(1) {
                key.scaled_add(draw.normal(), &direction);
            }
            let told = if j == carrier {
                class
            } else {
                draw.below(o.classes)
            };
            values.row_mut(t).scaled_add(1.0, &vectors.row(told));
        }
    }
    Drawn {
        keys,
        values,
        labels,
    }
}

/// Features whose variance falls along random orthonormal directions.
fn pretrained(draw: &mut Draw, o: &ControlledOptions) -> Array2<f64> {
    let none = Array2::zeros((0, o.dim));
    let axes = orthonormal(draw, o.dim, &none, &none);
    let mut rows = draw.normals((PRETRAINED, o.dim), 1.0);
    for (n, mut column) in rows.columns_mut().into_iter().enumerate() {
        column *= (n as f64 + 1.0).powf(-o.decay / 2.0);
    }
    rows.dot(&axes)
}

impl Encoder for Controlled {
    type Tape = ReadTape;

    fn tasks(&self) -> usize {
        self.specs.len()
    }

    fn prompt(&self) -> (usize, usize) {
        (self.options.rows, self.options.dim)
    }

    fn scale(&self) -> f64 {
        0.3
    }

    fn classes(&self) -> usize {
        self.specs.len() * self.options.classes
    }

    fn head(&self) -> usize {
        self.options.rows * self.options.dim
    }

    fn classes_of(&self, task: usize) -> &[usize] {
        &self.classes[task]
    }

    /// The group's cue direction, and the same sign of it.
    fn kind(&self, task: usize) -> usize {
        let spec = self.specs[task];
        let same = |other: &TaskSpec| {
            (other.group, other.cue) == (spec.group, spec.cue)
                && other.shared().min(spec.shared()) > 0
        };
        self.specs.iter().position(same).unwrap_or(task)
    }

    fn count(&self, _task: usize, split: Split) -> usize {
        match split {
            Split::Train => self.options.train,
            Split::Test => self.options.test,
        }
    }

    fn labels(&self, samples: Samples) -> &[usize] {
        &self.drawn[samples.task][samples.split as usize].labels[..samples.count]
    }

    fn features(&self, samples: Samples) -> ArrayView2<'_, f64> {
        self.drawn(samples).0
    }

    fn pretrained(&self) -> ArrayView2<'_, f64> {
        self.pretrained.view()
    }

    fn forward(
        &self,
        samples: Samples,
        prompt: &Array2<f64>,
        head: &Array2<f64>,
        _classes: &[usize],
    ) -> (Array2<f64>, ReadTape) {
        let (keys, values) = self.drawn(samples);
        let (rows, dim) = prompt.dim();
        let mut weights = keys.dot(&prompt.t()) * self.sharpness();
        let mut read = Array2::zeros((samples.count, rows * dim));
        for i in 0..samples.count {
            let tokens = i * TOKENS..(i + 1) * TOKENS;
            let mut z = read.row_mut(i);
            for m in 0..rows {
                let mut weights = weights.slice_mut(s![tokens.clone(), m]);
                let max = weights.fold(f64::NEG_INFINITY, |a, &b| a.max(b));
                weights.mapv_inplace(|v| (v - max).exp());
                let sum = weights.sum();
                weights /= sum;
                let mut z = z.slice_mut(s![m * dim..(m + 1) * dim]);
                for (&weight, t) in weights.iter().zip(tokens.clone()) {
                    z.scaled_add(weight, &values.row(t));
                }
            }
        }
        (read.dot(&head.t()), ReadTape { weights, read })
    }

    fn backward(
        &self,
        samples: Samples,
        prompt: &Array2<f64>,
        head: &Array2<f64>,
        _classes: &[usize],
        tape: &ReadTape,
        dlogits: &Array2<f64>,
    ) -> (Array2<f64>, Array2<f64>) {
        let (keys, values) = self.drawn(samples);
        let dread = dlogits.dot(head);
        let (rows, dim) = prompt.dim();
        let mut dscores = tape.weights.clone();
        for i in 0..samples.count {
            let tokens = i * TOKENS..(i + 1) * TOKENS;
            for m in 0..rows {
                let dz = dread.slice(s![i, m * dim..(m + 1) * dim]);
                let mut dscores = dscores.slice_mut(s![tokens.clone(), m]);
                // Through the softmax: dscore = w (dw - sum(w dw)).
                let mut dweights = [0.0; TOKENS];
                for (dweight, t) in dweights.iter_mut().zip(tokens.clone()) {
                    *dweight = values.row(t).dot(&dz);
                }
                let mean: f64 = dscores.iter().zip(dweights).map(|(w, dw)| w * dw).sum();
                for (score, dweight) in dscores.iter_mut().zip(dweights) {
                    *score *= dweight - mean;
                }
            }
        }
        let dprompt = dscores.t().dot(&keys) * self.sharpness();
        (dprompt, dlogits.t().dot(&tape.read))
    }
}
