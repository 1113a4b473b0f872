//! Mixture-of-Students: a shallower mixture that learns from a teacher's probabilities, for a while or throughout.

use anyhow::{Result, ensure};
use clap::Args;
use rayon::prelude::*;
use serde::Serialize;

use super::{
    FACTS, SEQUENCES, STEPS, TEXTS, bar,
    bench::Bench,
    compare::{self, Difference, Expected, Found, difference, loss},
    facts::{self, Calibrated, Facts},
    folder,
    pr_moe::curve,
    published,
    rows::{PR, STUDENT, weights},
    run::{Options, Recipe, Taught, Trained},
};
use crate::{
    lab::Lab,
    outcome::Outcome,
    page::{
        chart::{Axis, Chart, Panel, Tone},
        table::{Table, fixed, grouped},
    },
    reproduce::Experiment,
};

/// Distil a PR-MoE into a student with fewer layers (Mixture-of-Students, arXiv 2201.05596): with no teacher, with one throughout,
/// and with one that leaves.
///
/// Reads no model, whatever --model says. The teacher is the model `pr` of reproduce-pr-moe, found in the output folder or trained. The
/// teacher never drops a token. Trainings that are finished in the output folder are not run again. --limit cuts what is asked of the models, not
/// their training.
///
/// Example:
///   cargo xtask reproduce-mos --out out
#[derive(Args, Clone, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Mos {
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
    /// Factor of the teacher's term
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    weight: f32,
    /// What the logits of both are divided by
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    temperature: f32,
}

/// What was measured.
pub(crate) struct Measured {
    found: Vec<Found>,
    calibrated: Vec<Calibrated>,
    facts: usize,
}

