//! Beyond the paper: what the super activation is good for, and what can stand in for the weight.

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use sw_detect::{
    Candidate, Effect, ProofOptions, SinkOptions, Sinks, proof_texts, prove_candidates, pruned,
    sinks,
};
use sw_eval::Metric;
use sw_intervene::{Constant, Intervention, SetWeight};
use sw_model::{Hook, Model, Seq, Site, SiteView, WeightCoord};

use super::Experiment;
use crate::{
    chart::{Axis, Chart, Mark, Panel, Point, Series, Tone, points},
    lab::{Lab, PERPLEXITIES, Scores},
    outcome::Outcome,
    paired::{self, Paired},
    table::{Table, fixed, p_value, plain, signed},
};

/// Show what the paper leaves open: the super activation as a constant, sign flip, repair by a row, sinks, emergence.
///
/// Example:
///   cargo xtask reproduce-beyond --model MODEL --data DATA --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Beyond {
    /// Calibration tokens that constants are averaged over and the row is fitted to
    #[arg(long, value_name = "N", default_value_t = 512)]
    fit_tokens: usize,
    /// Ridge of the fit, relative to the inputs' mean square
    #[arg(long, value_name = "X", default_value_t = 1e-3)]
    ridge: f64,
}

/// Documents of each task (windows of each text) on the embedded checkpoint.
const DOCUMENTS: usize = 300;
/// Tokens of one calibration text.
const TEXT: usize = 64;

/// One setting on the tasks.
#[derive(Serialize)]
struct Setting {
    name: &'static str,
    interventions: Vec<Intervention>,
    average: Option<f64>,
    perplexities: Vec<(&'static str, f64)>,
    /// Against the original.
    paired: Option<Paired>,
}

impl Experiment for Beyond {
    const NAME: &'static str = "beyond";

