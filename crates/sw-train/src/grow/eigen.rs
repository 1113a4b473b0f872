//! Eigenvectors of a symmetric matrix, by cyclic Jacobi rotations.

use ndarray::Array2;

/// Sweeps over all pairs; some ten are enough for hundreds of channels.
const SWEEPS: usize = 60;

/// The eigenvalues of a finite symmetric matrix, largest first, and their orthonormal eigenvectors as rows, in the same order.
///
/// Every rotation makes one entry beside the diagonal zero; the sum of their squares falls quadratically in the end (Golub and
/// Van Loan, Matrix Computations, section 8.5).
pub(super) fn symmetric(mut a: Array2<f64>) -> Vec<(f64, Vec<f64>)> {
    let n = a.nrows();
    // Eigenvectors as rows, so that a rotation goes through memory in order.
    let mut vectors = Array2::<f64>::eye(n);
    let scale: f64 = a.iter().map(|v| v * v).sum();
    for _ in 0..SWEEPS {
        let beside = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
        if beside.map(|at| a[at] * a[at]).sum::<f64>() <= 1e-32 * scale {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                // What is beside the diagonal is skipped where it is rounding.
                if a[(p, q)] * a[(p, q)] > 1e-36 * scale {
                    let theta = (a[(q, q)] - a[(p, p)]) / (2.0 * a[(p, q)]);
                    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                    let c = 1.0 / t.hypot(1.0);
                    let s = t * c;
                    rotate(&mut a, p, q, c, s);
                    for i in 0..n {
                        (a[(i, p)], a[(i, q)]) =
                            (c * a[(i, p)] - s * a[(i, q)], s * a[(i, p)] + c * a[(i, q)]);
                    }
                    rotate(&mut vectors, p, q, c, s);
                }
            }
        }
    }
    let mut pairs: Vec<_> = (0..n)
        .map(|i| (a[(i, i)], vectors.row(i).to_vec()))
        .collect();
    pairs.sort_by(|x, y| y.0.total_cmp(&x.0));
    pairs
}

/// Turns the rows `p` and `q`.
fn rotate(m: &mut Array2<f64>, p: usize, q: usize, c: f64, s: f64) {
    let (x, y) = m.multi_slice_mut((ndarray::s![p, ..], ndarray::s![q, ..]));
    ndarray::Zip::from(x).and(y).for_each(|x, y| {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;

    #[test]
    fn the_matrix_is_what_its_eigenvectors_say() {
        for n in [1, 2, 7, 40] {
            let b = Draw::new(n as u64, 0).normals((n, n), 1.0);
            let a = b.t().dot(&b);
            let pairs = symmetric(a.clone());
            let vectors = Array2::from_shape_fn((n, n), |(i, j)| pairs[i].1[j]);
            let values: ndarray::Array1<f64> = pairs.iter().map(|p| p.0).collect();
            let again = vectors.t().dot(&Array2::from_diag(&values)).dot(&vectors);
            let unit = vectors.dot(&vectors.t()) - Array2::<f64>::eye(n);
            assert!((again - a).iter().all(|v| v.abs() < 1e-11), "{n}");
            assert!(unit.iter().all(|v| v.abs() < 1e-13), "{n}");
            assert!(pairs.windows(2).all(|p| p[0].0 >= p[1].0), "{n}");
        }
    }

    #[test]
    fn equal_and_zero_eigenvalues() {
        let a = Array2::<f64>::eye(3) * 2.0;
        assert!(symmetric(a).iter().all(|p| p.0 == 2.0));
        assert!(symmetric(Array2::zeros((3, 3))).iter().all(|p| p.0 == 0.0));
        assert!(symmetric(Array2::zeros((0, 0))).is_empty());
    }
}
