//! The page: what grows when, in one figure; then what it is worth.

use anyhow::Result;
use serde_json::json;

use super::{
    ENERGIES, Lw2g, Measured, OVERLAPS, expected,
    expected::{ends, mean},
    measure::{
        ALWAYS, Angle, HINDRANCE, LIKE, NEVER, NEVER_ADAM, Run, SCENARIOS, Scenario, TRY, UNLIKE,
    },
    tables,
};
use crate::{
    outcome::Outcome,
    page::chart::{Axis, Chart, Mark, Panel, Point, Series, Step, Tone, points},
};

const COLUMNS: &str = "Means over draws, and their range (least, most). Sets: sets of prompts at the end. All classes: share of right answers among the classes of all tasks, with the set that retrieval chose. Task given: among the task's classes, with its own set; just after: the same when the task had just been learned; forgetting: what of that was lost at the end. Retrieval: how often the right set was chosen, beside what a blind choice gives (1 / sets).";

impl Measured {
    pub(super) fn show(&self, experiment: &Lw2g) -> Result<Outcome> {
        let mut outcome = Outcome::new("LW2G. When the prompts of a frozen model grow");
        outcome.finding = self.finding();
        self.explain(&mut outcome);
        outcome.figure(
            "lw2g-angles",
            "What the angle sees",
            ENERGIES.iter().map(|&e| self.angle_chart(e)).collect(),
            format!(
                "The second of two tasks, by how many of its features the first has, too: its hindrance by the first task's space, the threshold, and the angle that a random gradient has to a space of that rank. Means and ranges over {} draws, for spaces of three energies. Where nothing is shared, chance decides, and whether chance lies below the threshold depends on the energy; tasks that share features are hindered whether they want the same prompts or opposite ones.",
                self.seeds
            ),
        );
        for scenario in &SCENARIOS {
            outcome.table(
                scenario.id,
                format!("{}: what every policy reaches", scenario.name),
                self.scenario(scenario.name),
                format!(
                    "{} {}",
                    scenario.about,
                    if scenario.name == UNLIKE {
                        COLUMNS
                    } else {
                        "Columns as in the first of these tables."
                    }
                ),
            );
        }
        outcome.table(
            "lw2g-against",
            "The rule against a set for every task",
            self.against(),
            "Share of right answers among the classes of all tasks, Hindrance minus Always. The interval is of a paired bootstrap over the test samples of all draws; it does not hold how draws differ.",
        );
        let all = self.expected();
        outcome.table(
            "lw2g-expected",
            "What was expected, and whether it came so",
            expected::table(&all),
            "Bounds were set before this code was run, by a pilot in another program.",
        );
        outcome.table(
            "lw2g-decisions",
            "Every decision of the rule",
            self.decisions(),
            "Hindrance (LW2G) in the first draw, at each task: its hindrance by each set there was, the angle that chance gives, and the threshold. A new set is made where all hindrances are above the threshold.",
        );
        outcome.table(
            "lw2g-growth",
            "What growth costs",
            self.growth(),
            format!(
                "{UNLIKE}: numbers held in prompts and in the bases of the sets' spaces, mean rank of a space (of {} channels), and samples that went forward and back to decide and to train. Seconds are in the JSON file.",
                self.options.dim
            ),
        );
        outcome.table(
            "lw2g-quizzes",
            "Soft prompts on nano: quizzes of two lores",
            self.quiz_table(),
            format!(
                "Six quizzes for this repository's frozen checkpoint, about three sets of aims in two lores that it has never seen: which tool serves an aim is drawn anew in each, and each has people of its own, by whom alone a question tells its lore. A set is 8 soft prompts before the last block, trained by Adam with the update projected; answers are the 28 tools (blind guessing: .036), or the tools of the quiz where the task is given (.143). Prompts are trained among the tools of the quiz alone; among all 28 the tool that nano knows from home mostly stays ahead. Means over {} draws and their range. Other columns as above.",
                self.quizzes.len() / super::QUIZ_ROWS.len().max(1)
            ),
        );
        outcome.table(
            "lw2g-published",
            "Published: other models, other data",
            tables::published(),
            "From the logs of the release (percent; ViT-B/16, ten tasks; sets out of ten): literature beside what is measured here, not to be subtracted from it.",
        );
        outcome.notes = notes(experiment, self);
        outcome.data("expected", &all)?;
        outcome.data("angles", &self.angles)?;
        outcome.data("runs", &self.runs)?;
        outcome.data("quizzes", &self.quizzes)?;
        outcome.data("controlled", self.options)?;
        outcome.data(
            "seconds",
            json!({ "deciding": self.seconds(0), "training": self.seconds(1) }),
        )?;
        Ok(outcome)
    }

