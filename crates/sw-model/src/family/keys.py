#!/usr/bin/env python3
"""Grows keys.txt, the config keys that change the arithmetic of some model, from the installed transformers.

    python keys.py > keys.txt

Families are all that continue texts or answer about images in texts. A key is taken from the signature and the fields of
their configuration classes (encoders of other things than texts left out), and from every place where their modeling code
reads `config.KEY` or subscripts rotary parameters. What only training, generation, labels, losses or the framework read
is left out by name. Each line of the table is the key and up to three model types that have it.
"""

import importlib
import inspect
import re
from pathlib import Path

import transformers
from transformers import PreTrainedConfig, models
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import model_type_to_module_name

# Parts of names: dropout and noise of training, initialization, losses, token ids, classification heads, outputs.
INERT_PART = re.compile(
    r"drop|initializer|init_std|init_scale|^freeze|^mtp_|nextn|tokenize|clipping$|_(start|end|newline|patch)_id$|newline_id|w_init|_init$|_loss|loss_|token_ids?$|token_index$|_token$|label|^output_|"
    r"^summary_|classifier|jitter|gradient_checkpointing|return_|_plan$|mask_(feature|time)_|apply_spec_augment|^_"
)
# Whole names: the framework's, the tokenizer's, those of kernels that compute the same.
INERT = set(
    """architectures args attribute_map auto_map base_config_key begin_suppress_tokens
    cache_implementation chunk_size_feed_forward default_language dtype extra_config_files extra_files has_no_defaults_at_init
    id2label inference_state_dtype init_device is_decoder is_encoder is_encoder_decoder keys_to_ignore_at_inference kwargs
    layer_norm_elementwise_affine max_length max_seq_len model_type name_or_path num_labels num_logits_to_keep
    prefix pretraining_tp problem_type quantization_config seed self sub_configs sub_configs_defaults suppress_tokens task
    task_specific_params torch_dtype torchscript transformers_version use_cache use_mamba_kernels use_return_dict
    vocabulary_map""".split()
)
# What a rotary object may say whatever its type; a type that does not use one of them passes over it.
ROPE = set(
    """attention_factor beta_fast beta_slow factor high_freq_factor long_factor low_freq_factor mscale mscale_all_dim
    original_max_position_embeddings rope_type short_factor truncate type""".split()
) - {"original_max_position_embeddings"}


# Classes of what is not text.
ENCODERS = re.compile(r"Vision|Audio|Speech|Image|Perceiver|Vit|VIT|VQ|Encoder|Code2Wav|Token2Wav|Talker|Patcher|Depth")


def files(kind):
    types = [
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    ]
    root = Path(models.__file__).parent
    for name in sorted({model_type_to_module_name(t) for t in types}):
        yield from sorted((root / name).glob(f"{kind}_*.py"))


def classes():
    for path in files("configuration"):
        module = importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}")
        for name, found in vars(module).items():
            if inspect.isclass(found) and issubclass(found, PreTrainedConfig) and found.__module__ == module.__name__:
                if not ENCODERS.search(name):
                    yield found


def keys_of(config):
    keys = set(inspect.signature(config.__init__).parameters)
    for base in config.__mro__:
        if issubclass(base, PreTrainedConfig) and base is not PreTrainedConfig:
            keys |= set(getattr(base, "__annotations__", {}))
    return keys


def main():
    table = {}
    for config in classes():
        for key in keys_of(config):
            table.setdefault(key, set()).add(config.model_type or config.__name__)
    own = re.compile(r"\bconfig\.([a-z]\w*)\b(?!\()|getattr\((?:self\.)?config, \"(\w+)\"")
    rope = re.compile(r"rope_(?:parameters|scaling)(?:\[|\.get\()\"(\w+)\"")
    for path in files("modeling"):
        text = path.read_text()
        for keys in own.findall(text) + [(key, "") for key in rope.findall(text)]:
            table.setdefault(keys[0] or keys[1], set()).add(path.parent.name)

    print(f"# Config keys that change the arithmetic of some model, from transformers {transformers.__version__} (keys.py).")
    for key, found in sorted(table.items()):
        if INERT_PART.search(key) or key in INERT or key in ROPE or key.endswith("_attn_implementation"):
            continue
        names = sorted(found)
        more = ", ..." if len(names) > 3 else ""
        print(f"{key}: {', '.join(names[:3])}{more}")


if __name__ == "__main__":
    main()
