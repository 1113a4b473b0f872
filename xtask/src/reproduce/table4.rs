//! Table 4: 8-bit weights and activations in all the readings that the paper leaves open.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sw_intervene::ActivationSite;
use sw_quant::{Fill, Grouping, Levels, Pick};

use super::{
    Experiment,
    eight_bit::{Bench, NAIVE, Reading, Rows},
};
use crate::{lab::Lab, outcome::Outcome};

/// Show perplexity under W8A8 in all the readings that the paper leaves open (Table 4, its models without SmoothQuant).
///
/// Example:
///   cargo xtask reproduce-table4 --model MODEL --data DATA --out out
#[derive(Args, Serialize)]
#[command(verbatim_doc_comment)]
pub(crate) struct Table4 {}

impl Experiment for Table4 {
    const NAME: &'static str = "table4";

    type Measured = Rows;

    fn measure(&self, lab: &Lab) -> Result<Rows> {
        let mut bench = Bench::new(lab)?;
        let (naive, ours) = (Reading::naive(), Reading::ours());
        bench.reading("naive", NAIVE, NAIVE, &naive)?;
        bench.reading("ours", "ours", NAIVE, &ours)?;
        let with = |base: &Reading, change: &dyn Fn(&mut Reading)| {
            let mut reading = base.clone();
            change(&mut reading);
            reading
        };
        // What is done, the naive setting that it is to better, and how.
        let asymmetric = |r: &mut Reading| r.act.scheme.levels = Levels::asymmetric(8);
        let one_scale = |r: &mut Reading| r.act.scheme.grouping = Grouping::Tensor;
        let without_o = |r: &mut Reading| r.sites.retain(|s| *s != ActivationSite::OIn);
        let only_linear = |r: &mut Reading| r.sites.retain(linear);
        const ASYMMETRIC: &str = "naive, asymmetric activations";
        const ONE_SCALE: &str = "naive, one scale for each tensor";
        const WITHOUT_O: &str = "naive, without o_proj's input";
        const ONLY_LINEAR: &str = "naive, without the attention's products";
        const DOWN_OUT: &str = "naive, at down_proj's output too";
        let down_out = |r: &mut Reading| r.sites.push(ActivationSite::DownOut);
        let alone = |r: &mut Reading| r.alone = true;
        let readings: [(&'static str, &'static str, Reading); 16] = [
            (
                "ours, the super activation alone",
                NAIVE,
                with(&naive, &alone),
            ),
            (ASYMMETRIC, NAIVE, with(&naive, &asymmetric)),
            (
                "ours, asymmetric activations",
                ASYMMETRIC,
                with(&ours, &asymmetric),
            ),
            (ONE_SCALE, NAIVE, with(&naive, &one_scale)),
            (
                "ours, one scale for each tensor",
                ONE_SCALE,
                with(&ours, &one_scale),
            ),
            (
                "ours, one scale for each tensor, the super activation alone",
                ONE_SCALE,
                with(&with(&naive, &one_scale), &alone),
            ),
            (
                "ours, every token's largest element",
                NAIVE,
                with(&ours, &|r| r.act.pick = Pick::RowLargest),
            ),
            (
                "ours, the four largest elements",
                NAIVE,
                with(&ours, &|r| r.act.pick = Pick::TopK { k: 4 }),
            ),
            (
                "ours, median of the tensor",
                NAIVE,
                with(&ours, &|r| r.act.fill = Fill::TensorMedian),
            ),
            (WITHOUT_O, NAIVE, with(&naive, &without_o)),
            (
                "ours, without o_proj's input",
                WITHOUT_O,
                with(&ours, &without_o),
            ),
            (ONLY_LINEAR, NAIVE, with(&naive, &only_linear)),
            (
                "ours, without the attention's products",
                ONLY_LINEAR,
                with(&ours, &only_linear),
            ),
            (DOWN_OUT, NAIVE, with(&naive, &down_out)),
            (
                "ours, at down_proj's output too",
                DOWN_OUT,
                with(&ours, &down_out),
            ),
            (
                "ours, super weight held out too",
                NAIVE,
                with(&ours, &|r| r.hold = true),
            ),
        ];
        for (label, against, reading) in readings {
            bench.reading("option", label, against, &reading)?;
        }
        Ok(bench.rows())
    }

    fn show(&self, lab: &Lab, rows: Rows) -> Result<Outcome> {
        let mut outcome = Outcome::new("Table 4. 8-bit weights and activations, in every reading");
        outcome.finding = rows.sentence(&[
            ("fp16", "as stored"),
            ("naive", "naive W8A8"),
            ("ours", "ours"),
        ]);
        rows.tables("table4", "fp16", "stored", lab, &mut outcome);
        outcome.figure(
            "table4-change",
            "Perplexity above that of the stored weights",
            vec![rows.chart()],
            "Smaller is better.",
        );
        outcome.notes.push("The paper does not say which element is replaced, over what the median goes, where, nor whether activations are symmetric: the rows are these readings. \"The super activation alone\" is the literal one: what the super weight multiplies (in its layer, of what down_proj reads, in its channel, the token of largest magnitude), and nothing else. Its code for activations is not published.".into());
        rows.finish(lab, &mut outcome)?;
        Ok(outcome)
    }
}

fn linear(site: &ActivationSite) -> bool {
    use ActivationSite::{AttnIn, DownIn, MlpIn, OIn};
    matches!(site, AttnIn | OIn | MlpIn | DownIn)
}
