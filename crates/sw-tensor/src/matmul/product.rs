//! Products of f32 matrices of any layout, for training: both backward products read one factor transposed.

use ndarray::{ArrayView2, ArrayViewMut2};

/// `c = alpha * a * b + beta * c`: `[m, k] x [k, n] -> [m, n]`, on this thread; with `beta` 0, what `c` holds is not read.
///
/// Views may have any strides, so a transposed factor costs no copy. The order of summation is fixed by the shapes and the
/// CPU: equal calls give equal bits on one machine, but rows may differ in the last bits between calls of other shapes.
///
/// # Panics
/// If the shapes do not agree.
pub fn product(
    alpha: f32,
    a: ArrayView2<f32>,
    b: ArrayView2<f32>,
    beta: f32,
    mut c: ArrayViewMut2<f32>,
) {
    let (m, k, n) = (a.nrows(), a.ncols(), b.ncols());
    assert_eq!(k, b.nrows(), "a has {k} columns, b has {} rows", b.nrows());
    assert_eq!(c.dim(), (m, n), "c of another shape than a * b");
    let ([a_row, a_col], [b_row, b_col]) = (strides(a.strides()), strides(b.strides()));
    let [c_row, c_col] = strides(c.strides());
    // SAFETY: pointer and strides of each factor come from one view, so every element `gemm` reads or writes within the
    // asserted shapes is an element of that view; `c` is borrowed mutably, so it overlaps neither factor nor itself.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            c_col,
            c_row,
            beta != 0.0,
            a.as_ptr(),
            a_col,
            a_row,
            b.as_ptr(),
            b_col,
            b_row,
            beta,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

fn strides(of: &[isize]) -> [isize; 2] {
    [of[0], of[1]]
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, s};

    use super::*;

    #[test]
    fn any_layout_gives_the_product() {
        let fill = |rows, cols, by: usize| {
            Array2::from_shape_fn((rows, cols), |(i, j)| {
                ((i * 31 + j * by) % 17) as f32 / 4.0 - 2.0
            })
        };
        for (m, k, n) in [(1, 1, 1), (5, 7, 3), (33, 65, 17), (4, 0, 3)] {
            let (a, b) = (fill(m, k, 7), fill(k, n, 5));
            let (at, wide) = (fill(k, m, 3), fill(m, 2 * n + 1, 11));
            let cases = [(a.view(), b.view()), (at.t(), b.view())];
            for (a, b) in cases {
                let mut c = wide.clone();
                let columns = s![.., 1..;2];
                let mut part = c.slice_mut(columns);
                product(0.5, a, b, 2.0, part.view_mut());
                for ((i, j), &got) in part.indexed_iter() {
                    let sum: f64 = (0..k)
                        .map(|x| f64::from(a[(i, x)]) * f64::from(b[(x, j)]))
                        .sum();
                    let expected = 0.5 * sum + 2.0 * f64::from(wide[(i, 2 * j + 1)]);
                    assert!((f64::from(got) - expected).abs() < 1e-3, "{m} {k} {n}");
                }
                assert_eq!(c.slice(s![.., ..;2]), wide.slice(s![.., ..;2]));
            }
        }
    }

    #[test]
    fn nothing_is_read_of_a_result_that_counts_for_nothing() {
        let mut c = Array2::from_elem((2, 2), f32::NAN);
        let one = Array2::<f32>::eye(2);
        product(1.0, one.view(), one.view(), 0.0, c.view_mut());
        assert_eq!(c, one);
    }

    #[test]
    #[should_panic(expected = "b has 2 rows")]
    fn shapes_must_agree() {
        let (a, b) = (Array2::zeros((2, 3)), Array2::zeros((2, 2)));
        product(
            1.0,
            a.view(),
            b.view(),
            0.0,
            Array2::zeros((2, 2)).view_mut(),
        );
    }
}
