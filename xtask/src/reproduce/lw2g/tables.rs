//! Tables: what every policy reaches, what growth costs, what was published.

use super::{
    Measured,
    expected::{ends, mean},
    measure::{HINDRANCE, QUIZ_ROWS, ROWS, Run, SCENARIOS, UNLIKE},
};
use crate::{
    page::table::{Table, fixed},
    published::{LW2G, Lw2gRun},
};

/// One row for each policy: means over draws, and the ends of their range where draws differ by what they teach.
pub(super) fn policies(rows: &[(&'static str, Vec<&Run>)]) -> Table {
    let mut table = Table::new([
        "Policy",
        "Sets",
        "All classes",
        "All classes: least",
        "All classes: most",
        "Task given",
        "Task given: least",
        "Task given: most",
        "Just after",
        "Forgetting",
        "Forgetting: least",
        "Forgetting: most",
        "Retrieval",
        "by chance",
    ]);
    for (name, runs) in rows.iter().filter(|r| !r.1.is_empty()) {
        let of = |f: fn(&Run) -> f64, decimals| [fixed(Some(mean(runs, f)), decimals)];
        let range = |f: fn(&Run) -> f64| {
            let (least, most) = ends(runs.iter().map(|r| f(r)));
            [mean(runs, f), least, most].map(|v| fixed(Some(v), 3))
        };
        let cells = [
            &[(*name).to_owned()][..],
            &of(|r| r.scores.sets as f64, 1),
            &range(|r| r.scores.class_incremental),
            &range(|r| r.scores.task_given),
            &of(|r| r.scores.just_after, 3),
            &range(|r| r.scores.forgetting),
            &of(|r| r.scores.retrieval, 2),
            &of(|r| r.scores.retrieval_by_chance, 2),
        ];
        table.push(cells.concat());
    }
    table
}

impl Measured {
    pub(super) fn scenario(&self, name: &str) -> Table {
        let rows: Vec<_> = ROWS
            .iter()
            .map(|r| (r.name, self.of(name, r.name)))
            .collect();
        policies(&rows)
    }

    pub(super) fn quiz_table(&self) -> Table {
        let of = |name| self.quizzes.iter().filter(|r| r.policy == name).collect();
        let rows: Vec<_> = QUIZ_ROWS.iter().map(|r| (r.name, of(r.name))).collect();
        policies(&rows)
    }

    /// Hindrance against Always, scenario by scenario.
    pub(super) fn against(&self) -> Table {
        let mut table = Table::new(["Tasks", "Difference", "95 % from", "to"]);
        for scenario in &SCENARIOS {
            if let Some(b) = self.against_always(scenario.name) {
                let [low, high] = b.interval;
                let cells = [b.difference, low, high].map(|v| format!("{v:+.3}"));
                table.push(std::iter::once(scenario.name.to_owned()).chain(cells));
            }
        }
        table
    }

    /// Memory of prompts and bases, and samples that decisions and training cost.
    pub(super) fn growth(&self) -> Table {
        let mut table = Table::new([
            "Policy",
            "Sets",
            "Prompts (numbers)",
            "Bases (numbers)",
            "Ranks",
            "Samples to decide",
            "to train",
            "share",
        ]);
        for row in &ROWS {
            let runs = self.of(UNLIKE, row.name);
            let of = |f: &dyn Fn(&Run) -> f64| mean(&runs, f);
            let [deciding, training] = [0, 1].map(|i| of(&|r: &Run| r.passes[i] as f64));
            table.push([
                row.name.to_owned(),
                fixed(Some(of(&|r| r.scores.sets as f64)), 1),
                fixed(Some(of(&|r| r.numbers[0] as f64)), 0),
                fixed(Some(of(&|r| r.numbers[1] as f64)), 0),
                fixed(Some(of(&|r| mean_rank(r))), 1),
                fixed(Some(deciding), 0),
                fixed(Some(training), 0),
                format!("{:.1} %", 100.0 * deciding / training.max(1.0)),
            ]);
        }
        table
    }

    /// Every decision of the rule in the first draw.
    pub(super) fn decisions(&self) -> Table {
        let mut table = Table::new([
            "Tasks",
            "Task",
            "Hindrance by each set",
            "Chance",
            "Threshold",
            "Decision",
            "Set",
        ]);
        let degrees = |v: f64| format!("{v:.1}\u{b0}");
        for scenario in &SCENARIOS {
            let runs = self.of(scenario.name, HINDRANCE);
            let decisions = runs.first().map_or(&[][..], |r| r.decisions.as_slice());
            for (task, d) in decisions.iter().enumerate() {
                let join = |of: fn(&sw_train::grow::Hindrance) -> f64| {
                    let each: Vec<_> = d.hindrances.iter().map(|h| degrees(of(h))).collect();
                    if each.is_empty() {
                        "-".to_owned()
                    } else {
                        each.join(", ")
                    }
                };
                table.push([
                    scenario.name.to_owned(),
                    (task + 1).to_string(),
                    join(|h| h.degrees),
                    join(|h| h.null),
                    d.threshold.map_or("-".into(), |t| degrees(t.degrees)),
                    if d.grew { "a new set" } else { "an old set" }.to_owned(),
                    (d.set + 1).to_string(),
                ]);
            }
        }
        table
    }
}

fn mean_rank(run: &Run) -> f64 {
    run.ranks.iter().sum::<usize>() as f64 / run.ranks.len().max(1) as f64
}

/// What the release's logs say.
pub(super) fn published() -> Table {
    let mut table = Table::new([
        "Data",
        "Method",
        "Sets",
        "Accuracy",
        "with LW2G",
        "Retrieval",
        "with LW2G ",
        "Forgetting",
        "with LW2G  ",
    ]);
    for run in &LW2G {
        let Lw2gRun {
            data,
            method,
            sets,
            accuracy,
            retrieval,
            forgetting,
        } = run;
        let pairs = [accuracy, retrieval, forgetting].into_iter().flatten();
        let names = [(*data).to_owned(), (*method).to_owned(), sets.to_string()];
        table.push(names.into_iter().chain(pairs.map(|v| format!("{v:.2}"))));
    }
    table
}
