//! PR-MoE: experts in some layers or all, more of them in deep ones, beside an MLP or in its place, against dense models of equal size.

use anyhow::{Context, Result, ensure};
use clap::Args;
use rayon::prelude::*;
use serde::Serialize;
use sw_detect::{ExpertOptions, ExpertOutput, super_experts};
use sw_model::Model;

use super::{
    FACTS, LEN, SEQUENCES, STEPS, TEXTS, bar,
    bench::Bench,
    compare::{self, Difference, Expected, Found, difference, loss, of},
    cost::{self, Cost},
    facts::{self, Calibrated, Facts},
    folder, published,
    rows::{PR, ROWS, Row, named, weights},
    run::{Options, Recipe},
};
use crate::{
    lab::Lab,
    outcome::{Headline, Outcome},
    page::{
        chart::{Axis, Chart, Mark, Panel, Series, Tone, points},
        table::{Table, fixed, grouped},
    },
    reproduce::Experiment,
};

/// Train small mixtures of experts on a lore of many facts: pyramid and residual experts (DeepSpeed-MoE, arXiv 2201.05596) beside
/// plain ones and dense models of equal size.
///
/// Reads no model, whatever --model says. All models have four layers of 64 channels and read the same text in the same order.
/// Trainings that are finished in the output folder are not run again; what they made is kept in its folder `mixtures`, where every
/// command of sw opens it. --limit cuts what is asked of the models, not their training.
///
/// Examples:
///   cargo xtask reproduce-pr-moe --out out
///   cargo xtask reproduce-pr-moe --facts auto --seeds 1 --out out
///   sw eval out/mixtures/pr-1536-1 --tasks lambada_openai,wikitext --data out/mixtures/data-1536
#[derive(Args, Clone, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct PrMoe {
    /// How many times everything is trained: each with initial weights and a text of its own
    #[arg(long, value_name = "N", default_value_t = 3)]
    seeds: u64,
    /// Steps of a training
    #[arg(long, value_name = "N", default_value_t = STEPS)]
    steps: usize,
    /// Sequences of a step, each of 64 tokens, that are routed together
    #[arg(long, value_name = "N", default_value_t = SEQUENCES)]
    sequences: usize,
    /// Facts of the lore; auto: 1536, or twice, four times, ... as many, until the dense model of 128 neurons recalls at most 70 %
    #[arg(long, value_name = "N|auto", default_value_t = Facts::Number(FACTS))]
    facts: Facts,
    /// Some models only, by their names in the JSON
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    rows: Vec<String>,
}

/// What was measured.
pub(crate) struct Measured {
    found: Vec<Found>,
    calibrated: Vec<Calibrated>,
    facts: usize,
    vocab: usize,
    cost: Vec<Cost>,
    experts: Vec<ExpertOutput>,
}

/// What is compared: what it is about, and two models.
const PAIRS: [(&str, &str, &str); 10] = [
    ("deep against shallow experts", "moe-second", "moe-first"),
    ("deep experts against dense", "moe-second", "dense-128"),
    ("experts everywhere against dense", "moe-8", "dense-128"),
    ("residual experts against top-2", "residual", "top-2"),
    (
        "residual experts against dense of the same active size",
        "residual",
        "dense-256",
    ),
    ("PR against residual MoE-8", "pr", "residual"),
    ("PR against dense of the same whole size", "pr", "dense-896"),
    ("PR against its inversion", "pr", "pr-inverted"),
    (
        "pyramid against MoE-8, both without MLP",
        "pyramid",
        "moe-8",
    ),
    ("PR: copied against independent experts", "pr-copied", "pr"),
];

/// A kind of models in a figure, and which rows are of it.
type Kind = (&'static str, Tone, fn(&str) -> bool);

/// The models whose steps are timed.
const TIMED: [&str; 6] = ["dense-128", "dense-256", "moe-8", "top-2", "residual", "pr"];

impl PrMoe {
    pub(crate) fn with_seeds(self, seeds: u64) -> PrMoe {
        PrMoe { seeds, ..self }
    }

    fn chosen(&self) -> Result<Vec<&'static Row>> {
        if self.rows.is_empty() {
            return Ok(ROWS.iter().collect());
        }
        let one = |id: &String| {
            let ids: Vec<_> = ROWS.iter().map(|row| row.id).collect();
            named(id).with_context(|| {
                format!(
                    "--rows {id}: no such model; expected some of {}",
                    ids.join(", ")
                )
            })
        };
        self.rows.iter().map(one).collect()
    }
}

