//! Figures 5 and 11: what the model says next, before and after.

use anyhow::{Context, Result, ensure};
use clap::Args;
use ndarray::Axis as Dim;
use serde::Serialize;
use sw_eval::{Runtime, Task, paired_bootstrap};
use sw_model::Tokenizer;

use super::{
    Experiment,
    function_words::{is_function_word, is_punctuation},
};
use crate::{
    lab::Lab,
    outcome::{Headline, Outcome},
    page::{
        chart::{Axis, Chart, Mark, Panel, Series, Tone, points},
        table::{Table, fixed, signed},
    },
    paired::RESAMPLES,
    published,
};

/// Show next-token probabilities before and after the super weight is set to zero, over LAMBADA prompts.
///
/// Example:
///   cargo xtask reproduce-figure5 --model MODEL --data DATA --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Figure5 {
    /// Tokens shown (Figure 11 shows 50)
    #[arg(long, value_name = "N", default_value_t = 50)]
    top: usize,
}

/// Prompts, as in the released code.
const PROMPTS: usize = 500;
/// Tokens of Figure 5 itself.
const FIRST: usize = 10;
/// The mass of so many tokens is reported.
const MASS: usize = 100;

/// Next-token distributions of one setting over the prompts.
#[derive(Serialize)]
struct Next {
    /// The mean probability of every token.
    #[serde(skip)]
    mean: Vec<f64>,
    /// Mean over the prompts of the distribution's entropy, in nats.
    entropy: f64,
    /// Mean probability of the original's most probable tokens together.
    mass: f64,
    /// Mean probability of the tokens of each class together, in the order of [`CLASSES`].
    classes: [f64; 2],
    /// `classes` of each prompt by itself.
    #[serde(skip)]
    each: Vec<[f64; 2]>,
}

/// Whether a token is of a class.
type Is = fn(&str) -> bool;

/// Classes of tokens whose probability is added up.
const CLASSES: [(&str, Is); 2] = [
    ("function words", is_function_word),
    ("punctuation", is_punctuation),
];

/// What Figure 5 measures.
pub(crate) struct Measured {
    /// How many prompts there are.
    prompts: usize,
    original: Next,
    pruned: Next,
    /// Ids by their original probability, the most probable first.
    order: Vec<usize>,
}

impl Experiment for Figure5 {
    const NAME: &'static str = "figure5";

    type Measured = Measured;

    fn measure(&self, lab: &Lab) -> Result<Measured> {
        let prompts = lambada(lab, lab.inputs.limit.unwrap_or(PROMPTS))?;
        let tokens: Vec<_> = prompts
            .iter()
            .map(|text| lab.inputs.encode(&lab.model, text))
            .collect::<Result<_>>()?;
        let tokenizer = lab.model.tokenizer()?;
        let ids = 0..lab.model.spec().vocab_size;
        let names: Vec<String> = ids.map(|id| spelled(tokenizer, id)).collect();
        let members = CLASSES.map(|(_, is)| {
            let of = names.iter().enumerate().filter(|(_, name)| is(name));
            of.map(|(id, _)| id).collect::<Vec<_>>()
        });
        let mut original = next(&lab.runtime(&[])?, &tokens, &members)?;
        let mut pruned = next(&lab.runtime(&[lab.prune()?])?, &tokens, &members)?;
        let order = most_probable(&original.mean);
        for setting in [&mut original, &mut pruned] {
            setting.mass = order.iter().take(MASS).map(|&id| setting.mean[id]).sum();
        }
        Ok(Measured {
            prompts: tokens.len(),
            original,
            pruned,
            order,
        })
    }

