"""Fine-tunes a checkpoint with PyTorch and PEFT on the very sequences that `sw tune --dump FILE` writes.

    sw tune MODEL --method smt --data stories.txt --steps 100 --dump dump.json --out unused
    python3 peft_compare.py MODEL dump.json --method lora --rank 8 --rate 1e-3

The two draw what they begin with in ways of their own. Where they are to begin alike, give PEFT an adapter of a run that did not
move, as --start:

    sw tune MODEL --method lora --rank 8 --rate 1e-30 --steps 1 --data stories.txt --out START

Needs torch, transformers and peft. One line of JSON per method: held-out loss before and after, seconds per step (the least),
the process' largest resident memory.
"""

import argparse
import json
import os
import resource
import time

import torch
from transformers import AutoModelForCausalLM


def held_out_loss(model, texts):
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([text])
            logits = model(ids).logits[0, -len(text) : -1].double()
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            count += len(text) - 1
    return total / count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("dump")
    parser.add_argument("--method", choices=["lora", "dora", "prompt", "full"], default="lora")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--virtual-tokens", type=int, default=20)
    parser.add_argument("--start", help="an adapter whose numbers the training begins with")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--no-eval", action="store_true", help="time steps only")
    args = parser.parse_args()
    dump = json.load(open(args.dump))
    steps = dump["steps"][: args.steps]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    before = None if args.no_eval else held_out_loss(model, dump["held_out"])
    if args.method == "prompt":
        from peft import PromptTuningConfig, get_peft_model

        config = PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=args.virtual_tokens, prompt_tuning_init="SAMPLE_VOCAB"
        )
        model = get_peft_model(model, config)
    elif args.method != "full":
        from peft import LoraConfig, get_peft_model

        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        config = LoraConfig(
            r=args.rank,
            lora_alpha=args.rank,
            lora_dropout=0.0,
            target_modules=targets,
            use_dora=args.method == "dora",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, config)
    if args.start:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        start = load_file(os.path.join(args.start, "adapter_model.safetensors"))
        result = set_peft_model_state_dict(model, start)
        # A soft prompt's rows are taken over by PEFT itself; torch names them all the same.
        odd = set(getattr(result, "unexpected_keys", [])) - {"prompt_embeddings"}
        assert not odd, odd
        before = None if args.no_eval else held_out_loss(model, dump["held_out"])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    losses, seconds = [], []
    for i, texts in enumerate(steps):
        model.train()
        clock = time.time()
        for group in optimizer.param_groups:
            group["lr"] = args.rate * (1 - i / len(steps))
        predicted = sum(len(t) - 1 for t in texts)
        total = 0.0
        if len({len(t) for t in texts}) == 1:
            batches = [texts]
        else:
            batches = [[t] for t in texts]
        for batch in batches:
            ids = torch.tensor(batch)
            logits = model(ids).logits[:, -ids.shape[1] : -1]
            loss = torch.nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="sum"
            )
            (loss / predicted).backward()
            total += loss.item() / predicted
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
        seconds.append(time.time() - clock)
    after = None if args.no_eval else held_out_loss(model, dump["held_out"])
    print(
        json.dumps(
            {
                "method": args.method,
                "rank": args.rank,
                "rate": args.rate,
                "trained": sum(p.numel() for p in trained),
                "steps": len(steps),
                "before": before,
                "after": after,
                "last_train_loss": sum(losses[-10:]) / len(losses[-10:]),
                "seconds_per_step_least": min(seconds),
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
