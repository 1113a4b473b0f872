//! Weights that somebody names, measured as if they had been detected.

use sw_model::{Hook, Linear, Model, Seq, Site, SiteView, WeightCoord};

use crate::{
    error::{Error, Result},
    options::DetectOptions,
    prompt::some,
    report::Candidate,
    scan::{Scan, Spike, channel_maxima, median},
    thresholds::Thresholds,
    weight,
};

/// Measures given weights of `down_proj` at the token where their input is largest; what is below the thresholds is
/// marked weak. In the order of `coords`, all of them in round 1: nothing is zeroed.
///
/// # Errors
/// [`Error::Layer`] for a layer that the model does not have, other coordinates outside of it, an expert that sees none
/// of the tokens, no tokens, and whatever stops a forward pass.
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
        if coord.linear != Linear::Down {
            return Err(Error::NotDown {
                coord: coord.to_string(),
            });
        }
        model.value(*coord)?;
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
    let thresholds = Thresholds::new(options, &scan.profile, &scan.spikes);
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
    /// Of the current layer or expert: the coordinate's index, its row of the batch, that row's inputs, what is usual.
    inputs: Vec<(usize, usize, Vec<f32>, f32)>,
    spikes: Vec<Option<Spike>>,
}

impl Named<'_> {
    fn input(&mut self, place: (usize, Option<usize>), view: &SiteView<'_>) {
        self.inputs.clear();
        for (i, coord) in self
            .coords
            .iter()
            .enumerate()
            .filter(|(_, c)| (c.layer, c.expert) == place)
        {
            let maxima = channel_maxima(view.data.view());
            let t = maxima[coord.col].1;
            let usual = median(maxima.iter().map(|m| m.0));
            self.inputs.push((i, t, view.data.row(t).to_vec(), usual));
        }
    }

    fn output(&mut self, place: (usize, Option<usize>), view: &SiteView<'_>) {
        for (i, t, x, usual) in self.inputs.drain(..) {
            let Some(w) = weight::down(self.model, place.0, place.1) else {
                continue;
            };
            let coord = self.coords[i];
            let medians = [
                usual,
                median(channel_maxima(view.data.view()).iter().map(|m| m.0)),
            ];
            let at = (place.0, place.1, coord.row);
            let token = view.tokens.map_or(t, |tokens| tokens[t]);
            let (w, y) = (weight::row(w, coord.row), view.data[[t, coord.row]]);
            self.spikes[i] = Some(Spike::new(
                at,
                Some(coord.col),
                token,
                x.as_slice().into(),
                &w,
                y,
                medians,
            ));
        }
    }
}

impl Hook for Named<'_> {
    fn wants(&self, site: Site) -> bool {
        let here = |place| self.coords.iter().any(|c| (c.layer, c.expert) == place);
        match site {
            Site::DownIn(l) | Site::DownOut(l) => here((l, None)),
            Site::ExpertDownIn(l, e) | Site::ExpertDownOut(l, e) => here((l, Some(e))),
            _ => false,
        }
    }

    fn visit(&mut self, site: Site, view: SiteView<'_>) {
        match site {
            Site::DownIn(l) => self.input((l, None), &view),
            Site::ExpertDownIn(l, e) => self.input((l, Some(e)), &view),
            Site::DownOut(l) => self.output((l, None), &view),
            Site::ExpertDownOut(l, e) => self.output((l, Some(e)), &view),
            _ => {}
        }
    }
}