impl Experiment for PrMoe {
    const NAME: &'static str = "pr-moe";

    type Measured = Measured;

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        ensure!(
            self.seeds > 0 && self.steps > 0 && self.sequences > 0,
            "--seeds, --steps, --sequences: expected at least 1"
        );
        let chosen = self.chosen()?;
        let options = Options {
            steps: self.steps,
            sequences: self.sequences,
            texts: lab.inputs.limit.unwrap_or(TEXTS),
            questions: lab.inputs.limit.unwrap_or(usize::MAX),
        };
        let (bench, calibrated) = facts::bench(lab, self.facts, &options)?;
        let (folder, vocab) = (folder(lab), bench.text.vocab());
        let recipe = |row: &Row, seed| {
            Recipe::new(row.id.to_owned(), row.shape(vocab), seed, &options, &bench)
        };
        // The longest first, so that the last ones do not leave a core alone.
        let mut jobs: Vec<(&Row, u64)> = (1..=self.seeds)
            .flat_map(|seed| chosen.iter().map(move |&row| (row, seed)))
            .collect();
        jobs.sort_by_key(|(row, _)| std::cmp::Reverse(weights(&row.shape(vocab))[1]));
        let bar = bar(jobs.len(), Self::NAME);
        // Small models train best one per thread.
        let trained: Vec<_> = jobs
            .into_iter()
            .par_bridge()
            .map(|(row, seed)| {
                let recipe = recipe(row, seed);
                let keeps = seed == 1 || row.id == PR.id;
                let trained = recipe.run(&bench, &folder, None, keeps);
                bar.inc(1);
                let [all, active] = weights(&recipe.shape);
                let found = Found {
                    row: row.id,
                    seed,
                    weights: all,
                    active,
                    trained: trained.with_context(|| row.id)?,
                };
                anyhow::Ok(found)
            })
            .collect();
        bar.finish_and_clear();
        let mut found = trained.into_iter().collect::<Result<Vec<_>>>()?;
        let place = |id: &str| ROWS.iter().position(|row| row.id == id);
        found.sort_by_key(|f| (place(f.row), f.seed));
        write_evaluation(&bench, &folder, options.texts)?;
        let timed = chosen.iter().filter(|row| TIMED.contains(&row.id));
        let timed: Vec<_> = timed
            .map(|row| (row.id, row.name, recipe(row, 1)))
            .collect();
        let mut experts = Vec::new();
        if chosen.iter().any(|row| row.id == PR.id) {
            let model = Model::open(recipe(&PR, 1).folder(&folder))?;
            let tokens = bench.text.held_out(1, LEN).inputs;
            experts = super_experts(&model, &tokens, &ExpertOptions::default())?;
        }
        Ok(Measured {
            cost: cost::measure(&timed, &bench, lab.scratch.path())?,
            found,
            calibrated,
            facts: bench.facts,
            vocab,
            experts,
        })
    }

    fn show(&self, _: &Lab, measured: Measured) -> Result<Outcome> {
        measured.outcome(self)
    }
}

/// Evaluation sets for `sw eval`, beside the models.
fn write_evaluation(bench: &Bench, folder: &std::path::Path, texts: usize) -> Result<()> {
    let texts = bench.text.held_out_texts(texts, LEN)?;
    let data = folder.join(format!("data-{}", bench.facts));
    Ok(bench
        .text
        .wide
        .write_evaluation(&data, bench.facts, &texts)?)
}

