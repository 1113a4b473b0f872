//! Figures 6 and 8, Table 5: accuracy when the super weight is made smaller or larger.

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use sw_eval::Metric;
use sw_intervene::Intervention;

use super::Experiment;
use crate::{
    lab::{ACCURACIES, Lab, Scores, guessing},
    outcome::Outcome,
    page::{
        chart::{Along, Axis, Chart, Guide, Mark, Panel, Point, Series, Tone, points},
        table::{Table, fixed, p_value, signed},
    },
    paired::{self, Paired},
    published,
};

/// Show accuracy against the factor by which the super weight is multiplied, with paired tests (Figures 6 and 8, Table 5).
///
/// Example:
///   cargo xtask reproduce-figure6 --model MODEL --data DATA --factors 0,0.5,1,1.5 --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Figure6 {
    /// Factors; 1 is the model as it is
    #[arg(
        long,
        value_name = "X,...",
        value_delimiter = ',',
        default_value = "0,0.1,0.2,0.3,0.4,0.5,0.8,1,1.1,1.2,1.3,1.5,1.8,2,3"
    )]
    factors: Vec<f64>,
}

/// Documents of each task on the embedded checkpoint.
const DOCUMENTS: usize = 400;

/// One factor.
#[derive(Serialize)]
struct Scaled {
    factor: f64,
    /// Mean accuracy, from 0 to 1.
    average: f64,
    /// Accuracy of each task.
    accuracies: Vec<(&'static str, f64)>,
    /// Against factor 1; absent there.
    paired: Option<Paired>,
    #[serde(skip)]
    scores: Scores,
}

/// What Figure 6 measures.
pub(crate) struct Measured {
    tasks: Vec<&'static str>,
    /// The model as it is.
    original: Scores,
    /// The factors, in order.
    all: Vec<Scaled>,
}

impl Experiment for Figure6 {
    const NAME: &'static str = "figure6";

    type Measured = Measured;

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        ensure!(
            self.factors.iter().all(|f| f.is_finite()),
            "--factors: expected finite numbers"
        );
        let tasks = lab.accuracies()?;
        let limit = lab.limit(DOCUMENTS);
        let coords = &lab.found()?.coords;
        let mut factors = self.factors.clone();
        factors.push(1.0);
        factors.sort_by(f64::total_cmp);
        factors.dedup();
        let original = lab.evaluate("original", &tasks, &[], limit)?;
        let mut all = Vec::new();
        for &factor in &factors {
            let scale = Intervention::ScaleWeights {
                coords: coords.clone(),
                factor: factor as f32,
            };
            let same = factor == 1.0;
            let interventions = if same { vec![] } else { vec![scale] };
            let scores = lab.evaluate(&format!("times {factor}"), &tasks, &interventions, limit)?;
            let value = |&task: &&'static str| Some((task, scores.value(task, Metric::Acc)?));
            all.push(Scaled {
                factor,
                average: scores.average(tasks.iter().copied()).unwrap_or(f64::NAN),
                accuracies: tasks.iter().filter_map(value).collect(),
                paired: (!same)
                    .then(|| paired::compare(&original, &scores, &tasks))
                    .transpose()?,
                scores,
            });
        }
        Ok(Measured {
            tasks,
            original,
            all,
        })
    }

    fn show(&self, lab: &Lab, measured: Measured) -> Result<Outcome> {
        let Measured {
            tasks,
            original,
            all,
        } = measured;
        let base = original.average(tasks.iter().copied()).unwrap_or(f64::NAN);
        let mut outcome =
            Outcome::new("Figures 6 and 8, Table 5. The super weight made smaller or larger");
        let sentences = [
            Some(finding(&all, base, lab.found()?.noun())),
            original.caution(&tasks),
        ];
        outcome.finding = sentences
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" ");
        outcome.figure("figure6", "", vec![mean_chart(&all, base, &tasks, lab)], format!(
            "Mean accuracy of {} tasks (percent). Bars: 95 % of the paired bootstrap's differences from factor 1, documents resampled; {} documents.",
            tasks.len(),
            original.tasks().map(|t| t.samples.len()).sum::<usize>(),
        ));
        outcome.figure(
            "figure8",
            "Figure 8. Task by task",
            task_charts(&all, &tasks),
            "Accuracy (percent).",
        );
        outcome.table("figure6-factors", "Factor by factor", factor_table(&all, lab), "Difference from factor 1 in points, its 95 % interval, and McNemar's exact test over all documents together (how many only factor 1 gets right, how many only this one).");
        let (table, caption) = table5(&all, &original, &tasks, lab)?;
        outcome.table("table5", "Table 5. Original and amplified", table, caption);
        outcome.notes.push("The best of several factors is chosen on the same documents that it is then judged on, so its gain is too favourable; the p-values are not corrected for that choice.".into());
        if tasks.len() < ACCURACIES.len() {
            outcome.notes.push(format!(
                "Averages are over the tasks whose data are there: {}.",
                tasks.join(", ")
            ));
        }
        outcome.data("super_weights", lab.found()?.json())?;
        outcome.data("factors", &all)?;
        outcome.data("sources", original.sources())?;
        Ok(outcome)
    }
}

fn finding(all: &[Scaled], base: f64, noun: &str) -> String {
    let mut sentences = Vec::new();
    if let Some(zero) = all.iter().find(|s| s.factor == 0.0) {
        sentences.push(format!(
            "With {noun} at zero the mean accuracy falls from {:.2} % to {:.2} %.",
            100.0 * base,
            100.0 * zero.average
        ));
    }
    if let Some(best) = best_above(all)
        && let Some(paired) = &best.paired
    {
        let [low, high] = paired.interval.map(|v| 100.0 * v);
        let verdict = if low > 0.0 {
            "more than the documents' spread explains"
        } else if high < 0.0 {
            "a loss"
        } else {
            "within the documents' spread: no gain is shown"
        };
        sentences.push(format!(
            "The best factor above 1 is {}, with {:+.2} points (95 % interval {low:+.2} to {high:+.2}): {verdict}.",
            best.factor,
            100.0 * paired.difference
        ));
    }
    sentences.join(" ")
}

