//! Gradients of an encoder against finite differences.

use ndarray::Array2;
use sw_train::grow::{Encoder, Samples, Split};

use crate::dice::Dice;

pub(crate) fn normals(dice: &mut Dice, dim: (usize, usize)) -> Array2<f64> {
    Array2::from_shape_simple_fn(dim, || f64::from(dice.normal()))
}

/// Both gradients of a random function of the logits, entry by entry.
pub(crate) fn check_gradient<E: Encoder>(encoder: &E, tolerance: f64) {
    let mut dice = Dice::new(7, 0);
    let classes = encoder.classes_of(1).to_vec();
    let samples = Samples {
        task: 1,
        split: Split::Train,
        count: 3,
    };
    let mut weights = [
        normals(&mut dice, encoder.prompt()),
        normals(&mut dice, (classes.len(), encoder.head())),
    ];
    let dlogits = normals(&mut dice, (3, classes.len()));
    let value = |w: &[Array2<f64>; 2]| {
        (encoder.forward(samples, &w[0], &w[1], &classes).0 * &dlogits).sum()
    };
    let (_, tape) = encoder.forward(samples, &weights[0], &weights[1], &classes);
    let (a, b) = encoder.backward(samples, &weights[0], &weights[1], &classes, &tape, &dlogits);
    for (which, gradient) in [a, b].into_iter().enumerate() {
        assert_eq!(gradient.dim(), weights[which].dim());
        for _ in 0..40.min(gradient.len()) {
            let at = (dice.below(gradient.nrows()), dice.below(gradient.ncols()));
            let step = 1e-5;
            let kept = weights[which][at];
            weights[which][at] = kept + step;
            let up = value(&weights);
            weights[which][at] = kept - step;
            let down = value(&weights);
            weights[which][at] = kept;
            let slope = (up - down) / (2.0 * step);
            assert!(
                (slope - gradient[at]).abs() < tolerance * (1.0 + slope.abs()),
                "{at:?}: {slope} {}",
                gradient[at]
            );
        }
    }
}
