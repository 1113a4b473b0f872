#!/usr/bin/env python3
"""Golden values of tokenizers as AutoTokenizer opens them (transformers 5.24).

    python auto.py

Trains two small tokenizers, spm.json (SentencePiece-like, with a fallback to bytes) and bytes.json (byte-level), with
settings that no class of transformers would choose, and writes auto/auto.json: for every class and model_type which files
of a checkpoint may name, and for settings that decide added tokens, what AutoTokenizer makes of a few texts.
"""

import json
import logging
import tempfile
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import AutoTokenizer
from transformers.utils import logging as hf_logging

HERE = Path(__file__).resolve().parent / "auto"
CORPUS = [
    "Hello there, hello again. The weather is fine today, and there were 1234 birds over 56 houses.",
    "two  spaces   three, don't say I'm late; we'll see you've been there.",
    "The other weather was there before, in 1999 and in 2024. Hello world, hello there.",
] * 4
TEXTS = ["Hello there", " Hello there", "  two  ", "text </s> more", "<s>x</s> y", "tab\tx", "☃ x", "in 1234,56", "e\u0301 don't", "a <|pad|> <new> b"]
TYPES = [
    "llama", "mistral", "mixtral", "olmo", "olmo2", "olmoe", "phi3", "qwen2", "qwen3", "qwen3_moe",
    "gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_neox",
]  # fmt: skip
CLASSES = [
    None, "TokenizersBackend", "PreTrainedTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer",
    "GPT2Tokenizer", "GPT2TokenizerFast", "GPTNeoXTokenizer", "GPTNeoXTokenizerFast", "Qwen2Tokenizer",
    "Qwen2TokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast",
]  # fmt: skip
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<|pad|>"}


def token(content, **flags):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"content": content, **plain, **flags}


def train():
    specials = ["<unk>", "<s>", "</s>"]
    spm = Tokenizer(BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spm.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    spm.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=460, special_tokens=specials + fallback))
    spm.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    spm.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    raw = json.loads(spm.to_str())
    raw["added_tokens"] = raw["added_tokens"][:3]
    (HERE / "spm.json").write_text(json.dumps(raw, ensure_ascii=False))
    split = pre_tokenizers.Split(Regex(r" ?[^\s]+|\s+"), "isolated")
    level = Tokenizer(BPE())
    level.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    level.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=specials, initial_alphabet=alphabet))
    level.decoder = decoders.ByteLevel()
    level.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    (HERE / "bytes.json").write_text(level.to_str())


def cases():
    for name in CLASSES:
        for kind in TYPES:
            for file in ["spm", "bytes"]:
                settings = dict(NAMED) if name is None else {"tokenizer_class": name, **NAMED}
                yield {"file": file, "type": kind, "settings": settings}
    added = {"0": token("<unk>"), "1": token("<s>", normalized=True), "2": token("</s>", lstrip=True), "999": token("<new>", special=False)}
    for kind, name in [("llama", "LlamaTokenizer"), ("llama", "TokenizersBackend"), ("gpt_neox", "GPTNeoXTokenizer"), ("qwen2", "Qwen2Tokenizer")]:
        for file in ["spm", "bytes"]:
            base = {"tokenizer_class": name}
            variants = [
                {"settings": base},
                {"settings": None},
                {"settings": {**base, "add_bos_token": True, "add_eos_token": True, **NAMED}},
                {"settings": {**base, "add_bos_token": False, **NAMED}},
                {"settings": {**base, "added_tokens_decoder": added, **NAMED}},
                {"settings": {**base, "added_tokens_decoder": added}, "map": {"bos_token": "<|pad|>"}},
                {"settings": {**base, **NAMED}, "map": {"bos_token": "<|pad|>", "eos_token": token("</s>")}},
                {"settings": base, "added": {"<new>": 500, "<|pad|>": 501}},
                {"settings": {**base, **NAMED}, "added": {"<new>": 500, "<|pad|>": 501}},
                {"settings": {**base, "additional_special_tokens": ["<new>", "there"], "image_token": "two"}},
                {"settings": {**base, "add_prefix_space": False, "legacy": True}},
                {"settings": {**base, "add_prefix_space": True, "legacy": True}},
                {"settings": {**base, "bos_token": {"__type": "AddedToken", **token("<s>", rstrip=True)}}},
            ]
            for variant in variants:
                yield {"file": file, "type": kind, **variant}
            yield {"file": file, "type": kind, "settings": NAMED, "config_class": name}


def outcome(case):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config = {"model_type": case["type"]}
        if "config_class" in case:
            config["tokenizer_class"] = case["config_class"]
        files = {"config.json": config, "tokenizer_config.json": case["settings"]}
        files |= {"special_tokens_map.json": case.get("map"), "added_tokens.json": case.get("added")}
        for name, value in files.items():
            if value is not None:
                (folder / name).write_text(json.dumps(value))
        (folder / "tokenizer.json").write_bytes((HERE / f"{case['file']}.json").read_bytes())
        auto = AutoTokenizer.from_pretrained(folder)
        plain = [auto(text, add_special_tokens=False).input_ids for text in TEXTS]
        special = auto("Hello there").input_ids
        return [auto.bos_token_id, auto.eos_token_id, special, plain]


if __name__ == "__main__":
    hf_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    HERE.mkdir(exist_ok=True)
    train()
    rows, outcomes = [], []
    for case in cases():
        found = outcome(case)
        if found not in outcomes:
            outcomes.append(found)
        rows.append({**case, "outcome": outcomes.index(found)})
    lines = lambda all: "[\n" + ",\n".join(json.dumps(one) for one in all) + "\n]"
    text = f'{{"texts": {json.dumps(TEXTS)},\n"cases": {lines(rows)},\n"outcomes": {lines(outcomes)}}}\n'
    (HERE / "auto.json").write_text(text)
    print(len(rows), "cases,", len(outcomes), "outcomes")