impl Measured {
    fn outcome(&self, options: &PrMoe) -> Result<Outcome> {
        let found = &self.found;
        let mut outcome = Outcome::new("PR-MoE. Where experts are worth their weights");
        let differences: Vec<Difference> = PAIRS
            .iter()
            .filter_map(|pair| difference(found, *pair))
            .collect();
        outcome.finding = self.finding();
        if let (Some(pr), Some(residual)) = (of(found, "pr").first(), of(found, "residual").first())
        {
            let less = 1.0 - pr.weights as f64 / residual.weights as f64;
            outcome.headline = Some(Headline {
                number: format!("{:.0} %", 100.0 * less),
                text: "fewer weights with half as many experts in the first half of the layers"
                    .into(),
            });
        }
        outcome.table("pr-moe", "", self.rows(), compare::CAPTION);
        outcome.figure(
            "pr-moe-size",
            "Loss against size",
            vec![self.sizes(0.25), self.sizes(1.0)],
            "Each point is the mean of a model over seeds: its loss after a quarter of the steps, and at the end, against all of its weights.",
        );
        outcome.figure(
            "pr-moe-curves",
            "Loss on held-out text during training",
            vec![self.curves()],
            "Means over seeds.",
        );
        outcome.table(
            "pr-moe-paired",
            "One against another on the same text",
            compare::paired(&differences),
            compare::PAIRED,
        );
        let expected = self.expected(options);
        if !expected.is_empty() {
            outcome.table(
                "pr-moe-expected",
                "What was expected, and whether it came so",
                compare::expected(&expected),
                "Bounds are half of what a pilot with one seed in another program found, set before this code was run.",
            );
        }
        if !self.calibrated.is_empty() {
            let mut table = Table::new(["Facts", "recall of dense 128", "loss"]);
            for c in &self.calibrated {
                table.push([
                    c.facts.to_string(),
                    fixed(Some(c.recall), 3),
                    fixed(Some(c.loss), 4),
                ]);
            }
            outcome.table(
                "pr-moe-facts",
                "How many facts are too many",
                table,
                "The number is doubled until the dense model of 128 neurons recalls at most 70 % of all facts when its training ends.",
            );
        }
        if !self.cost.is_empty() {
            outcome.table(
                "pr-moe-cost",
                "Time",
                cost::table(&self.cost),
                cost::CAPTION,
            );
        }
        if !self.experts.is_empty() {
            outcome.table(
                "pr-moe-super",
                "The experts with the largest outputs",
                self.outputs(),
                "PR 4-4-8-8 of the first seed on one held-out sequence: the largest output of an expert before the router's weight, and whether the rule of Super Experts (arXiv 2507.23279) calls it one.",
            );
        }
        outcome.table(
            "pr-moe-published",
            "Published: other models, other data",
            published::table(),
            published::CAPTION,
        );
        outcome.notes = vec![
            format!(
                "{} facts of which each is an entity, a relation and a value, with frequencies in proportion to rank^-{}; half of the text are stories. {} tokens in the vocabulary.",
                grouped(self.facts), nano::world::ZIPF, self.vocab
            ),
            "Routing: capacity 1.0 with random drops in training, none at inference; auxiliary loss .01, summed over layers; one expert per token with its plain probability, two with shares that sum to 1. Peak rate 4e-3 for every model, which may favour some of them.".into(),
        ];
        outcome.data("found", found)?;
        outcome.data("paired", &differences)?;
        outcome.data("expected", &expected)?;
        outcome.data("calibrated", &self.calibrated)?;
        outcome.data("cost", &self.cost)?;
        outcome.data("facts", self.facts)?;
        Ok(outcome)
    }

    fn finding(&self) -> String {
        let end = |row| fixed(loss(&self.found, row, 1.0), 3);
        let quarter = |row| fixed(loss(&self.found, row, 0.25), 3);
        format!(
            "Nats per token at the end: dense {} (128 neurons) and {} (256), experts in the first half of the layers {}, in the second {}, everywhere {}; residual experts {}, PR {} with fewer weights, its inversion {}. \
             After a quarter of the steps: dense {} and {}, first half {}, second half {}, residual {}, top-2 {}.",
            end("dense-128"),
            end("dense-256"),
            end("moe-first"),
            end("moe-second"),
            end("moe-8"),
            end("residual"),
            end("pr"),
            end("pr-inverted"),
            quarter("dense-128"),
            quarter("dense-256"),
            quarter("moe-first"),
            quarter("moe-second"),
            quarter("residual"),
            quarter("top-2"),
        )
    }

    fn rows(&self) -> Table {
        let mut table = Table::new(["Model"].into_iter().chain(compare::COLUMNS));
        for row in &ROWS {
            if let Some(cells) = compare::cells(&self.found, row.id) {
                table.push([row.name.to_owned()].into_iter().chain(cells));
            }
        }
        table
    }

