//! What the trainings came to: tables and figures.

use anyhow::Result;

use super::{
    Measured, Smt,
    bench::Found,
    compare::{Difference, PAIRS, of_map, paired},
    published,
    rows::{Row, What},
};
use crate::{
    outcome::{Content, Headline, Outcome},
    page::{
        chart::{Along, Axis, Chart, Guide, Mark, Panel, Series, Tone, points},
        table::{Table, fixed, grouped, signed},
    },
};

/// Rows of several seeds.
pub(super) struct Shown<'m> {
    pub(super) measured: &'m Measured,
    rows: Vec<&'static Row>,
}

pub(super) fn outcome(smt: &Smt, measured: &Measured) -> Result<Outcome> {
    let shown = Shown {
        measured,
        rows: smt.chosen()?,
    };
    let differences: Vec<Difference> = PAIRS
        .into_iter()
        .filter_map(|p| shown.difference(p))
        .collect();
    let expected = shown.expected();
    let mut outcome =
        Outcome::new("Sparse Matrix Tuning, LoRA, DoRA and full training on a new lore");
    outcome.finding = shown.finding(&differences);
    if let Some(mlp) = shown.mean("smt-mlp", |f| f.quiz_share[0]) {
        outcome.headline = Some(Headline {
            number: format!("{:.0} %", 100.0 * mlp),
            text: "of the questions on a new lore are answered after training .86 % of the weights, tiles of the MLP".into(),
        });
    }
    let seeds = smt.seeds;
    outcome.table(
        "smt",
        "Learned and forgotten",
        shown.main(),
        format!(
            "Means over {seeds} seed(s) of {} steps of {} x 128 tokens. Quiz: questions whose whole answer is the most probable one, of 84 on each lore; tasks: mean accuracy of seven (percent). Loss in nats per token of held-out texts: on the new lore, and of all kinds that the checkpoint was grown on, the old lore among them. The old lore is false in the new text, so that forgetting it is part of the task. Rates are the best of a search that is recorded in the repository, by held-out loss, on a seed that no row has. Not searched: DoRA has LoRA's rate, linear maps and frozen super weights that of full training, other scores that of SMT on the same maps, split budgets that of SMT on the MLP.",
            smt.steps, smt.sequences
        ),
    );
    outcome.table(
        "smt-paired",
        "Paired differences",
        paired(&differences),
        "First less second, in points, on the new lore: the same questions, all seeds together, with 95 % intervals of a bootstrap over questions.",
    );
    outcome.table(
        "smt-expected",
        "What a pilot led to expect",
        expected,
        "Each seed by itself, the least of them; a failed expectation stays as it is.",
    );
    outcome.table(
        "smt-picks",
        "Where the tiles are",
        shown.picks(),
        format!("Tiles of {0} x {0} by linear map, means over seeds; the paper finds most of a QKV budget in V.", smt.tile),
    );
    outcome.figure(
        "smt-layers",
        "",
        shown.layers(measured.layers),
        "Tiles by layer and linear map, means over seeds (the paper's Figures 4 and 5).",
    );
    outcome.figure(
        "smt-plateau",
        "Share against what is learned",
        vec![shown.plateau()],
        "Share of all weights that is trained against the quiz on the new lore, means over seeds (the paper's Figure 3, which has LoRA and DoRA level off and SMT rise).",
    );
    outcome.table(
        "smt-split",
        "One budget between attention and MLP",
        shown.split(),
        "Quiz on the new lore (percent) beside the published averages over eight tasks (Table 4 of arXiv 2405.15525): another model and other data, so only the order can be compared.",
    );
    outcome.table(
        "smt-super",
        "The super weight",
        shown.super_weight(),
        "Whether it was among what is trained, its value before and after (mean over seeds), whether detection finds it first in the tuned model (seeds of all), and what setting it to zero costs then (nats per token of new text).",
    );
    outcome.table(
        "smt-cost",
        "What a step holds",
        shown.cost(),
        "Bytes of f32 weights that are held because some of them are trained, of gradients and of moments (3 x 4 bytes per trained number). Weight gradients are a third of the arithmetic of a linear map's step, so leaving them out saves at most a factor of 1.5; the published factor of 14.6 sets full training with offloaded optimiser state against a method that needs no offload. Seconds per step are in the JSON.",
    );
    outcome.table(
        "smt-published",
        "Published figures",
        published::table(),
        published::CAPTION,
    );
    // Some rows by themselves have no use for all of them.
    outcome.blocks.retain(|block| match &block.content {
        Content::Table(table) => !table.rows.is_empty(),
        Content::Figure(panels) => !panels.is_empty(),
    });
    outcome.notes.push("What is taught is lore: which of 28 tools serves which aim and where it is kept, permuted by the seed. The training texts are the documents of the checkpoint's own grammar that speak of it: statements, questions and answers, endings.".into());
    outcome.notes.push("The warm-up only looks (its gradients are summed) but in the rows that say so; a warm-up that trains counts as steps.".into());
    outcome.data("found", &measured.found)?;
    outcome.data("differences", &differences)?;
    outcome.data("cost", &measured.cost)?;
    outcome.data("rates", &measured.searched)?;
    outcome.data("parameters", measured.parameters)?;
    Ok(outcome)
}