    fn show(&self, lab: &Lab, measured: Measured) -> Result<Outcome> {
        let Measured {
            prompts,
            original,
            pruned,
            order,
        } = measured;
        let tokenizer = lab.model.tokenizer()?;
        let shown: Vec<usize> = order.iter().copied().take(self.top.max(1)).collect();
        let mut outcome = Outcome::new("Figures 5 and 11. What the model says next");
        let best = shown[0];
        outcome.finding = format!(
            "Over {} prompts, the most probable next token {:?} goes from {:.4} to {:.4} on average; the {MASS} most probable tokens together from {:.3} to {:.3}; the entropy from {:.2} to {:.2} nats.",
            prompts,
            spelled(tokenizer, best),
            original.mean[best],
            pruned.mean[best],
            original.mass,
            pruned.mass,
            original.entropy,
            pruned.entropy,
        );
        outcome.headline = Some(Headline {
            number: format!(
                "{}: {:.3} \u{2192} {:.3}",
                spelled(tokenizer, best),
                original.mean[best],
                pruned.mean[best]
            ),
            text: "the most probable next token, over LAMBADA prompts".into(),
        });
        let panel = |ids: &[usize], title: String| {
            let series = |name, tone, next: &Next| {
                let xy = ids
                    .iter()
                    .enumerate()
                    .map(|(i, &id)| (next.mean[id].max(1e-12), i as f64));
                Series::new(name, Mark::Dots, tone, points(xy))
            };
            Panel::Chart(Chart {
                title,
                x: Axis::log("mean probability of being next (logarithmic)"),
                y: Axis::bands("", ids.iter().map(|&id| spelled(tokenizer, id))),
                series: vec![
                    series("as it is", Tone::Original, &original),
                    series("super weight at zero", Tone::Super, &pruned),
                ],
                guides: vec![],
            })
        };
        let caption = format!(
            "Mean over {} LAMBADA test texts without their last word; tokens by their original probability. The space that begins a token is drawn as \u{2423}.",
            prompts
        );
        let few = &shown[..FIRST.min(shown.len())];
        outcome.figure(
            "figure5",
            "",
            vec![panel(
                few,
                format!("The {} most probable tokens", few.len()),
            )],
            &caption,
        );
        let halves = shown.chunks(shown.len().div_ceil(2).max(1));
        let mut first = 1;
        let panels = halves.map(|ids| {
            let title = format!("Tokens {first} to {}", first + ids.len() - 1);
            first += ids.len();
            panel(ids, title)
        });
        outcome.figure(
            "figure11",
            format!("Figure 11. The {} most probable tokens", shown.len()),
            panels.collect(),
            &caption,
        );

        let rising = risen(&original.mean, &pruned.mean, FIRST);
        if let [most, ..] = rising[..] {
            outcome.finding += &format!(
                " What rises most is {:?}, from {:.4} to {:.4}.",
                spelled(tokenizer, most),
                original.mean[most],
                pruned.mean[most]
            );
            outcome.figure(
                "figure5-rising",
                "What rises",
                vec![panel(
                    &rising,
                    format!("The {} tokens that gain most", rising.len()),
                )],
                "The same prompts; tokens by what their mean probability gains when the super weight is set to zero.",
            );
        }

        let mut classes = Table::new([
            "Tokens",
            "as it is",
            "super weight at zero",
            "change",
            "from",
            "to",
        ]);
        for (i, (name, _)) in CLASSES.iter().enumerate() {
            let gains = original.each.iter().zip(&pruned.each);
            let gains: Vec<f64> = gains.map(|(a, b)| b[i] - a[i]).collect();
            let interval = paired_bootstrap(&gains, RESAMPLES, 0).map(|b| b.interval);
            let (before, after) = (original.classes[i], pruned.classes[i]);
            classes.push([
                (*name).to_owned(),
                format!("{before:.4}"),
                format!("{after:.4}"),
                signed(Some(after - before), 4),
                signed(interval.map(|i| i[0]), 4),
                signed(interval.map(|i| i[1]), 4),
            ]);
            if let (0, Some([low, high])) = (i, interval) {
                outcome.finding += &format!(
                    " Function words together go from {before:.3} to {after:.3} (95 % interval of the change {low:+.3} to {high:+.3}); the paper's text says that stopwords rise."
                );
            }
        }
        outcome.table(
            "figure5-stopwords",
            "Function words and punctuation",
            classes,
            "Mean probability of all tokens of a class together, and the change with its paired 95 % interval over prompts. Function words: determiners, pronouns, prepositions, conjunctions, auxiliary verbs and particles of English, with or without a space before them, in either case (the list is in xtask/src/reproduce/function_words.rs); a word of several tokens is not among them.",
        );

        let published = lab.known.as_deref().map_or(&[][..], published::figure5);
        let mut header = vec!["Token", "as it is", "super weight at zero", "ratio"];
        if !published.is_empty() {
            header.push("ratio, the paper");
        }
        let mut table = Table::new(header);
        for &id in &shown {
            let (a, b) = (original.mean[id], pruned.mean[id]);
            let name = spelled(tokenizer, id);
            let mut row = vec![
                name.clone(),
                format!("{a:.4}"),
                format!("{b:.4}"),
                format!("{:.2}", b / a),
            ];
            if !published.is_empty() {
                let paper = published
                    .iter()
                    .find(|p| p.0 == name.trim_start_matches('\u{2423}'));
                row.push(fixed(paper.map(|p| p.1), 2));
            }
            table.push(row);
        }
        outcome.table(
            "figure5-tokens",
            "Token by token",
            table,
            "Mean probabilities, and after over before; by the original probability.",
        );
        let mut table = Table::new(["Setting", "Top-100 mass", "Entropy (nats)"]);
        for (name, next) in [("as it is", &original), ("super weight at zero", &pruned)] {
            table.push([
                name.to_owned(),
                format!("{:.4}", next.mass),
                format!("{:.4}", next.entropy),
            ]);
        }
        outcome.table("figure5-summary", "The distributions", table, "Mass of the 100 tokens that are most probable in the original; entropy as a mean over the prompts.");
        outcome.notes.push("The paper draws a fixed set of stopwords; no list of them is published, so the figures show the model's own most probable tokens and those that rise most, and the table of classes goes by word class.".into());
        outcome.data("super_weights", lab.found()?.json())?;
        outcome.data("original", &original)?;
        outcome.data("pruned", &pruned)?;
        let tokens = shown.iter().map(|&id| {
            serde_json::json!({ "id": id, "token": spelled(tokenizer, id), "original": original.mean[id], "pruned": pruned.mean[id] })
        });
        outcome.data("tokens", tokens.collect::<Vec<_>>())?;
        Ok(outcome)
    }
}