    /// Mean seconds that the rule took on unlike tasks: to decide (0), or to train (1).
    fn seconds(&self, which: usize) -> f64 {
        mean(&self.of(UNLIKE, HINDRANCE), |r| r.seconds[which])
    }

    fn finding(&self) -> String {
        let sets = |r: &Run| r.scores.sets as f64;
        let lost = |r: &Run| r.scores.forgetting;
        let given = |r: &Run| r.scores.task_given;
        // The mean over draws, with the least and the most of them.
        let said = |runs: &[&Run], f: fn(&Run) -> f64, decimals: usize| {
            let (least, most) = ends(runs.iter().map(|r| f(r)));
            let [mean, least, most] =
                [mean(runs, f), least, most].map(|v| format!("{v:.decimals$}"));
            format!("{mean} ({least} to {most})")
        };
        let of = |scenario, policy, f: fn(&Run) -> f64, decimals| {
            said(&self.of(scenario, policy), f, decimals)
        };
        let quiz = |policy: &str, f: fn(&Run) -> f64, decimals| {
            let runs: Vec<_> = self.quizzes.iter().filter(|r| r.policy == policy).collect();
            said(&runs, f, decimals)
        };
        format!(
            "A task gets prompts of its own where the old ones would hinder it more than the features of pre-training hinder fresh ones. \
             That rule keeps {} sets for eight unlike tasks and {} for eight of which each has three others like it; trying the sets out keeps {} and {}. \
             A projected set forgets {} of its accuracy under SGD and {} under Adam, which turns projected gradients back. \
             On nano's quizzes a set for every task answers {} with the task given, one projected set {}, of which {} is forgotten; the rule keeps {} sets and answers {}. \
             In brackets: the range over draws.",
            of(UNLIKE, HINDRANCE, sets, 1),
            of(LIKE, HINDRANCE, sets, 1),
            of(UNLIKE, TRY, sets, 1),
            of(LIKE, TRY, sets, 1),
            of(UNLIKE, NEVER, lost, 3),
            of(UNLIKE, NEVER_ADAM, lost, 3),
            quiz(ALWAYS, given, 2),
            quiz(NEVER, given, 2),
            quiz(NEVER, lost, 2),
            quiz(HINDRANCE, sets, 1),
            quiz(HINDRANCE, given, 2),
        )
    }

    /// The figure for someone who never heard of it: one decision step by step, and which sets a run makes and uses, and why.
    fn explain(&self, outcome: &mut Outcome) {
        let first = |name: &str| self.of(name, HINDRANCE).into_iter().next();
        let mut panels: Vec<Panel> = first(LIKE).and_then(example).into_iter().collect();
        for scenario in SCENARIOS
            .iter()
            .filter(|s| [LIKE, UNLIKE].contains(&s.name))
            .rev()
        {
            if let Some(run) = first(scenario.name) {
                let tasks = Axis::bands("task, in the order in which they come", names(scenario));
                panels.push(sets_chart(scenario.name, &tasks, run));
                panels.push(reasons_chart(scenario.name, &tasks, run));
            }
        }
        outcome.figure(
            "lw2g",
            "What grows when",
            panels,
            "A frozen model learns one task after the other. What it learns is kept in sets of prompts: rows of numbers that are put before the input. The chain of boxes follows one decision. The charts show all decisions of the first draw: which set each task uses, and why. Where even the least hindrance by an old set is above the threshold, the task gets a new set, so that the pool grows; else it uses the old set that hinders it least. Letters name groups: the tasks of a group look at the same features, and tasks without letters share none. The angle is large where two tasks look at the same features, so that the rule gives new sets to tasks that are like earlier ones, and lets unlike tasks share.",
        );
    }

