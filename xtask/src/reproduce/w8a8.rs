//! Tables 3, 4 and 7: 8-bit weights and activations. Three views of one list of settings.

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use sw_eval::{ActivationSite, Arithmetic, Intervention, Metric};
use sw_quant::{Activation, Fill, Grouping, Levels, Pick, Scheme};

use super::Experiment;
use crate::{
    calibrate::{Calibration, Searched},
    chart::{Axis, Chart, Mark, Panel, Series, Tone, points},
    lab::{Lab, PERPLEXITIES, Scores},
    outcome::Outcome,
    published,
    table::{Table, fixed, signed},
};

/// Show perplexity under W8A8: as stored, naive, SmoothQuant at the paper's alpha and at the searched one, ours (Table 3).
///
/// Example:
///   cargo xtask reproduce-table3 --model MODEL --data DATA --calib calibration.jsonl --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Table3 {
    /// SmoothQuant's alpha in the paper
    #[arg(long, value_name = "X", default_value_t = 0.85)]
    alpha: f32,
    /// Calibration rows that SmoothQuant reads
    #[arg(long, value_name = "N", default_value_t = 512)]
    samples: usize,
    /// Calibration tokens that alpha is searched on
    #[arg(long, value_name = "N", default_value_t = 256)]
    search_tokens: usize,
}

/// Show perplexity under W8A8 in all the readings that the paper leaves open (Table 4, its models without SmoothQuant).
///
/// Example:
///   cargo xtask reproduce-table4 --model MODEL --data DATA --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Table4 {}

/// Show perplexity under W8A8 in three rows: as stored, naive, ours (Table 7, Llama-2-7B in the paper).
///
/// Example:
///   cargo xtask reproduce-table7 --model MODEL --data DATA --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Table7 {}

/// Windows of each text on the embedded checkpoint.
const WINDOWS: usize = 150;
/// Tokens of a calibration row, as in SmoothQuant's repository.
const TOKENS: usize = 512;

/// One row.
#[derive(Serialize)]
struct Setting {
    /// `fp16`, `naive`, `smoothquant`, `ours` are the paper's rows.
    name: &'static str,
    label: String,
    interventions: Vec<Intervention>,
    perplexities: Perplexities,
    /// The same quantization computed in integers, where there is one.
    integer: Option<Integer>,
}

