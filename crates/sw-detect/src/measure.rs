//! Weights that somebody names, measured as if they had been detected.

use sw_model::{Hook, Model, Seq, Site, SiteView, WeightCoord};

use crate::{
    error::{Error, Result},
    options::DetectOptions,
    prompt::some,
    proof::seen,
    report::Candidate,
    scan::{Scan, Spike, channel_maxima, median},
    thresholds::Thresholds,
    weight,
};

/// Measures given weights at the token where the input that they read is largest; what is below the thresholds is marked
/// weak. In the order of `coords`, all of them in round 1: nothing is zeroed.
///
/// # Errors
/// [`Error::Layer`] for a layer that the model does not have, other coordinates outside of it, [`Error::Unmeasured`] for
/// gates within experts, an expert that sees none of the tokens, no tokens, and whatever stops a forward pass.
pub fn measure(
    model: &Model,
    tokens: &[u32],
    coords: &[WeightCoord],
    options: &DetectOptions,
) -> Result<Vec<Candidate>> {
    some(tokens)?;
    let layers = model.spec().layers.len();
    for coord in coords {
        if coord.layer >= layers {
            return Err(Error::Layer {
                layer: coord.layer,
                layers,
            });
        }
        seen(model, *coord)?;
    }
    let named = Named {
        model,
        coords,
        inputs: Vec::new(),
        spikes: vec![None; coords.len()],
    };
    let mut hook = (Scan::new(model, options), named);
    let pass = model.for_few_tokens();
    pass.forward(&[Seq::from(tokens)], &mut hook)?;
    let (scan, named) = hook;
    let thresholds = Thresholds::new(options, &scan.profile);
    let candidate = |(coord, spike): (&WeightCoord, Option<Spike>)| {
        let spike = spike.ok_or_else(|| Error::Unseen {
            coord: coord.to_string(),
        })?;
        let weak = !thresholds.accepts(&spike);
        Ok(Candidate {
            weak,
            ..thresholds.candidate(model, &spike, 1)
        })
    };
    coords.iter().zip(named.spikes).map(candidate).collect()
}

struct Named<'a> {
    model: &'a Model,
    coords: &'a [WeightCoord],
    /// Inputs whose outputs are still to come: the coordinate's index, its row of the batch, that row's inputs, what is usual.
    inputs: Vec<(usize, usize, Vec<f32>, f32)>,
    spikes: Vec<Option<Spike>>,
}

impl Named<'_> {
    fn input(&mut self, site: Site, view: &SiteView<'_>) {
        let here = |(_, c): &(usize, &WeightCoord)| Site::input_of(c.at()) == Some(site);
        for (i, coord) in self.coords.iter().enumerate().filter(here) {
            let maxima = channel_maxima(view.data.view());
            let t = maxima[coord.col].1;
            let usual = median(maxima.iter().map(|m| m.0));
            self.inputs.push((i, t, view.data.row(t).to_vec(), usual));
        }
    }

    fn output(&mut self, site: Site, view: &SiteView<'_>) {
        let usual = || median(channel_maxima(view.data.view()).iter().map(|m| m.0));
        for (i, t, x, usual_in) in &self.inputs {
            let coord = self.coords[*i];
            let channel = match Site::output_of(self.model.spec(), coord.at(), coord.row) {
                Some((s, channel)) if s == site => channel,
                _ => continue,
            };
            let Some(w) = self.model.weight_at(coord.at()) else {
                continue;
            };
            let token = view.tokens.map_or(*t, |tokens| tokens[*t]);
            let (w, y) = (weight::row(w, coord.row), view.data[[*t, channel]]);
            let spike = Spike::new(
                coord,
                token,
                x.as_slice().into(),
                &w,
                y,
                [*usual_in, usual()],
            );
            self.spikes[*i] = Some(spike);
        }
    }
}

impl Hook for Named<'_> {
    fn wants(&self, site: Site) -> bool {
        self.coords.iter().any(|c| {
            let output = Site::output_of(self.model.spec(), c.at(), c.row);
            Site::input_of(c.at()) == Some(site) || output.is_some_and(|(s, _)| s == site)
        })
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        self.output(site, &view);
        self.input(site, &view);
    }
}