    fn angle_chart(&self, energy: f64) -> Panel {
        let series = |name: &str, tone, of: fn(&Angle) -> f64| {
            let point = |&overlap: &f64| {
                let here = self
                    .angles
                    .iter()
                    .filter(|a| a.overlap == overlap && a.energy == energy);
                let values: Vec<f64> = here.map(of).collect();
                let (low, high) = ends(values.iter().copied());
                Point {
                    x: (100.0 * overlap).round(),
                    y: values.iter().sum::<f64>() / values.len().max(1) as f64,
                    interval: Some([low, high]),
                }
            };
            Series::new(name, Mark::Line, tone, OVERLAPS.iter().map(point).collect())
        };
        Panel::Chart(Chart {
            title: format!("Spaces that hold {:.0} % of the energy", 100.0 * energy),
            x: Axis::linear("features shared (percent)"),
            y: Axis::linear("degrees"),
            series: vec![
                series("hindrance", Tone::Super, |a| a.hindrance.degrees),
                series("threshold", Tone::Other, |a| a.threshold.degrees),
                series("by chance", Tone::Muted, |a| a.hindrance.null).dashed(),
            ],
            guides: vec![],
        })
    }
}

/// The first decision to grow after the first task, step by step; else the first decision.
fn example(run: &Run) -> Option<Panel> {
    let later = || run.decisions.iter().enumerate().skip(1);
    let (task, decision) = later().find(|d| d.1.grew).or_else(|| later().next())?;
    let (least, threshold) = (decision.least()?, decision.threshold?);
    let step = |title: &str, value: String, note: &str| Step {
        title: title.into(),
        value,
        note: note.into(),
    };
    let there = decision.hindrances.len();
    let (angle, bound) = (least.degrees, threshold.degrees);
    let steps = vec![
        step(
            "A new task comes",
            format!("task {} of {}", task + 1, run.decisions.len()),
            &match there {
                1 => "The model itself never changes. So far one set of prompts serves all tasks."
                    .to_owned(),
                n => format!(
                    "The model itself never changes. So far {n} sets of prompts serve its tasks."
                ),
            },
        ),
        step(
            "How would the task change an old set?",
            "its gradient".into(),
            "One pass over some of its samples gives the direction in which training would move the prompts.",
        ),
        step(
            "How much of that would earlier tasks notice?",
            format!("hindrance {angle:.0}\u{b0}"),
            &format!(
                "That part is forbidden. 0\u{b0}: nothing is forbidden; 90\u{b0}: everything is. A direction by chance has {:.0}\u{b0}.{}",
                least.null,
                if there > 1 {
                    " This is the set that hinders least."
                } else {
                    ""
                }
            ),
        ),
        step(
            "How much is too much?",
            format!("threshold {bound:.0}\u{b0}"),
            "The same angle for a set of fresh prompts, against the features of what the model was first trained on.",
        ),
        step(
            "Grow, or use an old set?",
            if decision.grew {
                "a new set"
            } else {
                "an old set"
            }
            .into(),
            &if decision.grew {
                format!(
                    "{angle:.0}\u{b0} is above {bound:.0}\u{b0}: the task gets a set of its own."
                )
            } else {
                format!(
                    "{angle:.0}\u{b0} is not above {bound:.0}\u{b0}: the task uses the set, and moves it only where no earlier task looks."
                )
            },
        ),
    ];
    Some(Panel::Flow { steps })
}