    fn run(&self, lab: &Lab) -> Result<Outcome> {
        ensure!(
            self.fit_tokens > 1,
            "--fit-tokens {}: expected at least 2",
            self.fit_tokens
        );
        ensure!(
            self.ridge > 0.0 && self.ridge.is_finite(),
            "--ridge {}: expected a number above 0",
            self.ridge
        );
        let mut outcome = Outcome::new("Beyond the paper. What can stand in for the weight");
        let candidates = lab.candidates()?;
        outcome.data("super_weights", lab.found()?.json())?;
        self.stand_ins(lab, &mut outcome)?;
        effects(lab, candidates.clone(), &mut outcome)?;
        attention(lab, &candidates, &mut outcome)?;
        emergence(lab, &mut outcome)?;
        Ok(outcome)
    }
}

impl Beyond {
    /// The weight at zero with something in its place, on tasks and texts.
    fn stand_ins(&self, lab: &Lab, outcome: &mut Outcome) -> Result<()> {
        let coords = lab.found()?.coords.clone();
        ensure!(
            coords.iter().all(|c| c.expert.is_none()),
            "the super weight is an expert's; constants and rows are fitted to dense layers only"
        );
        let calibration = lab.calibration_texts(self.fit_tokens.div_ceil(2), TEXT)?;
        let samples = Inputs::collect(&lab.model, &calibration.texts, &coords, self.fit_tokens)?;
        let (constants, steady) = samples.constants(&lab.model, &coords)?;
        let repair = self.repair(&lab.model, &samples, &coords)?;
        let prune = lab.prune()?;
        let flip = Intervention::ScaleWeights {
            coords: coords.clone(),
            factor: -1.0,
        };
        let restore = Intervention::RestoreSuperActivation {
            coords: coords.clone(),
        };
        let plans = [
            ("as it is", vec![]),
            ("at zero", vec![prune.clone()]),
            (
                "at zero, super activation restored",
                vec![prune.clone(), restore],
            ),
            (
                "at zero, its mean as a constant",
                vec![
                    prune,
                    Intervention::AddConstants {
                        constants: constants.clone(),
                    },
                ],
            ),
            ("sign flipped", vec![flip]),
            (
                "at zero, row fitted in its place",
                vec![Intervention::SetWeights {
                    weights: repair.weights.clone(),
                }],
            ),
        ];
        let tasks = lab.with_data(crate::lab::ACCURACIES.map(|t| t.0))?;
        let texts = lab.with_data(PERPLEXITIES.map(|t| t.0))?;
        let all = lab.columns(tasks.iter().chain(&texts).copied())?;
        let limit = lab.limit(DOCUMENTS);
        let mut settings = Vec::new();
        let mut original: Option<Scores> = None;
        for (name, interventions) in plans {
            let scores = lab.evaluate(name, &all, &interventions, limit)?;
            let value = |&t: &&'static str| Some((t, scores.value(t, Metric::Perplexity)?));
            let paired = match &original {
                Some(original) if !tasks.is_empty() => {
                    Some(paired::compare(original, &scores, &tasks)?)
                }
                _ => None,
            };
            settings.push(Setting {
                name,
                average: scores.average(tasks.iter().copied()),
                perplexities: texts.iter().filter_map(value).collect(),
                interventions,
                paired,
            });
            original.get_or_insert(scores);
        }
        outcome.finding = finding(&settings);
        let mut header = vec!["The super weight".to_owned()];
        header.extend(
            PERPLEXITIES
                .iter()
                .filter(|t| texts.contains(&t.0))
                .map(|t| format!("{} perplexity", t.1)),
        );
        header.extend(["Mean accuracy (%)", "Difference", "from", "to", "p"].map(String::from));
        let mut table = Table::new(header);
        for s in &settings {
            let mut row = vec![s.name.to_owned()];
            row.extend(
                PERPLEXITIES
                    .iter()
                    .filter(|t| texts.contains(&t.0))
                    .map(|t| fixed(s.perplexities.iter().find(|p| p.0 == t.0).map(|p| p.1), 2)),
            );
            let p = s.paired.as_ref();
            row.extend([
                fixed(s.average.map(|v| 100.0 * v), 2),
                signed(p.map(|p| 100.0 * p.difference), 2),
                signed(p.map(|p| 100.0 * p.interval[0]), 2),
                signed(p.map(|p| 100.0 * p.interval[1]), 2),
                p.map_or("-".into(), |p| p_value(p.mcnemar.p_value)),
            ]);
            table.push(row);
        }
        outcome.table("beyond", "Stand-ins", table, format!(
            "Perplexity, mean accuracy of {} tasks, its difference from the first row with the paired 95 % interval, McNemar's exact test. The constant is the weight's mean product at its spike, added at the same position of every sequence; the fitted row changes the other weights of the super weight's row (a change of rank one) by ridge regression to do its work. Both come from {}.",
            tasks.len(), calibration.source
        ));
        outcome.notes.push(format!(
            "Constants: {}. In {:.0} % of the calibration texts the spike stands at the constant's position.",
            constants.iter().map(|c| format!("{:.2} at position {}, channel {} of layer {}", c.value, c.position, c.channel, c.layer)).collect::<Vec<_>>().join("; "),
            100.0 * steady
        ));
        outcome.notes.push(format!(
            "The fitted change is {:.2} times as long as the row (cosine {:+.2} with it) and leaves {:.1} % of the weight's work undone on its calibration tokens.",
            repair.length, repair.cosine, 100.0 * repair.residual
        ));
        outcome.data("settings", &settings)?;
        outcome.data("repair", &repair)?;
        outcome.data("calibrated_on", calibration.source)?;
        Ok(())
    }

