//! The tables, the chart and the sentence of Tables 3, 4 and 7.

use super::{Rows, Setting, of};
use crate::{
    lab::{Lab, PERPLEXITIES},
    outcome::Outcome,
    page::{
        chart::{Axis, Chart, Mark, Panel, Point, Series, Tone},
        table::{Table, fixed, signed},
    },
    paired::PairedPerplexity,
    published,
};

impl Rows {
    fn value(&self, name: &str, task: &str) -> Option<f64> {
        let setting = self.settings.iter().find(|s| s.name == name)?;
        of(&setting.perplexities, task)
    }

    /// The texts in the order of the columns, with their headings.
    fn headings(&self) -> Vec<(&'static str, &'static str)> {
        let headings = PERPLEXITIES.iter().rev().copied();
        headings.filter(|t| self.tasks.contains(&t.0)).collect()
    }

    /// How much of its naive setting's damage a setting takes back, in percent, `(naive - x) / (naive - best)`, and the
    /// interval of that with the denominator as it is; nothing where naive is not worse than the stored weights by more
    /// than its interval, or not worse than `best` at all.
    fn recovered(&self, setting: &Setting, task: &str, best: &str) -> Option<[f64; 3]> {
        let naive = self.settings.iter().find(|s| s.label == setting.against)?;
        let damage = naive.paired.iter().find(|p| p.text == task)?;
        let span = of(&naive.perplexities, task)? - self.value(best, task)?;
        let gain = setting.against_naive.iter().find(|p| p.text == task)?;
        let share = |change: f64| -100.0 * change / span;
        (damage.is_loss() && span > 0.0)
            .then(|| [gain.difference, gain.interval[1], gain.interval[0]].map(share))
    }

    /// The tables of an experiment: perplexities, each setting beside its own naive one, and integers. `best`, which is
    /// called `called`: which row counts as all damage undone.
    pub(in super::super) fn tables(
        &self,
        id: &str,
        best: &str,
        called: &str,
        lab: &Lab,
        outcome: &mut Outcome,
    ) {
        outcome.table(id, "", self.table(lab), format!(
            "Perplexity, and its change against the stored weights. Intervals (from, to): 95 % of the paired bootstrap over windows. {SIMULATED}"
        ));
        outcome.table(
            format!("{id}-naive"),
            "Each setting beside its own naive one",
            self.beside_naive(best),
            format!(
                "The change of perplexity against the naive setting with the same options, with its paired 95 % interval over windows, and the share of naive's damage that is taken back, (naive \u{2212} x) / (naive \u{2212} {called}), as the paper counts. A share is a quotient of small differences: it is given only where naive is worse than the stored weights by more than its interval; its own interval is that of the numerator."
            ),
        );
        outcome.table(
            format!("{id}-integers"),
            "The same quantizations, multiplied as integers",
            self.integers(),
            INTEGER,
        );
    }

