"""The peer of bench/train.ts, bench/infer.ts, bench/eval.ts and bench/webgpu.ts: a Llama in PyTorch, float32, as one would write it,
with fused AdamW and scaled_dot_product_attention where this PyTorch has them; on the CPU, or with "device": "cuda" on a
GPU, where "tf32", "half" and "compiled" choose what its matrix products and its model are made of. Reads one JSON request a line, answers
with one JSON line. It is no part of the service."""
import ctypes
import json
import os
import re
import sys
import time

import torch
import torch.nn.functional as F

HAS_SDPA = hasattr(F, "scaled_dot_product_attention")


def attend(q, k, v, causal):
    if HAS_SDPA:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        t = q.shape[-2]
        scores = scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), float("-inf"))
    return torch.softmax(scores, -1) @ v


class Norm(torch.nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(d))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Block(torch.nn.Module):
    def __init__(self, d, heads, f):
        super().__init__()
        self.heads = heads
        self.before, self.after = Norm(d), Norm(d)
        self.q, self.k, self.v, self.o = (torch.nn.Linear(d, d, bias=False) for _ in range(4))
        self.gate, self.up = torch.nn.Linear(d, f, bias=False), torch.nn.Linear(d, f, bias=False)
        self.down = torch.nn.Linear(f, d, bias=False)

    def forward(self, x, cos, sin, cache):
        b, t, d = x.shape
        h = self.before(x)
        q, k, v = (p(h).view(b, t, self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
            cache[:] = [k, v]
        x = x + self.o(attend(q, k, v, t > 1).transpose(1, 2).reshape(b, t, d))
        h = self.after(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(torch.nn.Module):
    def __init__(self, D, L, heads, F, V):
        super().__init__()
        self.embed = torch.nn.Embedding(V, D)
        self.blocks = torch.nn.ModuleList(Block(D, heads, F) for _ in range(L))
        self.norm, self.head = Norm(D), torch.nn.Linear(D, V, bias=False)
        self.half = D // heads // 2

    def forward(self, ids, offset=0, caches=None):
        t = torch.arange(offset, offset + ids.shape[1], dtype=torch.float32, device=ids.device)
        steps = torch.arange(self.half, dtype=torch.float32, device=ids.device)
        angle = torch.outer(t, 10000 ** (-steps / self.half))
        cos, sin = torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()
        x = self.embed(ids)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, None if caches is None else caches[i])
        return self.head(self.norm(x))


models = {}


def model_of(shape, device="cpu", compiled=False):
    key = json.dumps([shape, device, compiled], sort_keys=True)
    if key not in models:
        models.clear()
        torch.manual_seed(0)
        model = Llama(**{name: shape[name] for name in ("D", "L", "heads", "F", "V")}).to(device)
        if compiled:
            model = torch.compile(model)
        options = dict(lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
        try:
            optimizer, kind = torch.optim.AdamW(model.parameters(), fused=True, **options), "fused"
        except (TypeError, RuntimeError, ValueError):
            optimizer, kind = torch.optim.AdamW(model.parameters(), foreach=True, **options), "foreach"
        models[key] = model, optimizer, kind
    return models[key]


def info(_):
    blas = re.findall(r"BLAS_INFO=\w+|Math Kernel Library[^\n]*?Version [\w. ]*|MKL-DNN v[\w.]+", torch.__config__.show())
    return {"name": f"PyTorch {torch.__version__}", "blas": "; ".join(blas), "sdpa": HAS_SDPA, "cuda": torch.cuda.is_available()}


def finished(device):
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def gemm(request):
    n = request["n"]
    device = request.get("device", "cpu")
    dtype = torch.float16 if request.get("half") else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = bool(request.get("tf32"))
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    a @ b
    start = finished(device)
    a @ b
    return {"seconds": finished(device) - start}


def train(request):
    shape = request["shape"]
    device = request.get("device", "cpu")
    torch.backends.cuda.matmul.allow_tf32 = bool(request.get("tf32"))
    model, optimizer, kind = model_of(shape, device, bool(request.get("compiled")))
    ids = torch.randint(0, shape["V"], (shape["B"], shape["T"] + 1), device=device)
    start = finished(device)
    logits = model(ids[:, :-1])
    loss = F.cross_entropy(logits.reshape(-1, shape["V"]), ids[:, 1:].reshape(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"seconds": finished(device) - start, "adamw": kind}


@torch.no_grad()
def decode(request):
    shape, batch, context, tokens = (request[name] for name in ("shape", "batch", "context", "tokens"))
    model, _, _ = model_of(shape)
    model.to(torch.bfloat16 if request.get("bf16") else torch.float32)
    caches = [[] for _ in range(shape["L"])]
    start = time.perf_counter()
    model(torch.randint(0, shape["V"], (batch, context)), 0, caches)
    prefill = time.perf_counter() - start
    ids = torch.zeros(batch, 1, dtype=torch.long)
    start = time.perf_counter()
    for i in range(tokens):
        ids = model(ids, context + i, caches)[:, -1:].argmax(-1)
    return {"seconds": (time.perf_counter() - start) / tokens, "prefill": prefill}


def load(model, names, path):
    """Weights of a Hugging Face layout, float32 one after another in the order of `names`."""
    parts = {"input_layernorm": "before", "post_attention_layernorm": "after"}
    values, at = torch.from_file(path, size=os.path.getsize(path) // 4), 0
    state = {}
    for name in names:
        words = name.split(".")
        if words[1] == "layers":
            own = f"blocks.{words[2]}.{parts.get(words[3]) or words[4].removesuffix('_proj')}.weight"
        else:
            own = {"model.embed_tokens.weight": "embed.weight", "model.norm.weight": "norm.weight"}.get(name, "head.weight")
        shape = model.state_dict()[own].shape
        state[own] = values[at : at + shape.numel()].view(shape)
        at += shape.numel()
    model.load_state_dict(state)


@torch.no_grad()
def score(request):
    """What lm_eval/models/huggingface.py does to log-likelihood requests: the longest first, batches padded on the
    right, logits of every position, log-softmax in float32, a gather over the continuation."""
    model, _, _ = model_of(request["shape"])
    load(model, request["names"], request["weights"])
    with open(request["requests"]) as file:
        asked = json.load(file)
    results = [0.0] * len(asked)
    order = sorted(range(len(asked)), key=lambda i: -len(asked[i]["ids"]))
    start = time.perf_counter()
    for first in range(0, len(order), request["batch"]):
        chunk = order[first : first + request["batch"]]
        longest = max(len(asked[i]["ids"]) - 1 for i in chunk)
        rows = [asked[i]["ids"][:-1] + [0] * (longest - len(asked[i]["ids"]) + 1) for i in chunk]
        logprobs = F.log_softmax(model(torch.tensor(rows)), -1)
        for row, i in zip(logprobs, chunk):
            ids, begin = asked[i]["ids"], asked[i]["start"]
            wanted = torch.tensor(ids[begin:])
            own = row[begin - 1 : len(ids) - 1]
            bool((own.argmax(-1) == wanted).all())
            results[i] = float(own.gather(1, wanted.unsqueeze(-1)).sum())
    return {"seconds": time.perf_counter() - start, "likelihoods": results}


def set_threads(count):
    """An OpenBLAS that was built without OpenMP does not hear of torch's number."""
    torch.set_num_threads(count)
    try:
        ctypes.CDLL("libopenblas.so.0", mode=os.RTLD_NOLOAD).openblas_set_num_threads(count)
    except OSError:
        pass


for line in sys.stdin:
    message = json.loads(line)
    set_threads(message.get("threads", 1))
    print(json.dumps(globals()[message["op"]](message)), flush=True)
