//! What Figure 7 and Table 6 measure: weights quantized in blocks of one size, by several methods.

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Serialize, Serializer};
use serde_json::json;
use sw_eval::Metric;
use sw_intervene::{Intervention, LinearInputs, simplest};
use sw_quant::{
    Clip, Grouping, Levels, Scheme, Tail,
    search::{Search, ZS},
};

use crate::{
    lab::{Lab, PERPLEXITIES, Scores},
    paired::{self, Paired, PairedPerplexity},
};

/// Options of both.
#[derive(Args, Serialize)]
pub(super) struct Shared {
    /// Bits of a code
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(super) bits: u8,
    /// The paper's clip thresholds, in deviations; the first is its main one
    #[arg(
        long,
        value_name = "Z,...",
        value_delimiter = ',',
        default_value = "9,11,12,20"
    )]
    pub(super) paper_z: Vec<f32>,
    /// Calibration tokens that z is searched on
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(super) search_tokens: usize,
}

/// Documents of each task on the embedded checkpoint.
const DOCUMENTS: usize = 200;
/// Windows of the text on the embedded checkpoint.
const WINDOWS: usize = 60;
/// Tokens of one calibration text.
const TEXT: usize = 64;

/// How a matrix is cut.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Layout {
    /// Consecutive elements, as the released code's blocks are.
    Flat,
    /// True squares.
    Tiles,
}

/// What is done at one size.
#[derive(Serialize)]
pub(super) struct Quantized {
    pub(super) method: &'static str,
    pub(super) layout: Layout,
    pub(super) z: Option<f32>,
    pub(super) hold: bool,
    pub(super) interventions: Vec<Intervention>,
    /// Mean accuracy, from 0 to 1.
    pub(super) average: Option<f64>,
    /// Perplexity on the text.
    pub(super) perplexity: Option<f64>,
    /// Its perplexity against that of the model as it is.
    pub(super) perplexity_against_original: Option<PairedPerplexity>,
    /// Its perplexity against that of round-to-nearest in blocks of the same size.
    pub(super) perplexity_against_rtn: Option<PairedPerplexity>,
    /// Over all linear maps the mean of the relative output error on the calibration inputs.
    pub(super) reconstruction: Option<f64>,
    #[serde(skip)]
    pub(super) scores: Scores,
    /// The scores on the windows of the text.
    #[serde(skip)]
    pub(super) windows: Option<Scores>,
}

/// One size of blocks.
#[derive(Serialize)]
pub(super) struct Size {
    /// `None`: one block for each matrix.
    pub(super) side: Option<usize>,
    pub(super) searched_z: f32,
    /// The reconstruction error of ours with each z.
    #[serde(serialize_with = "reconstruction")]
    pub(super) reconstruction: Search,
    pub(super) settings: Vec<Quantized>,
    /// The searched z against the one of the paper's list with the best accuracy.
    pub(super) against_list: Option<Paired>,
    /// Ours, with the searched z, against round-to-nearest.
    pub(super) against_rtn: Option<Paired>,
    /// The perplexity of ours, with the searched z, against round-to-nearest.
    pub(super) perplexity_against_rtn: Option<PairedPerplexity>,
    /// The perplexity of ours, with the searched z, against ours with the paper's main z.
    pub(super) perplexity_against_paper: Option<PairedPerplexity>,
    /// The z of the paper's list with the best accuracy.
    pub(super) list_best: Option<f32>,
}

/// A search as the results have it.
fn reconstruction<S: Serializer>(found: &Search, out: S) -> Result<S::Ok, S::Error> {
    let clipped = json!({ "best": found.best, "error": found.error, "curve": found.curve });
    json!({ "unclipped": found.baseline, "clipped": clipped }).serialize(out)
}

impl Size {
    pub(super) fn name(&self) -> String {
        self.side
            .map_or_else(|| "matrix".into(), |n| format!("{n}\u{b2}"))
    }

    pub(super) fn get(&self, method: &str, layout: Layout) -> Option<&Quantized> {
        self.settings
            .iter()
            .find(|s| s.method == method && s.layout == layout)
    }
}

pub(super) const RTN: &str = "round-to-nearest";
pub(super) const PAPER: &str = "ours, the paper's z";
pub(super) const SEARCHED: &str = "ours, searched z";
pub(super) const CLIP: &str = "clip without restore";
pub(super) const RESTORE: &str = "restore without clip";
pub(super) const LISTED: &str = "ours, z of the paper's list";