/// Tasks by number, with a letter for their group where it has several.
fn names(scenario: &Scenario) -> Vec<String> {
    let groups: Vec<usize> = (scenario.tasks)().iter().map(|task| task.group).collect();
    let alone = |group: &usize| groups.iter().filter(|g| *g == group).count() == 1;
    let name = |(i, group): (usize, &usize)| match alone(group) {
        true => format!("{}", i + 1),
        false => format!("{} {}", i + 1, char::from(b'A' + *group as u8 % 26)),
    };
    groups.iter().enumerate().map(name).collect()
}

const NEW: &str = "the task makes a new set";
const OLD: &str = "the task uses an old set";

/// Which set each task uses.
fn sets_chart(title: &str, tasks: &Axis, run: &Run) -> Panel {
    let dots = |grew: bool| {
        let of = run
            .decisions
            .iter()
            .enumerate()
            .filter(|d| d.1.grew == grew);
        points(of.map(|(task, d)| (task as f64, d.set as f64)))
    };
    let sets = 1..=run.scores.sets;
    Panel::Chart(Chart {
        title: format!("{title}: which set of prompts each task uses"),
        x: tasks.clone(),
        y: Axis::bands("", sets.map(|set| format!("set {set}"))),
        series: vec![
            Series::new(NEW, Mark::Dots, Tone::Super, dots(true)),
            Series::new(OLD, Mark::Dots, Tone::Third, dots(false)),
        ],
        guides: vec![],
    })
}

/// The angles that decide: the first task has none.
fn reasons_chart(title: &str, tasks: &Axis, run: &Run) -> Panel {
    let asked = || run.decisions.iter().enumerate();
    let bounds = asked().filter_map(|(task, d)| Some((task as f64, d.threshold?.degrees)));
    let dots = |grew: bool| {
        let of = asked().filter(|d| d.1.grew == grew);
        points(of.filter_map(|(task, d)| Some((task as f64, d.least()?.degrees))))
    };
    Panel::Chart(Chart {
        title: format!("{title}: why"),
        x: tasks.clone(),
        y: Axis::linear("least hindrance by an old set (degrees)"),
        series: vec![
            Series::new("threshold", Mark::Line, Tone::Other, points(bounds)).dashed(),
            Series::new("above: a new set", Mark::Dots, Tone::Super, dots(true)),
            Series::new("below: an old set", Mark::Dots, Tone::Third, dots(false)),
        ],
        guides: vec![],
    })
}

fn notes(experiment: &Lw2g, measured: &Measured) -> Vec<String> {
    vec![
        format!(
            "Controlled tasks: an encoder hands out six tokens with keys and values in {} channels; one carries the class, marked along the task's cue direction. Rows of a prompt read them by attention, and a linear head answers. {} samples to learn from, {} steps of gradient descent; spaces hold {} of the energy of keys. Overlap is set among keys. {} draws.",
            measured.options.dim, measured.options.train, experiment.steps, experiment.energy, measured.seeds
        ),
        "The threshold is the hindrance of a fresh set by the space of pre-training: of features whose variance falls as a power law (controlled), of nano's own text (quizzes).".into(),
        "Affinity uses the set that hinders most where that is above the threshold; Probe trains every set and a fresh one for 60 projected steps (30 on quizzes) and uses an old one that is within .1 nats of the fresh one; Oracle knows which tasks are served by the same prompts.".into(),
        "Soft prompts carry values, too. Projection keeps the attention that old questions pay; it does not keep what they read at a row that changes, so one projected set of them forgets.".into(),
        "The release (RAIAN08/LW2G, commit 92e1650) logs the complement of the hindrance, and takes its spaces over samples where the gradient has channels. The ranks that it logs are enough to predict all 54 logged angles of the newest set within .5\u{b0} (.06\u{b0} to .33\u{b0} on average by run) and 50 of its 54 decisions, by the angle of chance: xtask/compare/lw2g_logs.py. Here spaces are of channels, and chance stands beside every angle.".into(),
        "Left out: the paper's help from the nearest old sets, which has no effect in the release, and its soft constraint, which is in the library (soft) and 0 here.".into(),
        "This experiment reads no model but this repository's checkpoint.".into(),
    ]
}
