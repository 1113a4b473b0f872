//! What is run: scenarios, policies, and what is kept of a run.

use anyhow::Result;
use serde::Serialize;
use sw_train::grow::{
    Controlled, ControlledOptions, Encoder, Hindrance, Learner, Optimiser, Policy, Projection,
    Recipe, Scores, TaskSpec,
};

/// Controlled tasks in an order.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) id: &'static str,
    pub(super) tasks: fn() -> Vec<TaskSpec>,
    pub(super) about: &'static str,
}

pub(super) const UNLIKE: &str = "8 unlike tasks";
pub(super) const LIKE: &str = "2 x 4 like tasks";
pub(super) const OPPOSITE: &str = "2 x 4, opposite wishes";
pub(super) const HALF: &str = "2 x 4, half shared";

pub(super) const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: UNLIKE,
        id: "lw2g-unlike",
        tasks: || TaskSpec::unlike(8),
        about: "No task shares a feature with another.",
    },
    Scenario {
        name: LIKE,
        id: "lw2g-like",
        tasks: || TaskSpec::groups(2, 4, 1.0, false),
        about: "Two groups take turns; the four tasks of a group have the same features and are served by the same prompts.",
    },
    Scenario {
        name: OPPOSITE,
        id: "lw2g-opposite",
        tasks: || TaskSpec::groups(2, 4, 1.0, true),
        about: "Two groups take turns; the four tasks of a group have the same features, and every second of them is misled by the prompts that serve the others.",
    },
    Scenario {
        name: HALF,
        id: "lw2g-half",
        tasks: || TaskSpec::groups(2, 4, 0.5, false),
        about: "Two groups take turns; the four tasks of a group share half of their features and are served by the same prompts.",
    },
];

/// A policy with its optimiser.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) name: &'static str,
    policy: Policy,
    optimiser: Optimiser,
    projection: Projection,
}

const SGD: Optimiser = Optimiser::Sgd { rate: 1.0 };
const ADAM: Optimiser = Optimiser::Adam { rate: 0.05 };
const PROBE: Policy = Policy::Probe {
    steps: 60,
    tolerance: 0.1,
};

pub(super) const ALWAYS: &str = "Always";
pub(super) const NEVER: &str = "Never, projected";
pub(super) const NEVER_ADAM: &str = "Never, projected, Adam";
pub(super) const NEVER_UPDATE: &str = "Never, update projected, Adam";
pub(super) const UNPROJECTED: &str = "Never, not projected";
pub(super) const HINDRANCE: &str = "Hindrance (LW2G)";
pub(super) const AFFINITY: &str = "Affinity (the reverse)";
pub(super) const TRY: &str = "Probe (try and see)";
pub(super) const ORACLE: &str = "Oracle";

const fn row(
    name: &'static str,
    policy: Policy,
    optimiser: Optimiser,
    projection: Projection,
) -> Row {
    Row {
        name,
        policy,
        optimiser,
        projection,
    }
}

use Projection::{Gradient, Update};

pub(super) const ROWS: [Row; 9] = [
    row(ALWAYS, Policy::Always, SGD, Gradient),
    row(NEVER, Policy::Never { project: true }, SGD, Gradient),
    row(NEVER_ADAM, Policy::Never { project: true }, ADAM, Gradient),
    row(NEVER_UPDATE, Policy::Never { project: true }, ADAM, Update),
    row(UNPROJECTED, Policy::Never { project: false }, SGD, Gradient),
    row(HINDRANCE, Policy::Hindrance, SGD, Gradient),
    row(AFFINITY, Policy::Affinity, SGD, Gradient),
    row(TRY, PROBE, SGD, Gradient),
    row(ORACLE, Policy::Oracle, SGD, Gradient),
];

/// Soft prompts are trained by Adam, as everywhere; the update is projected.
pub(super) const QUIZ_ROWS: [Row; 6] = [
    row(ALWAYS, Policy::Always, ADAM, Update),
    row(NEVER, Policy::Never { project: true }, ADAM, Update),
    row(UNPROJECTED, Policy::Never { project: false }, ADAM, Update),
    row(HINDRANCE, Policy::Hindrance, ADAM, Update),
    row(AFFINITY, Policy::Affinity, ADAM, Update),
    row(
        TRY,
        Policy::Probe {
            steps: 30,
            tolerance: 0.1,
        },
        ADAM,
        Update,
    ),
];