/// What all sizes share.
pub(super) struct Bench<'a> {
    lab: &'a Lab,
    shared: &'a Shared,
    tasks: Vec<&'static str>,
    limit: Option<usize>,
    inputs: LinearInputs,
    /// The text whose perplexity is measured; nothing where its data are not there.
    text: Option<&'static str>,
    /// What z is searched on.
    searched_on: String,
    original: Scores,
    /// The windows of the text, with the model as it is.
    windows: Option<Scores>,
}

/// What was measured beside the sizes.
pub(super) struct Subject {
    pub(super) tasks: Vec<&'static str>,
    /// The text whose perplexity is measured.
    pub(super) text: Option<&'static str>,
    /// What z is searched on: how many tokens of which text.
    pub(super) searched_on: String,
    /// The model as it is.
    pub(super) original: Scores,
    /// The scores of the model as it is on the windows of the text.
    pub(super) windows: Option<Scores>,
}

impl Subject {
    pub(super) fn note(&self) -> String {
        format!(
            "z is searched by the output error on {}; no test text is among them.",
            self.searched_on
        )
    }

    /// A note that says which z "the paper's z" is, and how the paper chose it.
    pub(super) fn about_z(&self, shared: &Shared) -> String {
        format!(
            "The paper chooses z for each model and block size on 500 examples of the tasks; \"{PAPER}\" is z = {} throughout.",
            shared.paper_z[0]
        )
    }
}

impl<'a> Bench<'a> {
    pub(super) fn new(lab: &'a Lab, shared: &'a Shared) -> Result<Self> {
        ensure!(
            !shared.paper_z.is_empty() && shared.paper_z.iter().all(|z| *z > 0.0 && z.is_finite()),
            "--paper-z: expected numbers above 0"
        );
        ensure!(
            shared.search_tokens > 0,
            "--search-tokens 0: nothing to search on"
        );
        let tasks = lab.accuracies()?;
        let limit = lab.limit(DOCUMENTS);
        let texts = lab.calibration_texts(shared.search_tokens.div_ceil(2), TEXT)?;
        let inputs = LinearInputs::collect(&lab.model, &texts.texts, shared.search_tokens)?;
        let text = lab.with_data(PERPLEXITIES.map(|t| t.0))?.pop();
        let original = lab.evaluate("original", &tasks, &[], limit)?;
        let windows = text.map(|text| lab.evaluate("original", &[text], &[], lab.limit(WINDOWS)));
        let tokens: usize = texts.texts.iter().map(Vec::len).sum();
        Ok(Self {
            lab,
            shared,
            tasks,
            limit,
            inputs,
            text,
            searched_on: format!(
                "{} tokens of {}",
                tokens.min(shared.search_tokens),
                texts.source
            ),
            original,
            windows: windows.transpose()?,
        })
    }

    fn scheme(&self, side: Option<usize>, layout: Layout) -> Scheme {
        let grouping = match (side, layout) {
            (None, _) => Grouping::Tensor,
            (Some(n), Layout::Flat) => Grouping::flat(n * n).with_tail(Tail::Short),
            (Some(n), Layout::Tiles) => Grouping::tile(n, n).with_tail(Tail::Short),
        };
        Scheme::new(Levels::asymmetric(self.shared.bits), grouping)
    }

    /// All z that are compared: the usual ones and the paper's.
    fn zs(&self) -> Vec<f32> {
        let mut zs: Vec<f32> = ZS.iter().chain(&self.shared.paper_z).copied().collect();
        zs.sort_by(f32::total_cmp);
        zs.dedup();
        zs
    }

    fn quantize(
        &self,
        method: &'static str,
        side: Option<usize>,
        layout: Layout,
        z: Option<f32>,
        hold: bool,
    ) -> Result<Quantized> {
        let mut scheme = self.scheme(side, layout);
        if let Some(z) = z {
            scheme = simplest(&self.lab.model, &scheme.with_clip(Clip::ZScore { z }))?;
        }
        let coords = if hold {
            self.lab.found()?.coords.clone()
        } else {
            vec![]
        };
        let interventions = vec![Intervention::QuantizeWeights {
            scheme,
            hold: coords,
            arithmetic: Default::default(),
        }];
        let block = side.map_or_else(|| "matrix".into(), |n| format!("{n}x{n}"));
        let label = format!("{method}, {block}");
        let text = self.text.as_slice();
        let lists: [(&[&str], _); 2] = [(&self.tasks, self.limit), (text, self.lab.limit(WINDOWS))];
        let lists = &lists[..1 + text.len()];
        let mut each = self
            .lab
            .evaluate_each(&label, lists, &interventions)?
            .into_iter();
        let scores = each.next().context("scores of the tasks")?;
        let windows = each.next();
        let perplexity = |scores: &Scores| scores.value(self.text?, Metric::Perplexity);
        let against =
            |scores: &Scores| paired::perplexities(self.windows.as_ref()?, scores, self.text?);
        Ok(Quantized {
            method,
            layout,
            z,
            hold,
            interventions,
            average: scores.average(self.tasks.iter().copied()),
            perplexity: windows.as_ref().and_then(perplexity),
            perplexity_against_original: windows.as_ref().and_then(against),
            perplexity_against_rtn: None,
            reconstruction: None,
            scores,
            windows,
        })
    }