/// The beginnings of LAMBADA's texts: all but the last word.
pub(super) fn lambada(lab: &Lab, count: usize) -> Result<Vec<String>> {
    let task = Task::named("lambada_openai")?;
    let files = lab.data.files(&task.dataset)?;
    let test = files
        .get(&task.split)
        .with_context(|| format!("no prompts: {}", lab.data.missing(&task.dataset)))?;
    let mut prompts = Vec::new();
    for doc in sw_eval::read(test)?.iter().take(count) {
        let text = doc.text("text")?;
        prompts.push(text.rsplit_once(' ').map_or(text, |t| t.0).to_owned());
    }
    ensure!(!prompts.is_empty(), "no prompts: --limit is 0");
    Ok(prompts)
}

/// Mean next-token distribution over prompts; `mass` is left at zero. `members`: the ids of each class.
fn next(runtime: &Runtime, prompts: &[Vec<u32>], members: &[Vec<usize>; 2]) -> Result<Next> {
    let (mut classes, mut all) = ([0.0; 2], Vec::new());
    let mut mean = vec![0.0; runtime.model().spec().vocab_size];
    let mut entropy = 0.0;
    for tokens in prompts {
        let rows = runtime.rows(tokens)?;
        let last = rows.slice_axis(Dim(0), (rows.nrows() - 1..).into());
        let logits = runtime.model().logits(last)?;
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let each: Vec<f64> = logits
            .iter()
            .map(|&l| f64::from(l - largest).exp())
            .collect();
        let total: f64 = each.iter().sum();
        let of = |ids: &Vec<usize>| ids.iter().map(|&id| each[id]).sum::<f64>() / total;
        let masses = members.each_ref().map(of);
        all.push(masses);
        classes = [0, 1].map(|i| classes[i] + masses[i] / prompts.len() as f64);
        for (sum, e) in mean.iter_mut().zip(&each) {
            let p = e / total;
            *sum += p / prompts.len() as f64;
            if p > 0.0 {
                entropy -= p * p.ln() / prompts.len() as f64;
            }
        }
    }
    Ok(Next {
        mean,
        entropy,
        mass: 0.0,
        classes,
        each: all,
    })
}

/// Ids by their probability, the most probable first.
pub(super) fn most_probable(mean: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..mean.len()).collect();
    order.sort_by(|&a, &b| mean[b].total_cmp(&mean[a]));
    order
}

/// Ids of the tokens whose probability gains most, the largest gain first; those that lose are not among them.
fn risen(before: &[f64], after: &[f64], count: usize) -> Vec<usize> {
    let gain = |&id: &usize| after[id] - before[id];
    let mut ids: Vec<usize> = (0..before.len()).filter(|id| gain(id) > 0.0).collect();
    ids.sort_by(|a, b| gain(b).total_cmp(&gain(a)));
    ids.truncate(count);
    ids
}

/// A token as people read it.
pub(super) fn spelled(tokenizer: &Tokenizer, id: usize) -> String {
    let token = tokenizer
        .token(id as u32)
        .unwrap_or_else(|| format!("#{id}"));
    token
        .replace(['\u{2581}', '\u{120}'], "\u{2423}")
        .replace(['\u{10a}', '\n'], "\u{21b5}")
}