    /// The row without the super weights that does their work on the calibration inputs.
    fn repair(&self, model: &Model, samples: &Inputs, coords: &[WeightCoord]) -> Result<Repair> {
        let mut weights: Vec<SetWeight> = coords
            .iter()
            .map(|&coord| SetWeight { coord, value: 0.0 })
            .collect();
        let mut rows: Vec<(usize, usize)> = coords.iter().map(|c| (c.layer, c.row)).collect();
        rows.sort_unstable();
        rows.dedup();
        let [mut dot, mut base, mut change, mut left, mut wanted] = [0.0f64; 5];
        for (layer, row) in rows {
            let own: Vec<_> = coords
                .iter()
                .filter(|c| (c.layer, c.row) == (layer, row))
                .collect();
            let x = samples.of(layer).context("no inputs were collected")?;
            let others: Vec<usize> = (0..x.cols)
                .filter(|k| own.iter().all(|c| c.col != *k))
                .collect();
            let mut work = Vec::new();
            for t in 0..x.rows() {
                let mut sum = 0.0;
                for c in &own {
                    sum += f64::from(model.value(**c)?) * f64::from(x.at(t, c.col));
                }
                work.push(sum);
            }
            let inputs: Vec<Vec<f64>> = (0..x.rows())
                .map(|t| others.iter().map(|&k| f64::from(x.at(t, k))).collect())
                .collect();
            let delta = ridge(&inputs, &work, self.ridge)?;
            for (x, y) in inputs.iter().zip(&work) {
                let done: f64 = x.iter().zip(&delta).map(|(a, b)| a * b).sum();
                left += (y - done).powi(2);
                wanted += y * y;
            }
            for (&col, d) in others.iter().zip(&delta) {
                let coord = WeightCoord::down(layer, row, col);
                let old = f64::from(model.value(coord)?);
                (dot, base, change) = (dot + old * d, base + old * old, change + d * d);
                weights.push(SetWeight {
                    coord,
                    value: (old + d) as f32,
                });
            }
        }
        let lengths = (base.sqrt(), change.sqrt());
        Ok(Repair {
            weights,
            length: lengths.1 / lengths.0.max(f64::MIN_POSITIVE),
            cosine: dot / (lengths.0 * lengths.1).max(f64::MIN_POSITIVE),
            residual: (left / wanted.max(f64::MIN_POSITIVE)).sqrt(),
        })
    }
}

/// A row fitted in the place of a super weight.
#[derive(Serialize)]
struct Repair {
    #[serde(skip)]
    weights: Vec<SetWeight>,
    /// The change's length over the row's.
    length: f64,
    cosine: f64,
    /// Root of the share of the work's square that is left undone.
    residual: f64,
}

/// Inputs of the super weights' layers, and where each text's spike is.
struct Inputs {
    layers: Vec<(usize, Rows)>,
    /// Of each text and coordinate: position and product of the largest product.
    spikes: Vec<Vec<(usize, f32)>>,
    most: usize,
    coords: Vec<(WeightCoord, f32)>,
}

struct Rows {
    values: Vec<f32>,
    cols: usize,
}

impl Rows {
    fn rows(&self) -> usize {
        self.values.len() / self.cols
    }

    fn at(&self, row: usize, col: usize) -> f32 {
        self.values[row * self.cols + col]
    }
}

impl Inputs {
    fn collect(
        model: &Model,
        texts: &[Vec<u32>],
        coords: &[WeightCoord],
        most: usize,
    ) -> Result<Self> {
        let valued = coords.iter().map(|&c| Ok((c, model.value(c)?)));
        let mut inputs = Self {
            layers: Vec::new(),
            spikes: vec![Vec::new(); coords.len()],
            most,
            coords: valued.collect::<Result<_>>()?,
        };
        for text in texts {
            model.forward(&[Seq::from(&text[..])], &mut inputs)?;
        }
        Ok(inputs)
    }

    fn of(&self, layer: usize) -> Option<&Rows> {
        self.layers.iter().find(|l| l.0 == layer).map(|l| &l.1)
    }