    /// Everything at one size; `parts`: the method's parts, the rest of the paper's list, and tiles too.
    pub(super) fn size(&self, side: Option<usize>, parts: bool) -> Result<Size> {
        let coords = &self.lab.found()?.coords;
        let scheme = self.scheme(side, Layout::Flat);
        let model = &self.lab.model;
        let found = self
            .inputs
            .reconstruction(model, &scheme, coords, &self.zs())?;
        let z = found.best;
        let plain = self.inputs.reconstruction(model, &scheme, &[], &[z])?;
        let first = self.shared.paper_z[0];
        let mut settings = vec![
            self.quantize(RTN, side, Layout::Flat, None, false)?,
            self.quantize(PAPER, side, Layout::Flat, Some(first), true)?,
            self.quantize(SEARCHED, side, Layout::Flat, Some(z), true)?,
        ];
        let errors = [Some(plain.baseline), found.at(first), found.at(z)];
        for (setting, error) in settings.iter_mut().zip(errors) {
            setting.reconstruction = error;
        }
        for &listed in self.shared.paper_z.iter().skip(1).filter(|_| parts) {
            let setting = self.quantize(LISTED, side, Layout::Flat, Some(listed), true)?;
            settings.push(Quantized {
                reconstruction: found.at(listed),
                ..setting
            });
        }
        let listed = settings
            .iter()
            .filter(|s| s.method == PAPER || s.method == LISTED);
        let best = listed.reduce(|a, b| if b.average > a.average { b } else { a });
        let list_best = best.and_then(|s| s.z);
        let compare = |a: Option<&Quantized>| {
            a.map(|a| paired::compare(&a.scores, &settings[2].scores, &self.tasks))
                .transpose()
        };
        let (against_list, against_rtn) = (compare(best)?, compare(settings.first())?);
        let by_window = |first: &Quantized| {
            let (a, b) = (first.windows.as_ref()?, settings[2].windows.as_ref()?);
            paired::perplexities(a, b, self.text?)
        };
        let perplexity_against_rtn = by_window(&settings[0]);
        let perplexity_against_paper = by_window(&settings[1]);
        if parts {
            let clip = self.quantize(CLIP, side, Layout::Flat, Some(z), false)?;
            settings.push(Quantized {
                reconstruction: plain.at(z),
                ..clip
            });
            let restore = self.quantize(RESTORE, side, Layout::Flat, None, true)?;
            settings.push(Quantized {
                reconstruction: Some(found.baseline),
                ..restore
            });
            if side.is_some() {
                settings.push(self.quantize(RTN, side, Layout::Tiles, None, false)?);
                settings.push(self.quantize(SEARCHED, side, Layout::Tiles, Some(z), true)?);
            }
        }
        let beside_rtn = |s: &Quantized| {
            let (a, b) = (settings[0].windows.as_ref()?, s.windows.as_ref()?);
            paired::perplexities(a, b, self.text?)
        };
        let each: Vec<_> = settings.iter().map(beside_rtn).collect();
        for (setting, paired) in settings.iter_mut().zip(each).skip(1) {
            setting.perplexity_against_rtn = paired;
        }
        Ok(Size {
            side,
            searched_z: z,
            reconstruction: found,
            settings,
            against_list,
            against_rtn,
            perplexity_against_rtn,
            perplexity_against_paper,
            list_best,
        })
    }

    /// Weights of the largest matrix.
    pub(super) fn largest(&self) -> usize {
        let model = &self.lab.model;
        let maps = model.linears().filter_map(|at| model.weight_at(at));
        maps.map(|w| w.rows() * w.cols()).max().unwrap_or(0)
    }

    pub(super) fn measured(self) -> Subject {
        Subject {
            tasks: self.tasks,
            text: self.text,
            searched_on: self.searched_on,
            original: self.original,
            windows: self.windows,
        }
    }
}
