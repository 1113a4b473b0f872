#!/usr/bin/env python3
"""Golden values of a SentencePiece vocabulary in a GGUF file, as AutoTokenizer opens it with `gguf_file=` (transformers 5.24).

    python gguf_spm.py

Takes the vocabulary of auto/spm.json, with scores that fall with the ids, and writes gguf_spm.json: the tokens, and for every
setting of what a file says about BOS and EOS, the ids of a few texts and what they decode to. (transformers passes over
`add_space_prefix`: with `false` it prepends a space all the same, which llama.cpp does not.)
"""

import json
import logging
import tempfile
from pathlib import Path

import gguf
from transformers import AutoTokenizer

from gguf_file import TEXTS

HERE = Path(__file__).resolve().parent
SETTINGS = [
    {},
    {"add_bos_token": False},
    {"add_bos_token": False, "add_eos_token": True},
    {"add_bos_token": False, "add_space_prefix": True},
]


def kind(token):
    """llama.cpp's number of a token's type: unknown, control, byte, normal."""
    special = {"<unk>": 2, "<s>": 3, "</s>": 3}
    return special.get(token, 6 if token.startswith("<0x") else 1)


def main():
    vocab = json.loads((HERE / "auto/spm.json").read_text())["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    types = [kind(token) for token in tokens]
    scores = [0.0 if t != 1 else float(-i) for i, t in enumerate(types)]
    cases = []
    for settings in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            writer = gguf.GGUFWriter(Path(folder) / "m.gguf", "llama")
            writer.add_tokenizer_model("llama")
            writer.add_token_list(tokens)
            writer.add_token_scores(scores)
            writer.add_token_types(types)
            writer.add_unk_token_id(0)
            writer.add_bos_token_id(1)
            writer.add_eos_token_id(2)
            for key, value in settings.items():
                writer.add_bool(f"tokenizer.ggml.{key}", value)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.close()
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="m.gguf")
            ids = [tokenizer(text).input_ids for text in TEXTS]
            decoded = [tokenizer.decode(i, skip_special_tokens=True) for i in ids]
            cases.append({"settings": settings, "ids": ids, "decoded": decoded})
    value = {"tokens": tokens, "types": types, "scores": scores, "texts": TEXTS, "cases": cases}
    (HERE / "gguf_spm.json").write_text(json.dumps(value).replace('{"settings"', '\n{"settings"') + "\n")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