    /// Of each coordinate the mean product at its most frequent position, and how often the spike is there.
    fn constants(&self, model: &Model, coords: &[WeightCoord]) -> Result<(Vec<Constant>, f64)> {
        let mut constants: Vec<Constant> = Vec::new();
        let (mut there, mut all) = (0, 0);
        for (coord, spikes) in coords.iter().zip(&self.spikes) {
            model.value(*coord)?;
            let count = |p: usize| spikes.iter().filter(|s| s.0 == p).count();
            let position = spikes
                .iter()
                .map(|s| s.0)
                .max_by_key(|&p| (count(p), usize::MAX - p));
            let position = position.context("no calibration text")?;
            let at: Vec<f64> = spikes
                .iter()
                .filter(|s| s.0 == position)
                .map(|s| f64::from(s.1))
                .collect();
            (there, all) = (there + at.len(), all + spikes.len());
            let value = (at.iter().sum::<f64>() / at.len() as f64) as f32;
            let same = |c: &&mut Constant| {
                (c.layer, c.position, c.channel) == (coord.layer, position, coord.row)
            };
            match constants.iter_mut().find(same) {
                Some(constant) => constant.value += value,
                None => constants.push(Constant {
                    layer: coord.layer,
                    position,
                    channel: coord.row,
                    value,
                }),
            }
        }
        Ok((constants, there as f64 / f64::max(all as f64, 1.0)))
    }
}

impl Hook for Inputs {
    fn wants(&self, site: Site) -> bool {
        matches!(site, Site::DownIn(l) if self.coords.iter().any(|c| c.0.layer == l))
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        let Site::DownIn(layer) = site else { return };
        for (i, (coord, value)) in self
            .coords
            .iter()
            .enumerate()
            .filter(|(_, c)| c.0.layer == layer)
        {
            let products = view
                .data
                .column(coord.col)
                .into_iter()
                .map(|x| x * value)
                .enumerate();
            let largest = products.reduce(|a, b| if b.1.abs() > a.1.abs() { b } else { a });
            self.spikes[i].extend(largest);
        }
        let cols = view.data.ncols();
        if self.layers.iter().all(|l| l.0 != layer) {
            self.layers.push((
                layer,
                Rows {
                    values: Vec::new(),
                    cols,
                },
            ));
        }
        if let Some((_, rows)) = self.layers.iter_mut().find(|l| l.0 == layer) {
            for row in view.data.rows() {
                if rows.values.len() < self.most * cols {
                    rows.values.extend(row);
                }
            }
        }
    }
}

/// `d` with the least `|X d - y|^2 + l |d|^2`, `l` relative to the mean square of the rows, by the dual system
/// `d = X^T (X X^T + l)^-1 y`.
fn ridge(x: &[Vec<f64>], y: &[f64], relative: f64) -> Result<Vec<f64>> {
    let n = x.len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut gram = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in 0..=i {
            gram[i][j] = dot(&x[i], &x[j]);
        }
    }
    let mean = (0..n).map(|i| gram[i][i]).sum::<f64>() / n.max(1) as f64;
    for (i, row) in gram.iter_mut().enumerate() {
        row[i] += relative * mean;
    }
    // Cholesky's factor in place, then forward and backward substitution.
    for i in 0..n {
        for j in 0..=i {
            let sum = gram[i][j] - dot(&gram[i][..j], &gram[j][..j]);
            gram[i][j] = if i == j {
                ensure!(
                    sum > 0.0,
                    "the inputs are all zero; there is nothing to fit a row to"
                );
                sum.sqrt()
            } else {
                sum / gram[j][j]
            };
        }
    }
    let mut a = y.to_vec();
    for i in 0..n {
        a[i] = (a[i] - dot(&gram[i][..i], &a[..i])) / gram[i][i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| gram[k][i] * a[k]).sum();
        a[i] = (a[i] - sum) / gram[i][i];
    }
    let columns = x.first().map_or(0, Vec::len);
    let mut d = vec![0.0; columns];
    for (row, a) in x.iter().zip(&a) {
        d.iter_mut().zip(row).for_each(|(d, x)| *d += a * x);
    }
    Ok(d)
}

fn finding(settings: &[Setting]) -> String {
    let get = |name: &str| settings.iter().find(|s| s.name == name);
    let show = |s: &Setting| {
        let ppl = s
            .perplexities
            .iter()
            .find(|p| p.0 == "wikitext2")
            .or(s.perplexities.first());
        match (ppl, s.average) {
            (Some((task, ppl)), _) => {
                let heading = PERPLEXITIES
                    .iter()
                    .find(|t| t.0 == *task)
                    .map_or(*task, |t| t.1);
                format!("{} on {heading}", plain(*ppl))
            }
            (None, Some(average)) => format!("{:.2} % mean accuracy", 100.0 * average),
            _ => "nothing to measure".into(),
        }
    };
    let names = [
        ("as it is", "as it is"),
        ("at zero", "at zero"),
        (
            "at zero, its mean as a constant",
            "with its mean as a constant",
        ),
        ("sign flipped", "with its sign flipped"),
        (
            "at zero, row fitted in its place",
            "with a fitted row in its place",
        ),
    ];
    let parts: Vec<_> = names
        .iter()
        .filter_map(|(name, words)| Some(format!("{words} {}", show(get(name)?))))
        .collect();
    format!("Perplexity with the super weight {}.", parts.join("; "))
}

