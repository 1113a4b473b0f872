//! Table 4: 8-bit weights and activations in all the readings that the paper leaves open.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sw_intervene::ActivationSite;
use sw_quant::{Fill, Grouping, Levels, Pick};

use super::{
    Experiment,
    eight_bit::{Bench, Reading, SHARES, SIMULATED},
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

    fn run(&self, lab: &Lab) -> Result<Outcome> {
        let mut bench = Bench::new(lab)?;
        let (naive, ours) = (Reading::naive(), Reading::ours());
        bench.reading("naive", "naive W8A8", &naive)?;
        bench.reading("ours", "ours", &ours)?;
        let with = |base: &Reading, change: &dyn Fn(&mut Reading)| {
            let mut reading = base.clone();
            change(&mut reading);
            reading
        };
        let rows: [(&'static str, &str, Reading); 13] = [
            (
                "option",
                "naive, asymmetric activations",
                with(&naive, &|r| r.act.scheme.levels = Levels::asymmetric(8)),
            ),
            (
                "option",
                "ours, asymmetric activations",
                with(&ours, &|r| r.act.scheme.levels = Levels::asymmetric(8)),
            ),
            (
                "option",
                "naive, one scale for each tensor",
                with(&naive, &|r| r.act.scheme.grouping = Grouping::Tensor),
            ),
            (
                "option",
                "ours, one scale for each tensor",
                with(&ours, &|r| r.act.scheme.grouping = Grouping::Tensor),
            ),
            (
                "option",
                "ours, every token's largest element",
                with(&ours, &|r| r.act.pick = Pick::RowLargest),
            ),
            (
                "option",
                "ours, the four largest elements",
                with(&ours, &|r| r.act.pick = Pick::TopK { k: 4 }),
            ),
            (
                "option",
                "ours, median of the tensor",
                with(&ours, &|r| r.act.fill = Fill::TensorMedian),
            ),
            (
                "option",
                "naive, without o_proj's input",
                with(&naive, &|r| r.sites.retain(|s| *s != ActivationSite::OIn)),
            ),
            (
                "option",
                "ours, without o_proj's input",
                with(&ours, &|r| r.sites.retain(|s| *s != ActivationSite::OIn)),
            ),
            (
                "option",
                "naive, without the attention's products",
                with(&naive, &|r| r.sites.retain(linear)),
            ),
            (
                "option",
                "ours, without the attention's products",
                with(&ours, &|r| r.sites.retain(linear)),
            ),
            (
                "option",
                "ours, at down_proj's output too",
                with(&ours, &|r| r.sites.push(ActivationSite::DownOut)),
            ),
            (
                "option",
                "ours, super weight held out too",
                with(&ours, &|r| r.hold = true),
            ),
        ];
        for (name, label, reading) in rows {
            bench.reading(name, label, &reading)?;
        }
        let mut outcome = Outcome::new("Table 4. 8-bit weights and activations, in every reading");
        outcome.finding = bench.sentence(&[
            ("fp16", "as stored"),
            ("naive", "naive W8A8"),
            ("ours", "ours"),
        ]);
        outcome.table("table4", "", bench.table("fp16"), format!(
            "Perplexity, its change against the stored weights, and the share of naive's damage that is taken back, (naive \u{2212} x) / (naive \u{2212} stored), as the paper counts. {SIMULATED}"
        ));
        outcome.figure(
            "table4-change",
            "Perplexity above that of the stored weights",
            vec![bench.chart()],
            "Smaller is better.",
        );
        outcome.notes.push("The paper does not say which element is replaced, over what the median goes, where, nor whether activations are symmetric: the rows are these readings. Its code for activations is not published.".into());
        outcome.notes.push(SHARES.into());
        bench.finish(&mut outcome)?;
        Ok(outcome)
    }
}

fn linear(site: &ActivationSite) -> bool {
    use ActivationSite::{AttnIn, DownIn, MlpIn, OIn};
    matches!(site, AttnIn | OIn | MlpIn | DownIn)
}
