"""Writes soft_prompt/: an adapter that PEFT made for the repository's own checkpoint, and what PyTorch computes with it.

    python3 soft_prompt.py

Needs torch, transformers and peft. The adapter is PEFT's PROMPT_TUNING as its save_pretrained writes it; expected.safetensors
holds a text, its logits behind the prompt (the rows of the text's own tokens), the mean loss over all tokens of the text but
its first, and the gradient of that loss with respect to the prompt.
"""

import json
import pathlib

import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
NANO = HERE.parents[3] / "nano" / "model"
OUT = HERE / "soft_prompt"
TEXT = [5, 17, 3, 90, 41, 17, 8, 60, 33]


def main():
    torch.manual_seed(5)
    base = AutoModelForCausalLM.from_pretrained(NANO, dtype=torch.float32, attn_implementation="eager")
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, prompt_tuning_init="RANDOM")
    tuned = get_peft_model(base, config)
    with torch.no_grad():
        # As large as the embeddings are.
        tuned.prompt_encoder["default"].embedding.weight.mul_(base.get_input_embeddings().weight.std())
    tuned.save_pretrained(OUT)
    (OUT / "README.md").unlink(missing_ok=True)
    path = OUT / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "nano/model"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    # As PEFT reads it back.
    read = PeftModel.from_pretrained(base, OUT).eval()
    prompt = read.prompt_encoder["default"].embedding.weight
    prompt.requires_grad_(True)
    ids = torch.tensor([TEXT])
    logits = read(ids).logits[0, -len(TEXT) :]
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
    loss.backward()
    tensors = {
        "text": ids[0],
        "logits": logits.detach().contiguous(),
        "loss": loss.detach().reshape(1),
        "gradient": prompt.grad.contiguous(),
    }
    save_file(tensors, OUT / "expected.safetensors")


if __name__ == "__main__":
    main()