/// The factor above 1 with the best mean accuracy; the least of equals.
fn best_above(all: &[Scaled]) -> Option<&Scaled> {
    let above = all.iter().filter(|s| s.factor > 1.0);
    above.reduce(|a, b| if b.average > a.average { b } else { a })
}

fn mean_chart(all: &[Scaled], base: f64, tasks: &[&str], lab: &Lab) -> Panel {
    let point = |s: &Scaled| Point {
        x: s.factor,
        y: 100.0 * s.average,
        interval: s
            .paired
            .as_ref()
            .map(|p| p.interval.map(|d| 100.0 * (base + d))),
    };
    let mut series = vec![Series::new(
        "measured",
        Mark::Line,
        Tone::Super,
        all.iter().map(point).collect(),
    )];
    let published = lab.known.as_deref().map_or(&[][..], published::figure6);
    if !published.is_empty() {
        series.push(
            Series::new(
                "the paper",
                Mark::Line,
                Tone::Muted,
                points(published.iter().copied()),
            )
            .dashed(),
        );
    }
    Panel::Chart(Chart {
        title: "Mean accuracy".into(),
        x: Axis::linear("factor on the super weight"),
        y: Axis::linear("percent"),
        series,
        guides: vec![
            Guide {
                along: Along::Y,
                at: 100.0 * base,
                label: "as it is".into(),
                tone: Tone::Original,
            },
            Guide {
                along: Along::Y,
                at: 100.0 * guessing(tasks),
                label: "guessing".into(),
                tone: Tone::Muted,
            },
        ],
    })
}

fn task_charts(all: &[Scaled], tasks: &[&str]) -> Vec<Panel> {
    let chart = |task: &&str| {
        let value = |s: &Scaled| Some((s.factor, 100.0 * s.scores.value(task, Metric::Acc)?));
        Panel::Chart(Chart {
            title: (*task).to_owned(),
            x: Axis::linear("factor on the super weight"),
            y: Axis::linear("accuracy (percent)"),
            series: vec![Series::new(
                "",
                Mark::Line,
                Tone::Super,
                points(all.iter().filter_map(value)),
            )],
            guides: vec![],
        })
    };
    tasks.iter().map(chart).collect()
}

fn factor_table(all: &[Scaled], lab: &Lab) -> Table {
    let published = lab.known.as_deref().map_or(&[][..], published::figure6);
    let mut header = vec![
        "Factor",
        "Mean accuracy (%)",
        "Difference",
        "from",
        "to",
        "only 1 right",
        "only this right",
        "p",
    ];
    if !published.is_empty() {
        header.extend(["The paper", "difference"]);
    }
    let mut table = Table::new(header);
    for s in all {
        let percent = |v: f64| Some(100.0 * v);
        let p = s.paired.as_ref();
        let mut row = vec![
            s.factor.to_string(),
            fixed(percent(s.average), 2),
            signed(p.and_then(|p| percent(p.difference)), 2),
            signed(p.and_then(|p| percent(p.interval[0])), 2),
            signed(p.and_then(|p| percent(p.interval[1])), 2),
            p.map_or("-".into(), |p| p.mcnemar.only_first.to_string()),
            p.map_or("-".into(), |p| p.mcnemar.only_second.to_string()),
            p.map_or("-".into(), |p| p_value(p.mcnemar.p_value)),
        ];
        if !published.is_empty() {
            let paper = published.iter().find(|p| p.0 == s.factor).map(|p| p.1);
            row.push(fixed(paper, 2));
            row.push(signed(paper.map(|v| 100.0 * s.average - v), 2));
        }
        table.push(row);
    }
    table
}

/// The best amplified factor beside the original, task by task.
fn table5(
    all: &[Scaled],
    original: &Scores,
    tasks: &[&'static str],
    lab: &Lab,
) -> Result<(Table, String)> {
    let published = lab.known.as_deref().map_or(&[][..], published::table5);
    let mut header = vec!["Task", "Original (%)", "Amplified (%)", "Difference", "p"];
    if !published.is_empty() {
        header.extend(["Original, the paper", "Amplified, the paper"]);
    }
    let mut table = Table::new(header);
    let Some(best) = best_above(all) else {
        return Ok((table, "No factor above 1 was asked for.".into()));
    };
    let mut push = |name: &str, each: &[&'static str]| -> Result<()> {
        let [a, b] =
            [original, &best.scores].map(|s| s.average(each.iter().copied()).map(|v| 100.0 * v));
        let paired = paired::compare(original, &best.scores, each)?;
        let difference = a.zip(b).map(|(a, b)| b - a);
        let mut row = vec![
            name.to_owned(),
            fixed(a, 2),
            fixed(b, 2),
            signed(difference, 2),
            p_value(paired.mcnemar.p_value),
        ];
        if !published.is_empty() {
            let paper = published.iter().find(|p| p.task == name);
            row.push(fixed(paper.map(|p| p.original), 2));
            row.push(fixed(paper.map(|p| p.amplified), 2));
        }
        table.push(row);
        Ok(())
    };
    for task in tasks {
        push(task, &[task])?;
    }
    push("AVG", tasks)?;
    let caption = format!(
        "Amplified: factor {}, the best above 1 on these documents. p: McNemar's exact test on the paired outcomes.",
        best.factor
    );
    Ok((table, caption))
}
