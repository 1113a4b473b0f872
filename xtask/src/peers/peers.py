"""What other programs make of the same work; driven by `cargo xtask bench-peers`, one process per peer.

peers.py serve KIND THREADS [MODEL]   KIND: torch or transformers with f32, bf16 or f16 (transformers-bf16), llama
peers.py detect THREADS MODEL         a whole process: load in BF16, ten tokens, hooks on every down_proj
peers.py gguf MODEL OUT TYPE          the checkpoint as GGUF, TYPE F16 or BF16
peers.py versions

`serve` reads one command a line and answers with one line each: seconds, or for `error` two relative errors.
  product M N K     y[M, N] = x[M, K] w[N, K]^T
  prefill N         all logits of N tokens (llama: of the last token only)
  begin N           a text after N tokens, each the most probable one: its first
  more M            M more of it
  perplexity N      the loss of N tokens (llama: of the later half, as llama-perplexity scores a window)
  error N FILE      relative RMS error of float32 logits against float64: this program's, and FILE's (raw float32)
"""

import json
import os
import sys
import time

VOCABULARY = 32000


def tokens(n):
    return [(i * 7919 + 13) % VOCABULARY for i in range(n)]


def torch_with(threads):
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return torch


def load(model, dtype):
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()


def dtype_of(torch, kind):
    return {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[kind.split("-")[1]]


class Torch:
    def __init__(self, kind, threads, model):
        self.torch, self.dtype = torch_with(threads), None
        self.dtype = dtype_of(self.torch, kind)
        self.operands = {}

    def product(self, m, n, k):
        torch = self.torch
        if (m, n, k) not in self.operands:
            self.operands = {(m, n, k): [torch.rand(r, k).sub(0.5).to(self.dtype) for r in (m, n)]}
        x, w = self.operands[m, n, k]
        start = time.perf_counter()
        torch.nn.functional.linear(x, w)
        return time.perf_counter() - start


class Transformers:
    def __init__(self, kind, threads, model):
        self.torch = torch_with(threads)
        self.model = load(model, dtype_of(self.torch, kind))

    def logits(self, n):
        return self.model(self.torch.tensor([tokens(n)]), use_cache=False).logits

    def prefill(self, n):
        start = time.perf_counter()
        self.logits(n)
        return time.perf_counter() - start

    def perplexity(self, n):
        ids = self.torch.tensor([tokens(n)])
        start = time.perf_counter()
        self.model(ids, labels=ids, use_cache=False).loss.item()
        return time.perf_counter() - start

    def begin(self, n):
        self.ids, self.cache = self.torch.tensor([tokens(n)]), None
        return self.more(1)

    def more(self, n):
        start = time.perf_counter()
        for _ in range(n):
            out = self.model(self.ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            self.ids, self.cache = out.logits.argmax(-1), out.past_key_values
        return time.perf_counter() - start

    def error(self, n, file):
        torch = self.torch
        own = self.logits(n)[0].double()
        other = torch.from_file(file, shared=False, size=own.numel(), dtype=torch.float32)
        self.model.double()
        exact = self.logits(n)[0]
        size = exact.norm()
        return [float((x.double().view_as(exact) - exact).norm() / size) for x in (own, other)]


class Llama:
    def __init__(self, kind, threads, model):
        import llama_cpp

        self.llama = llama_cpp.Llama(
            model_path=model, n_ctx=4096, n_batch=2048, n_ubatch=512, n_threads=threads,
            n_threads_batch=threads, logits_all=False, verbose=False,
        )

    def prefill(self, n):
        self.llama.reset()
        self.llama._ctx.kv_cache_clear()
        start = time.perf_counter()
        self.llama.eval(tokens(n))
        return time.perf_counter() - start

    def begin(self, n):
        self.llama.reset()
        self.llama._ctx.kv_cache_clear()
        self.next_tokens = tokens(n)
        return self.more(1)

    def more(self, n):
        import numpy

        start = time.perf_counter()
        for _ in range(n):
            self.llama.eval(self.next_tokens)
            logits = numpy.ctypeslib.as_array(self.llama._ctx.get_logits(), (self.llama.n_vocab(),))
            self.next_tokens = [int(logits.argmax())]
        return time.perf_counter() - start

    def perplexity(self, n):
        import numpy

        context, batch, first = self.llama._ctx, self.llama._batch, n // 2
        context.kv_cache_clear()
        start = time.perf_counter()
        batch.set_batch(tokens(n), n_past=0, logits_all=False)
        for i in range(first, n):
            batch.batch.logits[i] = 1
        context.decode(batch)
        logits = numpy.ctypeslib.as_array(context.get_logits(), (n - first, self.llama.n_vocab()))[:-1]
        logits = logits - logits.max(1, keepdims=True)
        losses = numpy.log(numpy.exp(logits).sum(1)) - logits[numpy.arange(len(logits)), tokens(n)[first + 1:]]
        losses.mean()
        return time.perf_counter() - start


def serve(kind, threads, model=None):
    peer = {"torch": Torch, "transformers": Transformers, "llama": Llama}[kind.split("-")[0]]
    peer = peer(kind, int(threads), model)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        arguments = [int(a) if a.isdigit() else a for a in arguments]
        answer = getattr(peer, command)(*arguments)
        answer = answer if isinstance(answer, list) else [answer]
        print(*answer, file=out, flush=True)


def detect(threads, model):
    torch = torch_with(int(threads))
    network = load(model, torch.bfloat16)
    found = []

    def watch(layer):
        def hook(module, inputs, output):
            for x in (inputs[0][0], output[0]):
                at = int(x.abs().argmax())
                found.append((layer, at // x.shape[-1], at % x.shape[-1], float(x.flatten()[at])))
        return hook

    for i, layer in enumerate(network.model.layers):
        layer.mlp.down_proj.register_forward_hook(watch(i))
    network(torch.tensor([tokens(10)]), use_cache=False)
    print(json.dumps(found))


def gguf(model, out, kind):
    import gguf as g
    from safetensors import safe_open

    config = json.load(open(os.path.join(model, "config.json")))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    vocabulary = config["vocab_size"]
    writer = g.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("llama")
    special = ["<unk>", "<s>", "</s>"]
    writer.add_token_list([t.encode() for t in special] + [b"t%d" % i for i in range(3, vocabulary)])
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types([2, 3, 3] + [1] * (vocabulary - 3))
    quantization = {"F16": g.GGMLQuantizationType.F16, "BF16": g.GGMLQuantizationType.BF16}[kind]
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q",
        "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
        "up_proj": "ffn_up", "down_proj": "ffn_down",
    }
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    with safe_open(os.path.join(model, "model.safetensors"), "pt") as file:
        for name in file.keys():
            x = file.get_tensor(name).float().numpy()
            parts = name.split(".")
            n = {"q_proj": heads, "k_proj": kv_heads}.get(parts[-2])
            if n:  # rotated pairs lie beside each other there
                x = x.reshape(n, 2, x.shape[0] // n // 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
            new = whole.get(name) or f"blk.{parts[2]}.{names[parts[-2]]}.weight"
            if x.ndim == 1:
                writer.add_tensor(new, x)
            else:
                writer.add_tensor(new, g.quants.quantize(x, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def versions():
    from importlib import metadata

    found = {}
    for name in ("torch", "transformers", "llama_cpp_python"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    print(json.dumps(found))


if __name__ == "__main__":
    {"serve": serve, "detect": detect, "gguf": gguf, "versions": versions}[sys.argv[1]](*sys.argv[2:])
