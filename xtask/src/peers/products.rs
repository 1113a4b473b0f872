//! Products with 512 rows beside PyTorch's.

use anyhow::Result;
use sw_benches::random;
use sw_tensor::{Arithmetic, Mat, Order, matmul_t_each};

use super::{Class, Comparison, work::Work};

impl Work<'_> {
    pub(super) fn products(&self, all: &mut Vec<Comparison>) -> Result<()> {
        const M: usize = 512;
        for (n, k) in [(11008, 4096), (4096, 11008), (4096, 4096)] {
            let mut next = random(1);
            let x = ndarray::Array2::from_shape_simple_fn((M, k), &mut next);
            let mut y = ndarray::Array2::zeros((M, n));
            let amount = (2 * M * n * k) as f64 / 1e9;
            let values: Vec<f32> = (0..n * k).map(|_| next()).collect();
            let bf16 = Mat::from_bf16(
                n,
                k,
                values.iter().map(|v| half::bf16::from_f32(*v)).collect(),
            );
            let f16 = Mat::from_f16(
                n,
                k,
                values.iter().map(|v| half::f16::from_f32(*v)).collect(),
            );
            let bytes: Vec<u8> = values.iter().map(|v| (v * 127.0 + 128.0) as u8).collect();
            let scales = vec![0.01; n * k / 128];
            let codes = |bits: u8| sw_tensor::Codes {
                shape: [n, k],
                bits,
                codes: &bytes[..n * k / 8 * usize::from(bits)],
                group: [1, 128],
                scales: &scales,
                offsets: sw_tensor::CodeOffsets::Symmetric,
                outliers: &[],
            };
            for name in ["torch-f32", "torch-bf16", "torch-f16"] {
                let Some(mut peer) = self.peer(name, None) else {
                    continue;
                };
                let command = format!("product {M} {n} {k}");
                for (weights, w) in [("BF16", &bf16), ("F16", &f16)] {
                    let work = format!("product {M} {n} {k}, {weights} weights");
                    all.push(self.compare(
                        (&work, "GFLOP/s", amount),
                        &mut peer,
                        &command,
                        || {
                            let arithmetic = Arithmetic {
                                order: Order::Fixed,
                                precision: Class::of(name).precision(),
                            };
                            matmul_t_each(arithmetic, x.view(), [(w, y.view_mut())]);
                            Ok(())
                        },
                    )?);
                }
                for bits in [8, 4].into_iter().filter(|_| name == "torch-f32") {
                    let work = format!("product {M} {n} {k}, {bits}-bit codes");
                    let codes = codes(bits);
                    all.push(self.compare(
                        (&work, "GFLOP/s", amount),
                        &mut peer,
                        &command,
                        || {
                            sw_tensor::matmul_t_codes(x.view(), &codes, y.view_mut());
                            Ok(())
                        },
                    )?);
                }
            }
        }
        Ok(())
    }
}