    /// Perplexities.
    fn table(&self, lab: &Lab) -> Table {
        let headings = self.headings();
        let published = lab.known.as_deref().map_or(&[][..], published::w8a8);
        let mut header = vec!["Setting".to_owned()];
        for (_, heading) in &headings {
            header.push((*heading).to_owned());
            header.extend(interval_headings(heading, "change"));
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
                row.push(fixed(value, 3));
                row.extend(with_interval(&setting.paired, task));
                if !published.is_empty() {
                    let paper = published.iter().find(|p| p.name == setting.name);
                    let paper = paper.and_then(|p| p.perplexity(task));
                    row.push(fixed(paper, 2));
                    row.push(signed(value.zip(paper).map(|(v, p)| v - p), 2));
                }
            }
            table.push(row);
        }
        table
    }

    /// Settings beside their own naive ones.
    fn beside_naive(&self, best: &str) -> Table {
        let headings = self.headings();
        let mut header = vec!["Setting".to_owned(), "its naive setting".into()];
        for (_, heading) in &headings {
            header.extend(interval_headings(heading, "change"));
            header.push(format!("{heading}: recovered (%)"));
            header.extend(["least", "most"].map(|end| format!("{heading}: {end} (%)")));
        }
        let mut table = Table::new(header);
        for setting in self.settings.iter().filter(|s| s.is_ours()) {
            let mut row = vec![setting.label.clone(), setting.against.into()];
            for (task, _) in &headings {
                row.extend(with_interval(&setting.against_naive, task));
                match self.recovered(setting, task, best) {
                    Some(shares) => row.extend(shares.map(|share| fixed(Some(share), 0))),
                    None => row.extend(["-"; 3].map(String::from)),
                }
            }
            table.push(row);
        }
        table
    }

    /// Settings as integers.
    fn integers(&self) -> Table {
        let headings = self.headings();
        let mut header = vec!["Setting".to_owned()];
        for (_, heading) in &headings {
            header.push((*heading).to_owned());
            header.extend(interval_headings(heading, "change"));
        }
        let mut table = Table::new(header);
        for setting in &self.settings {
            let Some(integer) = &setting.integer else {
                continue;
            };
            let mut row = vec![setting.label.clone()];
            for (task, _) in &headings {
                row.push(fixed(of(&integer.perplexities, task), 3));
                row.extend(with_interval(&integer.paired, task));
            }
            table.push(row);
        }
        table
    }

    /// The change of perplexity of each setting.
    pub(in super::super) fn chart(&self) -> Panel {
        let shown: Vec<_> = self.settings.iter().filter(|s| s.name != "fp16").collect();
        let tones = [Tone::Super, Tone::Other];
        let series = PERPLEXITIES
            .iter()
            .rev()
            .zip(tones)
            .filter(|(t, _)| self.tasks.contains(&t.0));
        let series = series.map(|((task, heading), tone)| {
            let at = |(i, s): (usize, &&Setting)| {
                Some(Point {
                    x: of(&s.perplexities, task)? - self.value("fp16", task)?,
                    y: i as f64,
                    interval: s
                        .paired
                        .iter()
                        .find(|p| p.text == *task)
                        .map(|p| p.interval),
                })
            };
            Series::new(
                *heading,
                Mark::Bars,
                tone,
                shown.iter().enumerate().filter_map(at).collect(),
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

    pub(in super::super) fn sentence(&self, names: &[(&'static str, &str)]) -> String {
        let task = if self.tasks.contains(&"wikitext2") {
            "wikitext2"
        } else {
            self.tasks[0]
        };
        let heading = PERPLEXITIES
            .iter()
            .find(|t| t.0 == task)
            .map_or(task, |t| t.1);
        let change = |paired: &[PairedPerplexity]| {
            let p = paired.iter().find(|p| p.text == task)?;
            let [low, high] = p.interval;
            Some(format!(
                " ({:+.3}, interval {low:+.3} to {high:+.3})",
                p.difference
            ))
        };
        let part = |(name, words): &(&'static str, &str)| {
            let setting = self.settings.iter().find(|s| s.name == *name)?;
            let simulated = of(&setting.perplexities, task)?;
            let change = change(&setting.paired).unwrap_or_default();
            Some(format!("{words} {simulated:.3}{change}"))
        };
        let parts: Vec<_> = names.iter().filter_map(part).collect();
        format!(
            "Perplexity on {heading}: {}. In brackets: the change against the stored weights, with its paired 95 % interval over windows.",
            parts.join("; ")
        )
    }
}

fn interval_headings(heading: &str, what: &str) -> [String; 3] {
    [what, "from", "to"].map(|end| format!("{heading}: {end}"))
}

/// A difference of perplexities and the ends of its interval, as cells.
fn with_interval(paired: &[PairedPerplexity], task: &str) -> [String; 3] {
    let found = paired.iter().find(|p| p.text == task);
    let numbers = found.map(|p| [p.difference, p.interval[0], p.interval[1]]);
    [0, 1, 2].map(|i| signed(numbers.map(|n| n[i]), 3))
}

const SIMULATED: &str = "Simulated: values are rounded to the 8-bit grid and widened again before each product. Weights: symmetric, one scale for each matrix. Activations: symmetric, one scale for each token, at the inputs of all linear maps and of the attention's two products. Ours: in each of these tensors the element of largest magnitude is replaced by its token's median before the scale is taken, and put back (Eq. 1).";
const INTEGER: &str = "Perplexity, and its change against the stored weights with its paired 95 % interval over windows. The linear maps multiply 8-bit integers with exact sums, scaled once; elements that are put back and held-out weights are added in floats. A map whose input is not quantized meets it in 16 bits. What the attention multiplies, and down_proj's output where it is quantized, stay simulated. The simulation rounds its weights once more, to the type they are stored in. A dash: integers cannot say it (the notes tell why).";
