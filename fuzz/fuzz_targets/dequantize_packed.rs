//! Packed bytes from anyone: refused, or decoded without a panic and written back byte for byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sw_quant::Quantized;

fuzz_target!(|bytes: &[u8]| {
    let Ok(q) = Quantized::from_bytes(bytes) else { return };
    assert_eq!(q.to_bytes(), bytes);
    let [rows, cols] = q.shape();
    let all = q.dequantize::<f32>();
    assert_eq!(all.len(), rows * cols);
    let mut row = vec![0.0f32; cols];
    q.dequantize_row_into(rows - 1, &mut row).expect("the last row is there");
    assert!(row.iter().zip(&all[(rows - 1) * cols..]).all(|(a, b)| a.to_bits() == b.to_bits()));
    let blocks = q.view().blocks;
    let last = blocks.count() - 1;
    let mut block = vec![0.0f32; blocks.len_of(last)];
    q.dequantize_block_into(last, &mut block).expect("the last block is there");
    q.dequantize::<half::bf16>();
    q.dequantize::<half::f16>();
    assert!(q.bits_per_weight() >= 2.0);
});