/// What the candidate does to short texts, in nats, beside controls.
fn effects(lab: &Lab, mut candidates: Vec<Candidate>, outcome: &mut Outcome) -> Result<()> {
    let texts = proof_texts(&lab.model)?;
    let proof = prove_candidates(
        &lab.model,
        &mut candidates,
        &texts,
        &ProofOptions::default(),
    )?;
    let (Some(proof), Some(c)) = (proof, candidates.first()) else {
        return Ok(());
    };
    let Some(e) = &c.effects else { return Ok(()) };
    let mut rows: Vec<(String, &Effect, Tone)> = vec![
        ("zero".into(), &e.zero, Tone::Super),
        ("zero, mean put back".into(), &e.mean, Tone::Super),
        ("sign flipped".into(), &e.flip, Tone::Super),
        ("its row at zero".into(), &e.row, Tone::Super),
        ("its neuron at zero".into(), &e.neuron, Tone::Super),
    ];
    for (name, control) in [
        ("largest other of the matrix", &e.largest),
        ("largest other of the row", &e.same_row),
        ("largest other of the column", &e.same_col),
    ] {
        rows.extend(
            control
                .as_ref()
                .map(|c| (name.to_owned(), &c.effect, Tone::Other)),
        );
    }
    rows.extend(e.random.iter().enumerate().map(|(i, c)| {
        (
            format!("random {}, same size", i + 1),
            &c.effect,
            Tone::Other,
        )
    }));
    let series = |name, tone| {
        let those = rows.iter().enumerate().filter(|(_, r)| r.2 == tone);
        let point = |(i, r): (usize, &(String, &Effect, Tone))| Point {
            x: r.1.nll,
            y: i as f64,
            interval: Some([r.1.low, r.1.high]),
        };
        Series::new(name, Mark::Dots, tone, those.map(point).collect())
    };
    let chart = Panel::Chart(Chart {
        title: format!("{}[{}, {}]", c.tensor, c.row, c.col),
        x: Axis::linear("added negative log-likelihood (nats per token)"),
        y: Axis::bands("", rows.iter().map(|r| r.0.clone())),
        series: vec![
            series("the super weight", Tone::Super),
            series("controls at zero", Tone::Other),
        ],
        guides: vec![],
    });
    outcome.figure("beyond-effects", "Zero, mean, sign, row, neuron, and controls", vec![chart], format!(
        "Change of the negative log-likelihood on eight short texts ({} tokens), with its 95 % interval over tokens; as it is {:.2} nats.",
        proof.scored, proof.nll
    ));
    outcome.data("proof", &proof)?;
    outcome.data("effects", &candidates)?;
    Ok(())
}

/// Attention sinks as it is and with the super weights at zero, at the token of the first one's spike.
pub(super) fn both_sinks(lab: &Lab, candidates: &[Candidate]) -> Result<[Sinks; 2]> {
    let texts = proof_texts(&lab.model)?;
    let shortest = texts.iter().map(Vec::len).min().unwrap_or(1);
    let mut options = SinkOptions::default();
    options.token = candidates[0].token.min(shortest.saturating_sub(1));
    let without = pruned(&lab.model, candidates)?;
    Ok([
        sinks(&lab.model, &texts, &options)?,
        sinks(&without, &texts, &options)?,
    ])
}

/// The mean importance of the token over the heads of each layer.
pub(super) fn sink_chart([before, after]: &[Sinks; 2]) -> Panel {
    let layers = |s: &Sinks| s.heads.iter().map(|h| h.layer + 1).max().unwrap_or(0);
    let by_layer = |s: &Sinks| {
        let mean = |layer| {
            let here = s.heads.iter().filter(|h| h.layer == layer);
            let heads: Vec<f64> = here.map(|h| h.importance).collect();
            let sum: f64 = heads.iter().sum();
            (layer as f64, sum / heads.len().max(1) as f64)
        };
        points((0..layers(s)).map(mean))
    };
    Panel::Chart(Chart {
        title: format!("Attention paid to token {}", before.options.token),
        x: Axis::bands("layer", (0..layers(before)).map(|l| l.to_string())),
        y: Axis::linear("mean share of attention, over heads"),
        series: vec![
            Series::new("as it is", Mark::Line, Tone::Original, by_layer(before)),
            Series::new(
                "super weight at zero",
                Mark::Line,
                Tone::Super,
                by_layer(after),
            ),
        ],
        guides: vec![],
    })
}

