//! What was expected of the controlled stage before it was run, and whether it came so.

use serde::Serialize;

use super::{
    Measured, OVERLAPS,
    measure::{
        ALWAYS, HALF, HINDRANCE, LIKE, NEVER, NEVER_ADAM, OPPOSITE, Run, SCENARIOS, TRY, UNLIKE,
    },
};
use crate::page::table::Table;

/// One expectation.
#[derive(Serialize)]
pub(super) struct Expected {
    pub(super) what: String,
    pub(super) bound: String,
    pub(super) measured: String,
    pub(super) holds: bool,
}

/// The mean of a number over the runs of a policy in a scenario.
/// The least and the most of some values.
pub(super) fn ends(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let start = (f64::INFINITY, f64::NEG_INFINITY);
    let values = values.into_iter();
    values.fold(start, |(a, b), v| (a.min(v), b.max(v)))
}

pub(super) fn mean(runs: &[&Run], of: impl Fn(&Run) -> f64) -> f64 {
    runs.iter().map(|r| of(r)).sum::<f64>() / runs.len().max(1) as f64
}

impl Measured {
    pub(super) fn of(&self, scenario: &str, policy: &str) -> Vec<&Run> {
        let both = |r: &&Run| r.scenario == scenario && r.policy == policy;
        self.runs.iter().filter(both).collect()
    }

    /// All expectations, in the order of the table.
    pub(super) fn expected(&self) -> Vec<Expected> {
        let mut all = Vec::new();
        let alike = self
            .angles
            .iter()
            .filter(|a| a.overlap == OVERLAPS[3] && a.energy == 0.95);
        let degrees: Vec<f64> = alike.clone().map(|a| a.hindrance.degrees).collect();
        let least = degrees.iter().copied().fold(f64::INFINITY, f64::min);
        let above = alike
            .clone()
            .all(|a| a.hindrance.degrees > a.threshold.degrees);
        all.push(Expected {
            what: "Hindrance where all features are shared, in every draw".into(),
            bound: "at least 80\u{b0}, and above the threshold".into(),
            measured: format!(
                "{least:.1}\u{b0} at least, {} the threshold",
                if above { "all above" } else { "not all above" }
            ),
            holds: least >= 80.0 && above,
        });
        let forgetting =
            |scenario, policy| mean(&self.of(scenario, policy), |r| r.scores.forgetting);
        for scenario in &SCENARIOS {
            let lost = forgetting(scenario.name, NEVER);
            all.push(Expected {
                what: format!("Forgetting of one projected set, SGD: {}", scenario.name),
                bound: "at most .02".into(),
                measured: format!("{lost:.3}"),
                holds: lost <= 0.02,
            });
        }
        for scenario in [UNLIKE, LIKE, OPPOSITE] {
            let more = forgetting(scenario, NEVER_ADAM) - forgetting(scenario, NEVER);
            all.push(Expected {
                what: format!("The same with Adam behind the projection, above SGD: {scenario}"),
                bound: "at least .05 more".into(),
                measured: format!("{more:+.3}"),
                holds: more >= 0.05,
            });
        }
        for scenario in [UNLIKE, LIKE, OPPOSITE, HALF] {
            let sets = self.of(scenario, HINDRANCE);
            let sets: Vec<usize> = sets.iter().map(|r| r.scores.sets).collect();
            all.push(Expected {
                what: format!("Sets of Hindrance, in every draw: {scenario}"),
                bound: "2 to 7".into(),
                measured: list(&sets),
                holds: sets.iter().all(|n| (2..8).contains(n)),
            });
        }
        for scenario in [UNLIKE, LIKE, OPPOSITE, HALF] {
            let runs = self.of(scenario, TRY);
            let given = mean(&runs, |r| r.scores.task_given);
            let sets = mean(&runs, |r| r.scores.sets as f64);
            all.push(Expected {
                what: format!("Probe: {scenario}"),
                bound: "task given at least .98, at most 3 sets".into(),
                measured: format!("{given:.3} with {sets:.1} sets"),
                holds: given >= 0.98 && sets <= 3.0,
            });
        }
        all
    }

    /// Class-incremental accuracy of Hindrance minus that of Always: over the test samples of all draws, with the interval.
    pub(super) fn against_always(&self, scenario: &str) -> Option<sw_eval::PairedBootstrap> {
        let pairs = self
            .of(scenario, ALWAYS)
            .into_iter()
            .zip(self.of(scenario, HINDRANCE));
        let differences: Vec<f64> = pairs
            .flat_map(|(a, b)| a.answers.iter().zip(&b.answers))
            .map(|(a, b)| f64::from(u8::from(*b)) - f64::from(u8::from(*a)))
            .collect();
        sw_eval::paired_bootstrap(&differences, 2000, 0)
    }
}

pub(super) fn table(all: &[Expected]) -> Table {
    let mut table = Table::new(["Expectation", "Bound", "Measured", "Holds"]);
    for e in all {
        let holds = if e.holds { "yes" } else { "no" };
        table.push([e.what.as_str(), &e.bound, &e.measured, holds]);
    }
    table
}

fn list(numbers: &[usize]) -> String {
    let texts: Vec<_> = numbers.iter().map(usize::to_string).collect();
    texts.join(", ")
}