    fn outputs(&self) -> Table {
        let mut table = Table::new([
            "Layer",
            "expert",
            "output",
            "token",
            "channel",
            "super expert",
        ]);
        for e in self.experts.iter().take(8) {
            let answer = if e.super_expert { "yes" } else { "no" };
            table.push([
                e.layer.to_string(),
                e.expert.to_string(),
                format!("{:.3}", e.value),
                e.token.to_string(),
                e.channel.to_string(),
                answer.to_owned(),
            ]);
        }
        table
    }

    fn sizes(&self, share: f64) -> Panel {
        let kinds: [Kind; 3] = [
            ("dense", Tone::Original, |id| id.starts_with("dense")),
            ("experts in the MLP's place", Tone::Other, |id| {
                id.starts_with("moe") || id == "top-2" || id == "pyramid"
            }),
            ("residual experts", Tone::Super, |id| {
                id == "residual" || id.starts_with("pr")
            }),
        ];
        let series = kinds.map(|(name, tone, is_kind)| {
            let place = |row: &Row| {
                let first = *of(&self.found, row.id).first()?;
                Some((first.weights as f64, loss(&self.found, row.id, share)?))
            };
            let rows = ROWS.iter().filter(|row| is_kind(row.id));
            Series::new(name, Mark::Dots, tone, points(rows.filter_map(place)))
        });
        Panel::Chart(Chart {
            title: format!("after {:.0} % of the steps", 100.0 * share),
            x: Axis::linear("weights"),
            y: Axis::linear("nats per token"),
            series: series.into(),
            guides: vec![],
        })
    }

    fn curves(&self) -> Panel {
        let drawn = [
            ("dense-128", Tone::Original),
            ("moe-first", Tone::Other),
            ("moe-second", Tone::Third),
            ("top-2", Tone::Fourth),
            ("pr", Tone::Super),
        ];
        let series = drawn.iter().filter_map(|&(id, tone)| {
            let row = named(id)?;
            curve(&self.found, id, row.name, tone)
        });
        Panel::Chart(Chart {
            title: String::new(),
            x: Axis::linear("steps"),
            y: Axis::linear("nats per token"),
            series: series.collect(),
            guides: vec![],
        })
    }

    /// The thresholds of the pilot, which hold for its setting alone.
    fn expected(&self, options: &PrMoe) -> Vec<Expected> {
        if (self.facts, options.steps, options.sequences) != (FACTS, STEPS, SEQUENCES) {
            return vec![];
        }
        let less = |a, b, share| Some(loss(&self.found, a, share)? - loss(&self.found, b, share)?);
        let at_most = |what, bound, measured: Option<f64>, most: f64| {
            let measured = measured?;
            Some(Expected {
                what,
                bound,
                measured,
                holds: measured <= most,
            })
        };
        let size = |row| Some(of(&self.found, row).first()?.weights as f64);
        let fewer = || Some(size("pr")? / size("residual")? - 1.0);
        [
            at_most(
                "25 %: experts in the second half less in the first",
                "at most -.2",
                less("moe-second", "moe-first", 0.25),
                -0.2,
            ),
            at_most(
                "25 %: experts in the second half less dense 128",
                "at most -.05",
                less("moe-second", "dense-128", 0.25),
                -0.05,
            ),
            at_most(
                "25 %: residual less top-2",
                "at most -.1",
                less("residual", "top-2", 0.25),
                -0.1,
            ),
            at_most(
                "end: PR less residual MoE-8",
                "at most .01",
                less("pr", "residual", 1.0),
                0.01,
            ),
            at_most(
                "weights of PR against residual MoE-8",
                "at most -.15",
                fewer(),
                -0.15,
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A model's loss over its training, the mean over seeds.
pub(super) fn curve(found: &[Found], row: &str, name: &str, tone: Tone) -> Option<Series> {
    let all = of(found, row);
    let marks = &all.first()?.trained.marks;
    let mean = |i: usize| {
        let each: Vec<f64> = all
            .iter()
            .filter_map(|f| Some(super::bench::mean(&f.trained.marks.get(i)?.losses)))
            .collect();
        super::bench::mean(&each)
    };
    let xy = marks
        .iter()
        .enumerate()
        .map(|(i, m)| (m.step as f64, mean(i)));
    Some(Series::new(name, Mark::Line, tone, points(xy)))
}
