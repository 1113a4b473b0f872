//! Zero, mean, sign, row and neuron, beside controls.

use anyhow::Result;
use sw_detect::{Candidate, Effect, Proof, ProofOptions, proof_texts, prove_candidates};

use crate::{
    lab::Lab,
    outcome::Outcome,
    page::chart::{Axis, Chart, Mark, Panel, Point, Series, Tone},
};

/// What the candidates do to short texts, beside controls.
pub(super) struct Proven {
    proof: Proof,
    candidates: Vec<Candidate>,
}

impl Proven {
    pub(super) fn measure(lab: &Lab, mut candidates: Vec<Candidate>) -> Result<Option<Self>> {
        let texts = proof_texts(&lab.model)?;
        let options = ProofOptions::default();
        let proof = prove_candidates(&lab.model, &mut candidates, &texts, &options)?;
        Ok(proof.map(|proof| Self { proof, candidates }))
    }

    /// Shows what the first candidate does, in nats.
    pub(super) fn show(&self, outcome: &mut Outcome) -> Result<()> {
        let proof = &self.proof;
        let Some((c, e)) = self
            .candidates
            .first()
            .and_then(|c| Some((c, c.effects.as_ref()?)))
        else {
            return Ok(());
        };
        let changes = [
            ("zero", Some(&e.zero)),
            ("zero, mean put back", e.mean.as_ref()),
            ("sign flipped", e.flip.as_ref()),
            ("its row at zero", e.row.as_ref()),
            ("its neuron at zero", e.neuron.as_ref()),
        ];
        let changes = changes.into_iter();
        let measured = changes.filter_map(|(name, e)| Some((name.to_owned(), e?, Tone::Super)));
        let mut rows: Vec<(String, &Effect, Tone)> = measured.collect();
        for (name, control) in [
            ("largest other of the matrix", &e.largest),
            ("largest other of the row", &e.same_row),
            ("largest other of the column", &e.same_col),
        ] {
            rows.extend(
                control
                    .as_ref()
                    .map(|c| (name.to_owned(), &c.effect, Tone::Other)),
            );
        }
        rows.extend(e.random.iter().enumerate().map(|(i, c)| {
            (
                format!("random {}, same size", i + 1),
                &c.effect,
                Tone::Other,
            )
        }));
        let series = |name, tone| {
            let those = rows.iter().enumerate().filter(|(_, r)| r.2 == tone);
            let point = |(i, r): (usize, &(String, &Effect, Tone))| Point {
                x: r.1.nll,
                y: i as f64,
                interval: Some([r.1.low, r.1.high]),
            };
            Series::new(name, Mark::Dots, tone, those.map(point).collect())
        };
        let chart = Panel::Chart(Chart {
            title: format!("{}[{}, {}]", c.tensor, c.row, c.col),
            x: Axis::linear("added negative log-likelihood (nats per token)"),
            y: Axis::bands("", rows.iter().map(|r| r.0.clone())),
            series: vec![
                series("the super weight", Tone::Super),
                series("controls at zero", Tone::Other),
            ],
            guides: vec![],
        });
        outcome.figure("beyond-effects", "Zero, mean, sign, row, neuron, and controls", vec![chart], format!(
        "Change of the negative log-likelihood on eight short texts ({} tokens), with its 95 % interval over tokens; as it is {:.2} nats.",
        proof.scored, proof.nll
    ));
        outcome.data("proof", proof)?;
        outcome.data("effects", &self.candidates)?;
        Ok(())
    }
}
