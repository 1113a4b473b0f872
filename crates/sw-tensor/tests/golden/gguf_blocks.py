"""Writes gguf_blocks.safetensors: for each tensor type of GGUF random blocks, and what the Python package `gguf` makes of them.

usage: gguf_blocks.py   (needs gguf, numpy and safetensors from PyPI)
"""
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

# Where half-precision scales lie in a block; they are made finite.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}
rng = np.random.default_rng(17)
tensors = {}
for name, places in SCALES.items():
    kind = gguf.GGMLQuantizationType[name]
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (4 * max(1, 256 // weights), size), dtype=np.uint8)
    for place in places:
        scales = rng.normal(size=len(blocks)).astype(np.float16)
        blocks[:, place : place + 2] = scales[:, None].view(np.uint8)
    values = gguf.dequantize(blocks, kind).astype(np.float32)
    assert np.isfinite(values).all()
    tensors[f"{name}.blocks"] = blocks
    tensors[f"{name}.values"] = values.reshape(4, -1)
halves = rng.normal(size=64).astype(np.float16)
tensors["F16.blocks"] = halves.view(np.uint8)
tensors["F16.values"] = halves.astype(np.float32).reshape(4, 16)
brains = (rng.normal(size=64).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
tensors["BF16.blocks"] = brains.view(np.uint8)
tensors["BF16.values"] = gguf.dequantize(brains.view(np.uint8), gguf.GGMLQuantizationType.BF16).reshape(4, 16)
save_file(tensors, Path(__file__).with_name("gguf_blocks.safetensors"))
