//! Memory-mapped 16-bit weights, x*W^T kernels, norms, rope, softmax and attention on CPUs.