/// A seed, a row, and its training.
type OfSeed = (u64, &'static str, Trained);

const TEACHER: &str = "teacher";
const NONE: &str = "none";
const FULL: &str = "full";

/// Students whose teacher leaves: row, name, and after which percent of the steps.
const STAGED: [(&str, &str, usize); 3] = [
    ("until-30", "teacher until 30 %", 30),
    ("until-60", "teacher until 60 %", 60),
    ("until-80", "teacher until 80 %", 80),
];

/// Rows of the table.
const ROWS: [(&str, &str); 6] = [
    (TEACHER, "teacher, PR 4-4-8-8"),
    (NONE, "student, no teacher"),
    (FULL, "student, teacher throughout"),
    (STAGED[0].0, STAGED[0].1),
    (STAGED[1].0, STAGED[1].1),
    (STAGED[2].0, STAGED[2].1),
];

/// What is compared: what it is about, and two models.
const PAIRS: [(&str, &str, &str); 6] = [
    ("teacher throughout against none", FULL, NONE),
    ("throughout against until 30 %", FULL, STAGED[0].0),
    ("throughout against until 60 %", FULL, STAGED[1].0),
    ("throughout against until 80 %", FULL, STAGED[2].0),
    ("until 60 % against none", STAGED[1].0, NONE),
    ("until 60 % against the teacher", STAGED[1].0, TEACHER),
];

impl Mos {
    pub(crate) fn with_seeds(self, seeds: u64) -> Mos {
        Mos { seeds, ..self }
    }

    /// The model that teaches.
    fn teacher(&self, seed: u64, options: &Options, bench: &Bench) -> Recipe {
        let shape = PR.shape(bench.text.vocab());
        Recipe::new(PR.id.to_owned(), shape, seed, options, bench)
    }

    /// The student, with a teacher until a step or without one.
    fn student(
        &self,
        seed: u64,
        id: &str,
        until: Option<usize>,
        options: &Options,
        bench: &Bench,
    ) -> Recipe {
        let shape = STUDENT.shape(bench.text.vocab());
        let taught = until.map(|until| Taught {
            teacher: Box::new(self.teacher(seed, options, bench)),
            weight: self.weight,
            temperature: self.temperature,
            until,
        });
        Recipe {
            taught,
            ..Recipe::new(format!("student-{id}"), shape, seed, options, bench)
        }
    }

    /// All students of a seed that have a teacher. Until a teacher leaves, its student is the one that it stays with: that training goes
    /// on from there.
    fn students(
        &self,
        seed: u64,
        options: &Options,
        bench: &Bench,
        folder: &std::path::Path,
    ) -> Result<Vec<(&'static str, Trained)>> {
        let keeps = seed == 1;
        let full = self.student(seed, FULL, Some(options.steps), options, bench);
        let staged = STAGED.map(|(id, _, percent)| {
            let until = options.steps * percent / 100;
            (
                id,
                until,
                self.student(seed, id, Some(until), options, bench),
            )
        });
        let mut all = vec![(FULL, full.finished(folder, keeps)?)];
        for (id, _, recipe) in &staged {
            all.push((id, recipe.finished(folder, keeps)?));
        }
        if all.iter().all(|(_, trained)| trained.is_some()) {
            return Ok(all
                .into_iter()
                .filter_map(|(id, t)| Some((id, t?)))
                .collect());
        }
        let teacher = self.teacher(seed, options, bench).params(folder)?;
        let mut found = Vec::new();
        let mut running = full.begin()?;
        for (id, until, recipe) in &staged {
            running.advance(&full, bench, Some(&teacher), *until)?;
            let mut branch = running.clone();
            branch.advance(recipe, bench, None, options.steps)?;
            found.push((*id, recipe.finish(bench, folder, branch, keeps)?));
        }
        running.advance(&full, bench, Some(&teacher), options.steps)?;
        found.insert(0, (FULL, full.finish(bench, folder, running, keeps)?));
        Ok(found)
    }
}

impl Experiment for Mos {
    const NAME: &'static str = "mos";

    type Measured = Measured;

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        ensure!(
            self.seeds > 0 && self.steps > 0 && self.sequences > 0,
            "--seeds, --steps, --sequences: expected at least 1"
        );
        let fine = |x: f32| x.is_finite() && x > 0.0;
        ensure!(
            fine(self.weight) && fine(self.temperature),
            "--weight {}, --temperature {}: expected numbers above 0",
            self.weight,
            self.temperature
        );
        let options = Options {
            steps: self.steps,
            sequences: self.sequences,
            texts: lab.inputs.limit.unwrap_or(TEXTS),
            questions: lab.inputs.limit.unwrap_or(usize::MAX),
        };
        let (bench, calibrated) = facts::bench(lab, self.facts, &options)?;
        let folder = folder(lab);
        let bar = bar(3 * self.seeds as usize, Self::NAME);
        let seeds = 1..=self.seeds;
        let teachers: Vec<Result<OfSeed>> = seeds
            .clone()
            .par_bridge()
            .map(|seed| {
                let recipe = self.teacher(seed, &options, &bench);
                let trained = recipe.run(&bench, &folder, None, true);
                bar.inc(1);
                Ok((seed, TEACHER, trained?))
            })
            .collect();
        let jobs = seeds.flat_map(|seed| [(seed, true), (seed, false)]);
        let mut jobs: Vec<_> = jobs.collect();
        jobs.sort_by_key(|(_, taught)| !taught);
        let students: Vec<Result<Vec<OfSeed>>> = jobs
            .into_iter()
            .par_bridge()
            .map(|(seed, taught)| {
                let found = match taught {
                    true => self.students(seed, &options, &bench, &folder)?,
                    false => {
                        let recipe = self.student(seed, NONE, None, &options, &bench);
                        vec![(NONE, recipe.run(&bench, &folder, None, seed == 1)?)]
                    }
                };
                bar.inc(1);
                Ok(found
                    .into_iter()
                    .map(|(id, trained)| (seed, id, trained))
                    .collect())
            })
            .collect();
        bar.finish_and_clear();
        let mut all = teachers.into_iter().collect::<Result<Vec<_>>>()?;
        for of_seed in students {
            all.extend(of_seed?);
        }
        let place = |id: &str| ROWS.iter().position(|row| row.0 == id);
        all.sort_by_key(|(seed, id, _)| (place(id), *seed));
        let vocab = bench.text.vocab();
        let found = all.into_iter().map(|(seed, row, trained)| {
            let shape = match row {
                TEACHER => PR.shape(vocab),
                _ => STUDENT.shape(vocab),
            };
            let [weights, active] = weights(&shape);
            Found {
                row,
                seed,
                weights,
                active,
                trained,
            }
        });
        Ok(Measured {
            found: found.collect(),
            calibrated,
            facts: bench.facts,
        })
    }

    fn show(&self, _: &Lab, measured: Measured) -> Result<Outcome> {
        measured.outcome(self)
    }
}