/// Perplexity of each text.
type Perplexities = Vec<(&'static str, f64)>;

/// A setting as integer arithmetic.
#[derive(Serialize)]
struct Integer {
    interventions: Vec<Intervention>,
    perplexities: Perplexities,
    /// Why integers cannot say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// The same plan with products of integers.
fn in_integers(plan: &[Intervention]) -> Vec<Intervention> {
    let mut plan = plan.to_vec();
    for intervention in &mut plan {
        if let Intervention::QuantizeWeights { arithmetic, .. }
        | Intervention::QuantizeActivations { arithmetic, .. } = intervention
        {
            *arithmetic = Arithmetic::Integer;
        }
    }
    plan
}

/// How activations are quantized beside the weights, which are symmetric with one scale for each matrix.
#[derive(Clone)]
struct Reading {
    act: Activation,
    sites: Vec<ActivationSite>,
    /// Whether the super weight itself keeps its value.
    hold: bool,
}

impl Reading {
    /// SmoothQuant's simulation: symmetric, for each token, everywhere.
    fn naive() -> Self {
        Self {
            act: Activation::naive(8),
            sites: ActivationSite::linear_inputs_and_bmm(),
            hold: false,
        }
    }

    /// Eq. 1 on top: the largest element of each tensor is replaced by its token's median, and put back.
    fn ours() -> Self {
        let mut ours = Self::naive();
        ours.act.pick = Pick::Largest;
        ours
    }

    fn interventions(&self, lab: &Lab) -> Result<Vec<Intervention>> {
        let hold = if self.hold {
            lab.found()?.coords.clone()
        } else {
            vec![]
        };
        Ok(vec![
            Intervention::QuantizeWeights {
                scheme: weights(),
                hold,
                arithmetic: Arithmetic::Simulated,
            },
            Intervention::QuantizeActivations {
                recipe: self.act.clone(),
                sites: self.sites.clone(),
                arithmetic: Arithmetic::Simulated,
            },
        ])
    }
}

fn weights() -> Scheme {
    Scheme::new(Levels::symmetric(8), Grouping::Tensor)
}

/// The rows of one table as they are evaluated.
struct Bench<'a> {
    lab: &'a Lab,
    tasks: Vec<&'static str>,
    settings: Vec<Setting>,
    scores: Option<Scores>,
}

impl<'a> Bench<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        let tasks = lab.perplexities()?;
        let mut bench = Self {
            lab,
            tasks,
            settings: vec![],
            scores: None,
        };
        let stored = format!("{}, as stored", lab.model.coding());
        bench.scores = Some(bench.add("fp16", stored, vec![])?);
        Ok(bench)
    }

    fn add(
        &mut self,
        name: &'static str,
        label: impl Into<String>,
        interventions: Vec<Intervention>,
    ) -> Result<Scores> {
        let label = label.into();
        let scores = self.evaluate(&label, &interventions)?;
        let integer = in_integers(&interventions);
        let integer = (integer != interventions)
            .then(|| self.integer(&label, integer))
            .transpose()?;
        self.settings.push(Setting {
            name,
            label,
            interventions,
            perplexities: self.perplexities(&scores),
            integer,
        });
        Ok(scores)
    }

    fn integer(&self, label: &str, interventions: Vec<Intervention>) -> Result<Integer> {
        let scores = self.evaluate(&format!("{label}, as integers"), &interventions);
        let (perplexities, refused) = match scores {
            Ok(scores) => (self.perplexities(&scores), None),
            Err(error) => match error.downcast::<sw_eval::Error>()? {
                sw_eval::Error::Intervention { problem, .. } => (vec![], Some(problem)),
                other => return Err(other.into()),
            },
        };
        Ok(Integer {
            interventions,
            perplexities,
            refused,
        })
    }

    fn evaluate(&self, label: &str, interventions: &[Intervention]) -> Result<Scores> {
        let limit = self.lab.limit(WINDOWS);
        self.lab.evaluate(label, &self.tasks, interventions, limit)
    }

    fn perplexities(&self, scores: &Scores) -> Perplexities {
        let value = |&task: &&'static str| Some((task, scores.value(task, Metric::Perplexity)?));
        self.tasks.iter().filter_map(value).collect()
    }

    fn reading(
        &mut self,
        name: &'static str,
        label: impl Into<String>,
        reading: &Reading,
    ) -> Result<()> {
        let interventions = reading.interventions(self.lab)?;
        self.add(name, label, interventions)?;
        Ok(())
    }

    fn value(&self, name: &str, task: &str) -> Option<f64> {
        let setting = self.settings.iter().find(|s| s.name == name)?;
        of(&setting.perplexities, task)
    }

    /// How much of naive's damage a setting takes back, in percent: `(naive - x) / (naive - best)`.
    fn recovered(&self, setting: &Setting, task: &str, best: &str) -> Option<f64> {
        let (naive, best) = (self.value("naive", task)?, self.value(best, task)?);
        let span = naive - best;
        let there = of(&setting.perplexities, task)?;
        (span > 0.0).then(|| 100.0 * (naive - there) / span)
    }

    /// The table; `best`: which row counts as all damage undone.
    fn table(&self, best: &str) -> Table {
        let headings: Vec<_> = PERPLEXITIES
            .iter()
            .rev()
            .filter(|t| self.tasks.contains(&t.0))
            .collect();
        let published = self.lab.known.as_deref().map_or(&[][..], published::w8a8);
        let mut header = vec!["Setting".to_owned()];
        for (_, heading) in &headings {
            header.extend([
                (*heading).to_owned(),
                format!("{heading}: change"),
                format!("{heading}: recovered (%)"),
                format!("{heading}, as integers"),
            ]);
            if !published.is_empty() {
                header.extend([
                    format!("{heading}, the paper"),
                    format!("{heading}: difference"),
                ]);
            }
        }
        let mut table = Table::new(header);
        for setting in &self.settings {
            let mut row = vec![setting.label.clone()];
            for (task, _) in &headings {
                let value = of(&setting.perplexities, task);
                let base = self.value("fp16", task);
                let change = value
                    .zip(base)
                    .map(|(v, b)| v - b)
                    .filter(|_| setting.name != "fp16");
                let recovered = self
                    .recovered(setting, task, best)
                    .filter(|_| !["fp16", "naive"].contains(&setting.name));
                row.extend([fixed(value, 3), signed(change, 3), fixed(recovered, 0)]);
                row.push(match &setting.integer {
                    Some(integer) if integer.refused.is_some() => "not available".into(),
                    Some(integer) => fixed(of(&integer.perplexities, task), 3),
                    None => String::new(),
                });
                if !published.is_empty() {
                    let column = usize::from(*task == "c4");
                    let paper = published
                        .iter()
                        .find(|p| p.name == setting.name)
                        .map(|p| p.values[column]);
                    row.push(fixed(paper, 2));
                    row.push(signed(value.zip(paper).map(|(v, p)| v - p), 2));
                }
            }
            table.push(row);
        }
        table
    }

    /// The change of perplexity of each setting.
    fn chart(&self) -> Panel {
        let shown: Vec<_> = self.settings.iter().filter(|s| s.name != "fp16").collect();
        let tones = [Tone::Super, Tone::Other];
        let series = PERPLEXITIES
            .iter()
            .rev()
            .zip(tones)
            .filter(|(t, _)| self.tasks.contains(&t.0));
        let series = series.map(|((task, heading), tone)| {
            let at = |(i, s): (usize, &&Setting)| {
                Some((
                    of(&s.perplexities, task)? - self.value("fp16", task)?,
                    i as f64,
                ))
            };
            Series::new(
                *heading,
                Mark::Bars,
                tone,
                points(shown.iter().enumerate().filter_map(at)),
            )
        });
        Panel::Chart(Chart {
            title: String::new(),
            x: Axis::linear("perplexity above that of the stored weights"),
            y: Axis::bands("", shown.iter().map(|s| s.label.clone())),
            series: series.collect(),
            guides: vec![],
        })
    }

    fn sentence(&self, names: &[(&'static str, &str)]) -> String {
        let task = if self.tasks.contains(&"wikitext2") {
            "wikitext2"
        } else {
            self.tasks[0]
        };
        let heading = PERPLEXITIES
            .iter()
            .find(|t| t.0 == task)
            .map_or(task, |t| t.1);
        let part = |(name, words): &(&'static str, &str)| {
            let setting = self.settings.iter().find(|s| s.name == *name)?;
            let simulated = of(&setting.perplexities, task)?;
            let integer = setting.integer.as_ref();
            let integer = integer.and_then(|i| of(&i.perplexities, task));
            let integer = integer.map_or_else(String::new, |p| format!(" (as integers {p:.3})"));
            Some(format!("{words} {simulated:.3}{integer}"))
        };
        let parts: Vec<_> = names.iter().filter_map(part).collect();
        format!("Perplexity on {heading}: {}.", parts.join(", "))
    }

    fn finish(self, outcome: &mut Outcome) -> Result<()> {
        if let Some(scores) = &self.scores {
            for task in scores.tasks() {
                outcome.notes.push(format!(
                    "{}: split {}, {} windows of {} tokens.",
                    task.task,
                    task.source.split,
                    task.samples.len(),
                    task.source.window.unwrap_or(0)
                ));
            }
            outcome.data("sources", scores.sources())?;
        }
        outcome.notes.push(INTEGER.into());
        let refused = self.settings.iter().filter_map(|s| {
            let problem = s.integer.as_ref()?.refused.as_ref()?;
            Some(format!(
                "Not available as integers: {}: {problem}.",
                s.label
            ))
        });
        outcome.notes.extend(refused);
        outcome.data("super_weights", self.lab.found()?.json())?;
        outcome.data("settings", &self.settings)
    }
}

fn of(perplexities: &Perplexities, task: &str) -> Option<f64> {
    perplexities.iter().find(|p| p.0 == task).map(|p| p.1)
}

const SIMULATED: &str = "Simulated, but for the columns as integers: values are rounded to the 8-bit grid and widened again before each product. Weights: symmetric, one scale for each matrix. Activations: symmetric, one scale for each token, at the inputs of all linear maps and of the attention's two products. Ours: in each of these tensors the element of largest magnitude is replaced by its token's median before the scale is taken, and put back (Eq. 1).";
const SHARES: &str = "A share is a quotient of small differences: where naive quantization costs next to nothing, it means next to nothing.";
const INTEGER: &str = "As integers: the linear maps multiply 8-bit integers with exact sums, scaled once; elements that are put back and held-out weights are added in floats. A map whose input is not quantized meets it in 16 bits. What the attention multiplies, and down_proj's output where it is quantized, stay simulated. The simulation rounds its weights once more, to the type they are stored in.";

impl Experiment for Table3 {
    const NAME: &'static str = "table3";

    fn run(&self, lab: &Lab) -> Result<Outcome> {
        ensure!(
            (0.0..=1.0).contains(&self.alpha),
            "--alpha {}: expected a number from 0 to 1",
            self.alpha
        );
        ensure!(
            self.samples > 0 && self.search_tokens > 0,
            "--samples, --search-tokens: expected at least 1"
        );
        let (file, source) = lab.calibration()?;
        let texts = lab.calibration_texts(self.search_tokens.div_ceil(2), TOKENS)?;
        let mut bench = Bench::new(lab)?;
        let naive = Reading::naive();
        bench.reading("naive", "naive W8A8", &naive)?;
        let calibration = Calibration::run(&lab.model, &texts.texts, self.search_tokens)?;
        let found: Searched = calibration.best_alpha(&lab.model, &naive.act, &weights())?;
        let smooth = |alpha| -> Result<Vec<Intervention>> {
            let mut plan = vec![Intervention::SmoothQuant {
                alpha,
                calibration: file.clone(),
                samples: self.samples,
                tokens: TOKENS,
            }];
            plan.extend(naive.interventions(lab)?);
            Ok(plan)
        };
        bench.add(
            "smoothquant",
            format!("SmoothQuant, alpha {}", self.alpha),
            smooth(self.alpha)?,
        )?;
        bench.add(
            "smoothquant_searched",
            format!("SmoothQuant, searched alpha {}", found.best),
            smooth(found.best)?,
        )?;
        bench.reading("ours", "ours", &Reading::ours())?;

        let mut outcome =
            Outcome::new("Table 3. 8-bit weights and activations, beside SmoothQuant");
        outcome.finding = bench.sentence(&[
            ("fp16", "as stored"),
            ("naive", "naive W8A8"),
            ("smoothquant", "SmoothQuant"),
            (
                "smoothquant_searched",
                "SmoothQuant with the searched alpha",
            ),
            ("ours", "ours"),
        ]);
        outcome.table("table3", "", bench.table("smoothquant"), format!(
            "Perplexity, its change against the stored weights, and the share of naive's damage that is taken back, (naive \u{2212} x) / (naive \u{2212} SmoothQuant), as the paper counts. {SIMULATED}"
        ));
        outcome.figure(
            "table3-change",
            "Perplexity above that of the stored weights",
            vec![bench.chart()],
            "Smaller is better.",
        );
        let curve = Panel::Chart(Chart {
            title: "Search over alpha".into(),
            x: Axis::linear("alpha"),
            y: Axis::linear("output error relative to no smoothing, summed over norms"),
            series: vec![Series::new(
                "",
                Mark::Line,
                Tone::Super,
                points(found.curve.iter().map(|c| (f64::from(c.0), c.1))),
            )],
            guides: vec![],
        });
        outcome.figure(
            "table3-alpha",
            "SmoothQuant's alpha",
            vec![curve],
            format!("Searched on {} tokens of {source}.", self.search_tokens),
        );
        outcome.notes.push(SHARES.into());
        outcome.notes.push(format!(
            "SmoothQuant is calibrated on {source}; no test text is among it."
        ));
        outcome.data("alpha_search", &found)?;
        outcome.data("calibrated_on", &source)?;
        bench.finish(&mut outcome)?;
        Ok(outcome)
    }
}

impl Experiment for Table4 {
    const NAME: &'static str = "table4";

    fn run(&self, lab: &Lab) -> Result<Outcome> {
        let mut bench = Bench::new(lab)?;
        let (naive, ours) = (Reading::naive(), Reading::ours());
        bench.reading("naive", "naive W8A8", &naive)?;
        bench.reading("ours", "ours", &ours)?;
        let with = |base: &Reading, change: &dyn Fn(&mut Reading)| {
            let mut reading = base.clone();
            change(&mut reading);
            reading
        };
        let rows: [(&'static str, &str, Reading); 13] = [
            (
                "option",
                "naive, asymmetric activations",
                with(&naive, &|r| r.act.scheme.levels = Levels::asymmetric(8)),
            ),
            (
                "option",
                "ours, asymmetric activations",
                with(&ours, &|r| r.act.scheme.levels = Levels::asymmetric(8)),
            ),
            (
                "option",
                "naive, one scale for each tensor",
                with(&naive, &|r| r.act.scheme.grouping = Grouping::Tensor),
            ),
            (
                "option",
                "ours, one scale for each tensor",
                with(&ours, &|r| r.act.scheme.grouping = Grouping::Tensor),
            ),
            (
                "option",
                "ours, every token's largest element",
                with(&ours, &|r| r.act.pick = Pick::RowLargest),
            ),
            (
                "option",
                "ours, the four largest elements",
                with(&ours, &|r| r.act.pick = Pick::TopK { k: 4 }),
            ),
            (
                "option",
                "ours, median of the tensor",
                with(&ours, &|r| r.act.fill = Fill::TensorMedian),
            ),
            (
                "option",
                "naive, without o_proj's input",
                with(&naive, &|r| r.sites.retain(|s| *s != ActivationSite::OIn)),
            ),
            (
                "option",
                "ours, without o_proj's input",
                with(&ours, &|r| r.sites.retain(|s| *s != ActivationSite::OIn)),
            ),
            (
                "option",
                "naive, without the attention's products",
                with(&naive, &|r| r.sites.retain(linear)),
            ),
            (
                "option",
                "ours, without the attention's products",
                with(&ours, &|r| r.sites.retain(linear)),
            ),
            (
                "option",
                "ours, at down_proj's output too",
                with(&ours, &|r| r.sites.push(ActivationSite::DownOut)),
            ),
            (
                "option",
                "ours, super weight held out too",
                with(&ours, &|r| r.hold = true),
            ),
        ];
        for (name, label, reading) in rows {
            bench.reading(name, label, &reading)?;
        }
        let mut outcome = Outcome::new("Table 4. 8-bit weights and activations, in every reading");
        outcome.finding = bench.sentence(&[
            ("fp16", "as stored"),
            ("naive", "naive W8A8"),
            ("ours", "ours"),
        ]);
        outcome.table("table4", "", bench.table("fp16"), format!(
            "Perplexity, its change against the stored weights, and the share of naive's damage that is taken back, (naive \u{2212} x) / (naive \u{2212} stored), as the paper counts. {SIMULATED}"
        ));
        outcome.figure(
            "table4-change",
            "Perplexity above that of the stored weights",
            vec![bench.chart()],
            "Smaller is better.",
        );
        outcome.notes.push("The paper does not say which element is replaced, over what the median goes, where, nor whether activations are symmetric: the rows are these readings. Its code for activations is not published.".into());
        outcome.notes.push(SHARES.into());
        bench.finish(&mut outcome)?;
        Ok(outcome)
    }
}

fn linear(site: &ActivationSite) -> bool {
    use ActivationSite::{AttnIn, DownIn, MlpIn, OIn};
    matches!(site, AttnIn | OIn | MlpIn | DownIn)
}

impl Experiment for Table7 {
    const NAME: &'static str = "table7";

    fn run(&self, lab: &Lab) -> Result<Outcome> {
        let mut bench = Bench::new(lab)?;
        bench.reading("naive", "naive W8A8", &Reading::naive())?;
        bench.reading("ours", "ours", &Reading::ours())?;
        let mut outcome = Outcome::new("Table 7. 8-bit weights and activations, in short");
        outcome.finding = bench.sentence(&[
            ("fp16", "as stored"),
            ("naive", "naive W8A8"),
            ("ours", "ours"),
        ]);
        outcome.table(
            "table7",
            "",
            bench.table("fp16"),
            format!("As Table 4; the paper has these rows for Llama-2-7B. {SIMULATED}"),
        );
        outcome.notes.push(SHARES.into());
        bench.finish(&mut outcome)?;
        Ok(outcome)
    }
}
