"""Writes the small data files beside this script with pyarrow: one for each codec, and text that is stored as plain binary."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

here = Path(__file__).parent
texts = [f"row {i}: \u2603 " + "the same words again " * 8 for i in range(64)]
rows = pa.table({"text": texts, "n": list(range(64))})
for codec in ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]:
    pq.write_table(rows, here / f"{codec}.parquet", compression=codec)
binary = pa.table({"text": pa.array([t.encode() for t in texts], pa.binary()), "picture": pa.array([b"\xff\xd8\xff"] * 64, pa.binary())})
pq.write_table(binary, here / "binary.parquet")
# A page of 300 MB in a few kilobytes.
bomb = pa.table({"text": pa.array(["a" * (1 << 20)] * 300)})
pq.write_table(bomb, here / "page.parquet", compression="zstd", use_dictionary=False, data_page_size=1 << 30, write_batch_size=1 << 20, write_statistics=False)
# A cell of 20 MB.
cell = pa.table({"text": pa.array(["a" * (20 << 20)])})
pq.write_table(cell, here / "cell.parquet", compression="zstd", use_dictionary=False, write_statistics=False)
# Text as differences of lengths, an encoding whose reader panicked on damaged pages.
pq.write_table(rows, here / "delta.parquet", compression="none", use_dictionary=False, column_encoding={"text": "DELTA_LENGTH_BYTE_ARRAY", "n": "PLAIN"})
