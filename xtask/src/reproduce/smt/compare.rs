//! Rows against each other on the same questions, and against what was expected.

use serde::Serialize;
use sw_eval::paired_bootstrap;

use super::{bench::Found, show::Shown};
use crate::page::table::{Table, signed};

/// What is compared, first against second: what it is about, and two rows.
pub(super) const PAIRS: [(&str, &str, &str); 10] = [
    (
        "tiles of QKV: chosen against random, .86 %",
        "smt-qkv",
        "random-qkv",
    ),
    (
        "tiles of the MLP: chosen against random, .86 %",
        "smt-mlp",
        "random-mlp",
    ),
    ("QKV: SMT against LoRA, .9 %", "smt-qkv", "lora-qkv"),
    ("QKV: SMT against DoRA, .9 %", "smt-qkv", "dora-qkv"),
    (
        "QKV: SMT against LoRA, 4.9 %",
        "smt-qkv-large",
        "lora-qkv-large",
    ),
    (
        "QKV: SMT against DoRA, 4.9 %",
        "smt-qkv-large",
        "dora-qkv-large",
    ),
    ("all maps: SMT against LoRA, .9 %", "smt-all", "lora-all"),
    (
        "all maps: SMT against LoRA, 4.9 %",
        "smt-all-large",
        "lora-all-large",
    ),
    (
        "best pool: SMT of the MLP against LoRA of all maps",
        "smt-mlp",
        "lora-all",
    ),
    (
        "full training: super weights frozen against trained",
        "full-frozen",
        "full",
    ),
];

/// Draws of the bootstrap.
const RESAMPLES: usize = 2000;

/// How two rows differ on the same questions.
#[derive(Serialize)]
pub(super) struct Difference {
    pub(super) about: &'static str,
    pub(super) first: &'static str,
    second: &'static str,
    /// Difference of the shares of right answers to the quiz on the new lore, and its interval.
    pub(super) quiz: Option<(f64, [f64; 2])>,
    /// Difference of the means over the tasks on the new lore, and its interval.
    tasks: Option<(f64, [f64; 2])>,
}

impl Shown<'_> {
    /// First less second on the same questions of all seeds.
    pub(super) fn difference(
        &self,
        (about, first, second): (&'static str, &'static str, &'static str),
    ) -> Option<Difference> {
        let pairs: Vec<(&Found, &Found)> = self
            .all(first)
            .filter_map(|a| Some((a, self.all(second).find(|b| b.seed == a.seed)?)))
            .collect();
        if pairs.is_empty() {
            return None;
        }
        let right = |b: bool| f64::from(u8::from(b));
        let each = |a: &[bool], b: &[bool], weight: f64| -> Vec<f64> {
            let both = a.iter().zip(b);
            both.map(|(a, b)| weight * (right(*a) - right(*b)))
                .collect()
        };
        let quiz: Vec<f64> = pairs
            .iter()
            .flat_map(|(a, b)| each(&a.quiz[0], &b.quiz[0], 1.0))
            .collect();
        // Weighted so that the mean over documents is the mean over tasks of the means over their documents.
        let documents: usize = pairs
            .iter()
            .flat_map(|(a, _)| a.tasks[0].values())
            .map(Vec::len)
            .sum();
        let tasks: Vec<f64> = pairs
            .iter()
            .flat_map(|(a, b)| {
                let weight = |n: usize| {
                    documents as f64 / (pairs.len() * a.tasks[0].len() * n.max(1)) as f64
                };
                let of_task = move |(task, right): (&&'static str, &Vec<bool>)| {
                    let other = b.tasks[0].get(task)?;
                    Some(each(right, other, weight(right.len())))
                };
                a.tasks[0]
                    .iter()
                    .filter_map(of_task)
                    .flatten()
                    .collect::<Vec<_>>()
            })
            .collect();
        let interval = |differences: &[f64]| {
            let found = paired_bootstrap(differences, RESAMPLES, 0)?;
            Some((found.difference, found.interval))
        };
        Some(Difference {
            about,
            first,
            second,
            quiz: interval(&quiz),
            tasks: interval(&tasks),
        })
    }

    /// The thresholds of a pilot with one seed.
    pub(super) fn expected(&self) -> Table {
        let mut table = Table::new(["Expected", "found", "holds"]);
        let least = |id: &str| {
            let all = self.all(id).map(|f| f.quiz_share[0]);
            all.min_by(f64::total_cmp)
        };
        let mut push = |what: &str, found: Option<f64>, at_least: f64| {
            if let Some(found) = found {
                let holds = if found >= at_least { "yes" } else { "NO" };
                table.push([what.to_owned(), format!("{found:.3}"), holds.to_owned()]);
            }
        };
        push("full: quiz at least .99", least("full"), 0.99);
        push("SMT MLP .86 %: quiz at least .9", least("smt-mlp"), 0.9);
        let over_random = self.all("smt-mlp").filter_map(|a| {
            let random = self.all("random-mlp").find(|b| b.seed == a.seed)?;
            Some(a.quiz_share[0] - random.quiz_share[0])
        });
        push(
            "SMT MLP .86 % less random tiles of the MLP: at least 0",
            over_random.min_by(f64::total_cmp),
            0.0,
        );
        push(
            "SMT all 4.9 %: quiz at least .95",
            least("smt-all-large"),
            0.95,
        );
        let v = self
            .all("smt-qkv")
            .map(|f| of_map(f, "v_proj") / of_maps(f));
        push(
            "V's share of QKV tiles at .86 %: at least .7",
            v.min_by(f64::total_cmp),
            0.7,
        );
        table
    }
}

pub(super) fn paired(differences: &[Difference]) -> Table {
    let mut table = Table::new(["Compared", "quiz", "from", "to", "tasks", "from ", "to "]);
    for d in differences {
        let cells = |of: Option<(f64, [f64; 2])>| {
            let percent = |v: Option<f64>| signed(v.map(|v| 100.0 * v), 1);
            [
                percent(of.map(|d| d.0)),
                percent(of.map(|d| d.1[0])),
                percent(of.map(|d| d.1[1])),
            ]
        };
        let row = [d.about.to_owned()].into_iter();
        table.push(row.chain(cells(d.quiz)).chain(cells(d.tasks)));
    }
    table
}

/// Tiles in a map.
pub(super) fn of_map(found: &Found, map: &str) -> f64 {
    let picks = found.picks.get(map);
    picks.map_or(0.0, |layers| layers.iter().sum::<usize>() as f64)
}

/// Tiles in all maps, or one.
fn of_maps(found: &Found) -> f64 {
    let all = found.picks.values().flatten().sum::<usize>();
    all.max(1) as f64
}