impl Shown<'_> {
    pub(super) fn all<'s>(&'s self, id: &'s str) -> impl Iterator<Item = &'s Found> {
        self.measured.found.iter().filter(move |f| f.row == id)
    }

    fn mean(&self, id: &str, of: impl Fn(&Found) -> f64) -> Option<f64> {
        let all: Vec<f64> = self.all(id).map(of).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }

    fn percent(&self, id: &str, of: impl Fn(&Found) -> f64) -> String {
        fixed(self.mean(id, of).map(|v| 100.0 * v), 1)
    }

    fn share(&self, id: &str) -> Option<f64> {
        let trained = self.mean(id, |f| f.trained as f64)?;
        Some(trained / self.measured.parameters as f64)
    }

    fn main(&self) -> Table {
        let mut table = Table::new([
            "Row",
            "trained (%)",
            "rate",
            "quiz, new (%)",
            "quiz, old (%)",
            "tasks, new (%)",
            "tasks, old (%)",
            "loss, new",
            "loss, all kinds",
        ]);
        for row in &self.rows {
            let id = row.id;
            table.push([
                row.name.to_owned(),
                fixed(self.share(id).map(|v| 100.0 * v), 3),
                self.mean(id, |f| f64::from(f.rate))
                    .filter(|r| *r > 0.0)
                    .map_or("-".into(), |r| format!("{r:.4}")),
                self.percent(id, |f| f.quiz_share[0]),
                self.percent(id, |f| f.quiz_share[1]),
                self.percent(id, |f| f.accuracy[0]),
                self.percent(id, |f| f.accuracy[1]),
                fixed(self.mean(id, |f| f.loss[0]), 3),
                fixed(self.mean(id, |f| f.loss[1]), 3),
            ]);
        }
        table
    }

    fn picks(&self) -> Table {
        const MAPS: [&str; 7] = [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ];
        let mut table = Table::new(["Row"].into_iter().chain(MAPS));
        for row in self.tiled() {
            let cells = MAPS.map(|map| fixed(self.mean(row.id, |f| of_map(f, map)), 1));
            table.push([row.name.to_owned()].into_iter().chain(cells));
        }
        table
    }

    fn tiled(&self) -> impl Iterator<Item = &'static Row> + '_ {
        let tiled =
            |row: &&&'static Row| matches!(row.what, What::Tiles(..) | What::TilesTrained(_));
        self.rows.iter().filter(tiled).copied()
    }

    fn layers(&self, layers: usize) -> Vec<Panel> {
        const TONES: [Tone; 7] = [
            Tone::Original,
            Tone::Other,
            Tone::Super,
            Tone::Third,
            Tone::Fourth,
            Tone::Fifth,
            Tone::Muted,
        ];
        const MAPS: [&str; 7] = [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ];
        let chart = |row: &Row| {
            let of = |(map, tone): (&&str, &Tone)| {
                let at = |l: usize| {
                    self.mean(row.id, |f| f.picks.get(*map).map_or(0.0, |p| p[l] as f64))
                };
                let ys = (0..layers).map(|l| (l as f64, at(l).unwrap_or(0.0)));
                let ys: Vec<_> = ys.collect();
                ys.iter()
                    .any(|p| p.1 > 0.0)
                    .then(|| Series::new(*map, Mark::Line, *tone, points(ys)))
            };
            Panel::Chart(Chart {
                title: row.name.into(),
                x: Axis::linear("layer"),
                y: Axis::linear("tiles"),
                series: MAPS.iter().zip(&TONES).filter_map(of).collect(),
                guides: vec![],
            })
        };
        let shown = ["smt-qkv", "smt-all", "smt-all-large"];
        self.tiled()
            .filter(|row| shown.contains(&row.id))
            .map(chart)
            .collect()
    }

    fn plateau(&self) -> Panel {
        let lines: [(&str, Tone, bool, [&str; 2]); 6] = [
            ("SMT, MLP", Tone::Super, false, ["smt-mlp", "smt-mlp-large"]),
            ("SMT, all", Tone::Third, false, ["smt-all", "smt-all-large"]),
            (
                "SMT, QKV",
                Tone::Fourth,
                false,
                ["smt-qkv", "smt-qkv-large"],
            ),
            (
                "LoRA, all",
                Tone::Other,
                false,
                ["lora-all", "lora-all-large"],
            ),
            (
                "LoRA, QKV",
                Tone::Other,
                true,
                ["lora-qkv", "lora-qkv-large"],
            ),
            (
                "DoRA, QKV",
                Tone::Fifth,
                true,
                ["dora-qkv", "dora-qkv-large"],
            ),
        ];
        let series = lines.into_iter().map(|(name, tone, dashed, ids)| {
            let point = |id: &&str| {
                let quiz = self.mean(id, |f| f.quiz_share[0])?;
                Some((100.0 * self.share(id)?, 100.0 * quiz))
            };
            let series = Series::new(name, Mark::Line, tone, points(ids.iter().filter_map(point)));
            if dashed { series.dashed() } else { series }
        });
        let full = self.mean("full", |f| 100.0 * f.quiz_share[0]);
        let guide = |at| Guide {
            along: Along::Y,
            at,
            label: "full".into(),
            tone: Tone::Muted,
        };
        Panel::Chart(Chart {
            title: String::new(),
            x: Axis::log("trained weights (percent)"),
            y: Axis::linear("quiz on the new lore (percent)"),
            series: series.collect(),
            guides: full.map(guide).into_iter().collect(),
        })
    }

    fn split(&self) -> Table {
        let mut table = Table::new([
            "MLP : attention (% of all weights)",
            "quiz, new (%)",
            "the paper's average, LLaMA-7B",
        ]);
        for (id, name, published) in [
            ("smt-mlp", ".86 : 0", "76.7"),
            ("split-even", ".43 : .43", "77.3"),
            ("split-attention", ".21 : .65", "77.8"),
            ("smt-qkv", "0 : .86", "78.7"),
        ] {
            if self.all(id).next().is_some() {
                table.push([
                    name.to_owned(),
                    self.percent(id, |f| f.quiz_share[0]),
                    published.to_owned(),
                ]);
            }
        }
        table
    }

    fn super_weight(&self) -> Table {
        let mut table = Table::new([
            "Row",
            "trained (seeds)",
            "before",
            "after",
            "first in detection (seeds)",
            "cost of zeroing",
            "quiz, new (%)",
        ]);
        for row in &self.rows {
            let n = self.all(row.id).count();
            let count = |of: fn(&Found) -> bool| {
                format!("{} of {n}", self.all(row.id).filter(|f| of(f)).count())
            };
            table.push([
                row.name.to_owned(),
                count(|f| f.super_weight.trained),
                fixed(self.mean(row.id, |f| f64::from(f.super_weight.before)), 3),
                fixed(self.mean(row.id, |f| f64::from(f.super_weight.after)), 3),
                count(|f| f.super_weight.first),
                signed(self.mean(row.id, |f| f.super_weight.worth), 3),
                self.percent(row.id, |f| f.quiz_share[0]),
            ]);
        }
        table
    }

    fn cost(&self) -> Table {
        let mut table = Table::new([
            "Row",
            "trained",
            "weights in f32 (bytes)",
            "gradients (bytes)",
            "moments (bytes)",
            "tape (bytes)",
        ]);
        for cost in &self.measured.cost {
            let name = self.rows.iter().find(|row| row.id == cost.row);
            let bytes = cost.bytes;
            let bytes = [bytes.weights, bytes.gradients, bytes.moments, bytes.tape];
            let mut row = vec![
                name.map_or("", |row| row.name).to_owned(),
                grouped(cost.trained),
            ];
            row.extend(bytes.map(grouped));
            table.push(row);
        }
        table
    }

    fn finding(&self, differences: &[Difference]) -> String {
        let quiz = |id: &str| self.mean(id, |f| 100.0 * f.quiz_share[0]);
        let mut sentences = Vec::new();
        if let (Some(base), Some(full)) = (quiz("base"), quiz("full")) {
            sentences.push(format!("The checkpoint as it is answers {base:.0} % of the questions on the new lore, and {full:.0} % after full training."));
        }
        if let (Some(mlp), Some(qkv)) = (quiz("smt-mlp"), quiz("smt-qkv")) {
            sentences.push(format!("Training .86 % of the weights in tiles of the MLP brings it to {mlp:.0} %, in tiles of QKV, the paper's pool, to {qkv:.0} %."));
        }
        for d in differences
            .iter()
            .filter(|d| ["smt-mlp", "smt-qkv"].contains(&d.first))
        {
            if let Some((difference, [low, high])) = d.quiz {
                sentences.push(format!(
                    "{}: {:+.1} points ({:+.1} to {:+.1}).",
                    capital(d.about),
                    100.0 * difference,
                    100.0 * low,
                    100.0 * high
                ));
            }
        }
        sentences.join(" ")
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}