/// Attention sinks before and after.
fn attention(lab: &Lab, candidates: &[Candidate], outcome: &mut Outcome) -> Result<()> {
    let both = both_sinks(lab, candidates)?;
    let [before, after] = &both;
    let caption = format!(
        "Eight short texts. Heads that pay token {} more than {} of their attention: {:.0} % as it is, {:.0} % with the super weight at zero. The paper says that sinks persist; later work disputes it.",
        before.options.token,
        before.options.epsilon,
        100.0 * before.share,
        100.0 * after.share
    );
    let panels = vec![sink_chart(&both)];
    outcome.figure(
        "beyond-sinks",
        "Attention sinks before and after",
        panels,
        caption,
    );
    outcome.data("sinks", both)
}

/// How the super weight came to be, where that was recorded beside the checkpoint.
fn emergence(lab: &Lab, outcome: &mut Outcome) -> Result<()> {
    let path = lab.model.dir().join("emergence.csv");
    if !path.is_file() {
        outcome.notes.push("Emergence: no emergence.csv beside this checkpoint, so how its super weight came to be is not shown.".into());
        return Ok(());
    }
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    let column = |name: &str| -> Result<Vec<f64>> {
        let i = header
            .iter()
            .position(|h| *h == name)
            .with_context(|| format!("{}: no column {name}", path.display()))?;
        rows.iter()
            .map(|row| {
                row.get(i)
                    .and_then(|v| v.parse().ok())
                    .with_context(|| format!("{}: column {name} is not numeric", path.display()))
            })
            .collect()
    };
    let steps = column("step")?;
    let line = |name: &str, tone, values: Vec<f64>| {
        Series::new(
            name,
            Mark::Line,
            tone,
            points(steps.iter().copied().zip(values)),
        )
    };
    let chart = |title: &str, y: Axis, series| {
        Panel::Chart(Chart {
            title: title.into(),
            x: Axis::linear("training step"),
            y,
            series,
            guides: vec![],
        })
    };
    let (nll, without) = (column("nll")?, column("nll_pruned")?);
    let mut panels = vec![chart(
        "Loss with and without the candidate",
        Axis::linear("nats per token, held-out text"),
        vec![
            line("as it is", Tone::Original, nll.clone()),
            line("candidate at zero", Tone::Super, without.clone()),
            line(
                "100 largest others at zero",
                Tone::Other,
                column("nll_100_others")?,
            ),
        ],
    )];
    panels.push(chart(
        "The spike",
        Axis::log("largest output over the median (logarithmic)"),
        vec![line("", Tone::Super, column("spike_ratio")?)],
    ));
    let tones = [
        Tone::Original,
        Tone::Super,
        Tone::Other,
        Tone::Third,
        Tone::Fourth,
        Tone::Fifth,
    ];
    let sinks = header
        .iter()
        .filter_map(|h| Some((*h, h.strip_prefix("sink_")?)));
    let sinks = sinks.enumerate().map(|(i, (name, layer))| {
        Ok(line(
            &format!("layer {layer}"),
            tones[i % tones.len()],
            column(name)?,
        ))
    });
    panels.push(chart(
        "Attention sinks",
        Axis::linear("share of attention, by layer"),
        sinks.collect::<Result<_>>()?,
    ));
    outcome.figure("beyond-emergence", "Emergence during training", panels, format!(
        "From emergence.csv beside the checkpoint: {} measurements. The candidate is the down_proj entry behind the output spike that stands out most at that step.",
        steps.len()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ridge_without_weight_interpolates() {
        let x = [vec![1.0, 2.0, 0.5], vec![-1.0, 0.5, 3.0]];
        let y = [3.0, -2.0];
        let d = ridge(&x, &y, 1e-12).unwrap();
        for (x, y) in x.iter().zip(y) {
            let done: f64 = x.iter().zip(&d).map(|(a, b)| a * b).sum();
            assert!((done - y).abs() < 1e-6, "{done} {y}");
        }
        let shrunk = ridge(&x, &y, 100.0).unwrap();
        let length = |d: &[f64]| d.iter().map(|v| v * v).sum::<f64>();
        assert!(length(&shrunk) < length(&d));
        assert!(ridge(&[vec![0.0]], &[1.0], 1e-3).is_err());
    }
}