impl Measured {
    fn outcome(&self, options: &Mos) -> Result<Outcome> {
        let found = &self.found;
        let differences: Vec<Difference> = PAIRS
            .iter()
            .filter_map(|pair| difference(found, *pair))
            .collect();
        let mut outcome = Outcome::new("Mixture-of-Students. When a teacher helps");
        let at = |row, share| fixed(loss(found, row, share), 3);
        let against = differences
            .iter()
            .find(|d| d.about == PAIRS[2].0)
            .and_then(|d| d.loss[2]);
        let verdict = match against {
            Some((_, [from, _])) if from > 0.0 => {
                "the teacher that stays does worse at the end than the one that leaves after 60 %"
            }
            Some((_, [_, to])) if to < 0.0 => {
                "the teacher that stays does better at the end than the one that leaves after 60 %"
            }
            _ => {
                "at the end the teacher that stays and the one that leaves after 60 % are not told apart"
            }
        };
        outcome.finding = format!(
            "After a quarter of the steps the student has {} nats per token without a teacher and {} with one; at the end {} without, {} with one throughout and {} with one until 60 %, the teacher itself {}: {verdict}.",
            at(NONE, 0.25),
            at(FULL, 0.25),
            at(NONE, 1.0),
            at(FULL, 1.0),
            at(STAGED[1].0, 1.0),
            at(TEACHER, 1.0),
        );
        let mut table = Table::new(["Model"].into_iter().chain(compare::COLUMNS));
        for (id, name) in ROWS {
            if let Some(cells) = compare::cells(found, id) {
                table.push([name.to_owned()].into_iter().chain(cells));
            }
        }
        outcome.table("mos", "", table, compare::CAPTION);
        let drawn = [
            (TEACHER, Tone::Muted),
            (NONE, Tone::Original),
            (FULL, Tone::Other),
            (STAGED[1].0, Tone::Super),
        ];
        let series = drawn.iter().filter_map(|&(id, tone)| {
            let name = ROWS.iter().find(|row| row.0 == id)?.1;
            curve(found, id, name, tone)
        });
        outcome.figure(
            "mos-curves",
            "Loss on held-out text during training",
            vec![Panel::Chart(Chart {
                title: String::new(),
                x: Axis::linear("steps"),
                y: Axis::linear("nats per token"),
                series: series.collect(),
                guides: vec![],
            })],
            "Means over seeds. The paper's figure of this kind shows a teacher that helps first and hurts in the end.",
        );
        outcome.table(
            "mos-paired",
            "One against another on the same text",
            compare::paired(&differences),
            compare::PAIRED,
        );
        let expected = self.expected(options);
        if !expected.is_empty() {
            outcome.table(
                "mos-expected",
                "What was expected, and whether it came so",
                compare::expected(&expected),
                "The first bound is half of what a pilot with one seed in another program found, set before this code was run. The second is what the paper says, that a teacher that stays hurts in the end: either answer is a result.",
            );
        }
        outcome.table(
            "mos-published",
            "Published: other models, other data",
            published::table(),
            published::CAPTION,
        );
        outcome.notes = vec![format!(
            "{} facts; the student has three layers with 4, 8 and 8 residual experts, the teacher four with 4, 4, 8 and 8. Loss: the text's, the auxiliary one, and {} T^2 KL(teacher || student) at T = {}, over all predicted tokens. Until a teacher leaves, its student is the one that it stays with.",
            grouped(self.facts),
            options.weight,
            options.temperature
        )];
        outcome.data("found", found)?;
        outcome.data("paired", &differences)?;
        outcome.data("expected", &expected)?;
        outcome.data("calibrated", &self.calibrated)?;
        outcome.data("facts", self.facts)?;
        Ok(outcome)
    }

    /// The thresholds of the pilot, which hold for its setting alone.
    fn expected(&self, options: &Mos) -> Vec<Expected> {
        if (self.facts, options.steps, options.sequences) != (FACTS, STEPS, SEQUENCES) {
            return vec![];
        }
        let less = |a, b, share| Some(loss(&self.found, a, share)? - loss(&self.found, b, share)?);
        let helps = less(FULL, NONE, 0.25).map(|measured| Expected {
            what: "25 %: with a teacher less without",
            bound: "at most -.15",
            measured,
            holds: measured <= -0.15,
        });
        let hurts = less(FULL, STAGED[1].0, 1.0).map(|measured| Expected {
            what: "end: teacher throughout less until 60 %",
            bound: "above 0",
            measured,
            holds: measured > 0.0,
        });
        [helps, hurts].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_what_a_training_of_its_own_is() {
        let options = Options {
            steps: 5,
            sequences: 1,
            texts: 2,
            questions: 4,
        };
        let mos = Mos {
            seeds: 1,
            steps: 5,
            sequences: 1,
            facts: Facts::Number(24),
            weight: 1.0,
            temperature: 2.0,
        };
        let bench = Bench::new(24, 2, super::super::LEN, 4).unwrap();
        let [one, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let teacher = mos.teacher(1, &options, &bench);
        teacher.run(&bench, one.path(), None, true).unwrap();
        let all = mos.students(1, &options, &bench, one.path()).unwrap();
        let teacher = teacher.params(one.path()).unwrap();
        assert_eq!(all.len(), 4);
        for (id, branch) in all {
            let percent = STAGED
                .iter()
                .find(|row| row.0 == id)
                .map_or(100, |row| row.2);
            let recipe = mos.student(1, id, Some(5 * percent / 100), &options, &bench);
            let alone = recipe
                .run(&bench, other.path(), Some(&teacher), true)
                .unwrap();
            assert_eq!(
                (&alone.marks, &alone.recall),
                (&branch.marks, &branch.recall),
                "{id}"
            );
            let [a, b] = [one.path(), other.path()].map(|dir| recipe.params(dir).unwrap());
            assert_eq!(a, b, "{id}");
        }
    }
}
