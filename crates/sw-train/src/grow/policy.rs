//! Who decides whether to grow.

use serde::{Deserialize, Serialize};

/// The rule that gives a task a new set of prompts, or an old one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// A new set for every task.
    Always,
    /// One set for all tasks.
    Never {
        /// Whether later tasks are kept off the features of earlier ones.
        project: bool,
    },
    /// LW2G: the set whose features hinder the task least, unless even that one hinders it more than the features of
    /// pre-training hinder a fresh set.
    Hindrance,
    /// The reverse reading: the set whose features hinder the task most, as it shares most with them, unless that is less than
    /// the features of pre-training hinder a fresh set.
    Affinity,
    /// Tries: every set, and a fresh one, is trained for some projected steps on the subset; the set with the least loss is
    /// used again where its loss is at most `tolerance` nats above the fresh one's.
    Probe {
        /// Steps of each trial.
        steps: usize,
        /// Nats.
        tolerance: f64,
    },
    /// The set of an earlier task of the same [`kind`](super::Encoder::kind), if there is one: what the tasks' maker knows.
    Oracle,
}

impl Policy {
    /// What the angles say: the set to use again, or nothing where a new one is due. `degrees` are the hindrances of the sets
    /// there are, `threshold` that of a fresh set by the space of pre-training. Nothing for policies that do not read angles.
    pub fn by_angle(self, degrees: &[f64], threshold: f64) -> Option<usize> {
        let sets = degrees.iter().copied().enumerate();
        match self {
            Policy::Hindrance => sets
                .min_by(|a, b| a.1.total_cmp(&b.1))
                .filter(|least| least.1 <= threshold)
                .map(|set| set.0),
            Policy::Affinity => sets
                .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))
                .filter(|most| most.1 > threshold)
                .map(|set| set.0),
            _ => None,
        }
    }

    /// Whether a set that is used again is kept off the features of its earlier tasks.
    pub(super) fn projects(self) -> bool {
        self != Policy::Never { project: false }
    }
}