impl Row {
    pub(super) fn recipe(self, seed: u64, energy: f64, steps: usize) -> Recipe {
        Recipe {
            seed,
            policy: self.policy,
            energy,
            optimiser: self.optimiser,
            projection: self.projection,
            steps,
            ..Recipe::default()
        }
    }
}

/// How a task was placed.
#[derive(Serialize)]
pub(super) struct Decision {
    pub(super) set: usize,
    pub(super) grew: bool,
    pub(super) hindrances: Vec<Hindrance>,
    pub(super) threshold: Option<Hindrance>,
    pub(super) accuracy: f64,
}

impl Decision {
    /// The least hindrance by the sets there were.
    pub(super) fn least(&self) -> Option<Hindrance> {
        let sets = self.hindrances.iter().copied();
        sets.min_by(|a, b| a.degrees.total_cmp(&b.degrees))
    }
}

/// One policy on tasks of one seed.
#[derive(Serialize)]
pub(super) struct Run {
    pub(super) scenario: &'static str,
    pub(super) policy: &'static str,
    pub(super) recipe: Recipe,
    pub(super) scores: Scores,
    /// Whether each answer is right, of all tasks one after the other.
    #[serde(skip)]
    pub(super) answers: Vec<bool>,
    pub(super) decisions: Vec<Decision>,
    /// Samples that went forward and back: to decide, to train.
    pub(super) passes: [usize; 2],
    /// Seconds on one thread: to decide, to train.
    pub(super) seconds: [f64; 2],
    /// Numbers in prompts, and in the bases of their spaces.
    pub(super) numbers: [usize; 2],
    /// Rank of each set's space.
    pub(super) ranks: Vec<usize>,
}

/// Learns all tasks and measures.
pub(super) fn run<E: Encoder>(
    encoder: &E,
    scenario: &'static str,
    policy: &'static str,
    recipe: Recipe,
) -> Result<Run> {
    let mut learner = Learner::new(encoder, recipe)?;
    for task in 0..encoder.tasks() {
        learner.learn(task)?;
    }
    let scores = learner.scores()?;
    let learned = learner.learned();
    let decisions = learned.iter().map(|l| Decision {
        set: l.set,
        grew: l.grew,
        hindrances: l.hindrances.clone(),
        threshold: l.threshold,
        accuracy: l.accuracy,
    });
    let seconds = |i: usize| learned.iter().map(|l| l.times[i].as_secs_f64()).sum();
    let sets = learner.sets();
    Ok(Run {
        scenario,
        policy,
        recipe,
        answers: scores.answers.concat(),
        decisions: decisions.collect(),
        passes: [
            learned.iter().map(|l| l.passes.deciding).sum(),
            learned.iter().map(|l| l.passes.training).sum(),
        ],
        seconds: [seconds(0), seconds(1)],
        numbers: [
            sets.iter().map(|s| s.prompt.len()).sum(),
            sets.iter().map(|s| s.space.basis().len()).sum(),
        ],
        ranks: sets.iter().map(|s| s.space.rank()).collect(),
        scores,
    })
}

/// The second task's angle to the space of the first, which shares some of its features.
#[derive(Serialize)]
pub(super) struct Angle {
    pub(super) seed: u64,
    pub(super) energy: f64,
    pub(super) overlap: f64,
    pub(super) hindrance: Hindrance,
    pub(super) threshold: Hindrance,
}

pub(super) fn angle(
    seed: u64,
    energy: f64,
    overlap: f64,
    steps: usize,
    options: &ControlledOptions,
) -> Result<Angle> {
    let encoder = Controlled::new(seed, &TaskSpec::groups(1, 2, overlap, false), options)?;
    let recipe = row("", Policy::Hindrance, SGD, Gradient).recipe(seed, energy, steps);
    let mut learner = Learner::new(&encoder, recipe)?;
    learner.learn(0)?;
    let hindrance = learner.hindrances(1)?;
    Ok(Angle {
        seed,
        energy,
        overlap,
        hindrance: hindrance.0[0],
        threshold: hindrance.1,
    })
}
