"""The deepseek_v41 text model in torch, whole sequences at a time: what engramd computes, with gradients.

Shapes: B rows of T tokens, H = hidden_size, S = hc_mult residual streams. `config` is the text part of config.json.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

import attention
import quantise
from weight import Weight, matrix, ones, rms_norm


class Step:
    """What the layers of one forward pass share. Everything about compressed positions is by their ratio.

    positions, documents [B, T]: several short documents may stand in one row, padded so that each begins at a multiple
    of text.alignment(config); then nothing of one is seen from another, and each is computed as if it stood alone."""

    def __init__(self, config, positions, documents, training):
        at = torch.arange(positions.shape[1])
        near = (at[:, None] >= at) & (at[:, None] - at < config["sliding_window"])
        self.window = near & (documents[:, :, None] == documents[:, None])
        self.rotary = {kind: attention.rotary_table(config, kind, positions) for kind in (False, True)}
        self.first_of_group, self.complete, self.newest_group = {}, {}, {}
        for ratio in set(config["compress_ratios"]) - {0}:
            n = positions.shape[1] // ratio
            of_group = slice(0, n * ratio, ratio)
            last = torch.arange(n) * ratio + ratio - 1
            self.first_of_group[ratio] = attention.rotary_table(config, True, positions[:, of_group])
            self.complete[ratio] = ((at[:, None] >= last) & (documents[:, :, None] == documents[:, None, of_group]))
            self.newest_group[ratio] = ((at + 1) // ratio - 1).expand(positions.shape)
        self.training, self.losses = training, []
        # left by one layer for those after it
        self.cache = self.index_keys = self.scores = self.selected = self.candidates = None


# --- residual streams --------------------------------------------------------------------------------------------


def balance(scores, iterations, eps):
    """scores [..., S, S] -> positive, all rows and columns summing to nearly one (Sinkhorn)."""
    c = scores.softmax(-1) + eps
    c = c / (c.sum(-2, keepdim=True) + eps)
    for _ in range(iterations - 1):
        c = c / (c.sum(-1, keepdim=True) + eps)
        c = c / (c.sum(-2, keepdim=True) + eps)
    return c


def mix(streams, fn, base, scale, config):
    """streams [..., S, H] -> how the next sublayer reads them [..., S], how this one's output is added [..., S], and
    how they change among themselves [..., old, new]."""
    n = config["hc_mult"]
    flat = streams.flatten(-2)
    m = F.linear(flat, fn) * torch.rsqrt(flat.square().mean(-1, keepdim=True) + config["rms_norm_eps"])
    read = torch.sigmoid(m[..., :n] * scale[0] + base[:n]) + config["hc_eps"]
    add = 2 * torch.sigmoid(m[..., n:2 * n] * scale[1] + base[n:2 * n])
    change = (m[..., 2 * n:] * scale[2] + base[2 * n:]).unflatten(-1, (n, n))
    return read, add, balance(change, config["hc_sinkhorn_iters"], config["hc_eps"])


def collapse(streams, read):
    return (read[..., None] * streams).sum(-2)


def expand(output, streams, add, change):
    return add[..., None] * output[..., None, :] + torch.einsum("...jk,...jd->...kd", change, streams)


# --- sublayers ---------------------------------------------------------------------------------------------------


class Router(nn.Module):
    """Chooses experts. `bias` steers the choice alone and is moved by `even_out`, not by a gradient."""

    def __init__(self, config):
        super().__init__()
        n = config["n_routed_experts"]
        self.config = config
        self.weight = Weight(torch.randn(n, config["hidden_size"]) * config["hidden_size"] ** -0.5, "bf16", bare=True)
        self.bias = Weight(torch.zeros(n), "f32", bare=True, trained=False)
        self.bias_vl = Weight(torch.zeros(n), "f32", bare=True, trained=False)  # of image tokens; kept like bias
        self.load = torch.zeros(n)  # tokens per expert in the last pass

    def forward(self, x):
        """x [N, H] -> experts [N, k], their weights [N, k]."""
        k = self.config["num_experts_per_tok"]
        logits = F.linear(x, self.weight()) / self.config.get("gate_temp", 1.0)
        score = torch.sqrt(F.softplus(logits))
        chosen = torch.sort((score + self.bias()).detach(), dim=-1, descending=True, stable=True).indices[:, :k]
        share = score.gather(-1, chosen)
        if self.config["norm_topk_prob"] and k > 1:
            share = share / (share.sum(-1, keepdim=True) + 1e-20)
        self.load = torch.bincount(chosen.flatten(), minlength=score.shape[-1]).float()
        return chosen, share * self.config["routed_scaling_factor"]

    @torch.no_grad()
    def even_out(self, rate):
        """Moves the bias a little towards the experts that got less than their share."""
        self.bias.values.add_(rate * torch.sign(self.load.mean() - self.load))
        self.bias_vl.values.copy_(self.bias.values)


class Expert(nn.Module):
    """w1, w3: [inner, H]; w2: [H, inner]; with experts, that many of each, stacked."""

    def __init__(self, config, storage, experts=None):
        super().__init__()
        hidden, inner = config["hidden_size"], config["moe_intermediate_size"]
        self.w1 = matrix(inner, hidden, storage, experts=experts)
        self.w2 = matrix(hidden, inner, storage, gain=1 / 3, experts=experts)
        self.w3 = matrix(inner, hidden, storage, experts=experts)


def swiglu(x, w1, w2, w3, limit, share=None):
    """x [N, H] -> [N, H]. share [N, 1] is multiplied in before the last product."""
    gate, up = F.linear(x, w1), F.linear(x, w3)
    if limit > 0:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    inner = F.silu(gate) * up
    return F.linear(inner if share is None else inner * share, w2)


class MixtureOfExperts(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.limit = config["swiglu_limit"]
        self.gate = Router(config)
        self.experts = Expert(config, "fp4", config["n_routed_experts"])
        self.shared_experts = Expert(config, "fp8")

    def forward(self, x):
        """x [B, T, H] -> [B, T, H]. Tokens are sorted by expert, so that each expert is one product."""
        shape, x = x.shape, x.flatten(0, 1)
        chosen, share = self.gate(x)
        order = torch.argsort(chosen.flatten(), stable=True)
        token = order // chosen.shape[-1]
        counts = torch.bincount(chosen.flatten(), minlength=self.gate.load.numel()).tolist()
        inputs, shares = x[token].split(counts), share.flatten()[order][:, None].split(counts)
        stacks = [w().unbind(0) for w in (self.experts.w1, self.experts.w2, self.experts.w3)]
        outputs = [swiglu(inputs[e], stacks[0][e], stacks[1][e], stacks[2][e], self.limit, shares[e])
                   for e in range(len(counts)) if counts[e]]
        shared = self.shared_experts
        y = swiglu(x, shared.w1(), shared.w2(), shared.w3(), self.limit)
        return y.index_add(0, token, torch.cat(outputs)).view(shape)


class Engram(nn.Module):
    """The memory of one layer: rows found by n-grams, projected to a key per stream and one value, added to the streams
    as far as key and stream agree."""

    def __init__(self, config, rank):
        super().__init__()
        self.config, self.rank = config, rank
        n, hidden, width = config["hc_mult"], config["hidden_size"], config["engram_head_dim"]
        columns = (config["engram_max_ngram_size"] - 1) * config["engram_n_heads"]
        rows = config["engram_num_embeddings"][rank]
        self.embed = Weight(torch.randn(rows, width) * 0.03, "rows")
        self.wkv = matrix((n + 1) * hidden, columns * width)
        self.q_weight, self.k_weight = ones(n, hidden, bare=True), ones(n, hidden, bare=True)

    def _look_up(self, rows):
        """Only the rows looked up are rounded, and only they have a gradient (a sparse one)."""
        found = F.embedding(rows, self.embed.values, sparse=True)
        if self.embed.rounded:
            found = quantise.straight_through(quantise.round_rows, found)
        return found

    def forward(self, streams, rows):
        """streams [B, T, S, H], rows [B, T, columns] -> streams."""
        n, hidden, eps = self.config["hc_mult"], self.config["hidden_size"], self.config["rms_norm_eps"]
        kv = F.linear(self._look_up(rows).flatten(-2), self.wkv())
        keys, value = kv[..., :n * hidden].unflatten(-1, (n, hidden)), kv[..., n * hidden:]
        weight = self.q_weight() * self.k_weight()
        size = torch.rsqrt(streams.square().mean(-1) + eps) * torch.rsqrt(keys.square().mean(-1) + eps)
        agreement = (streams * weight * keys).sum(-1) * size / math.sqrt(hidden)
        gate = torch.sigmoid(torch.copysign(torch.sqrt(agreement.abs().clamp(min=1e-6)), agreement))
        return streams + gate[..., None] * value[..., None, :]


# --- the model ---------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.config = config
        engram_layers = config.get("engram_layer_ids", [])
        if layer in engram_layers:
            self.engram = Engram(config, engram_layers.index(layer))
        self.attn_norm, self.ffn_norm = ones(config["hidden_size"]), ones(config["hidden_size"])
        self.attn = attention.Attention(config, layer)
        self.ffn = MixtureOfExperts(config)
        for site in ("attn", "ffn"):
            self._add_mix(f"hc_{site}", config)

    def _add_mix(self, name, config):
        """At first the streams are read evenly and mostly keep to themselves."""
        n = config["hc_mult"]
        rows = (2 + n) * n
        base = torch.zeros(rows)
        base[:n] = -math.log(n - 1) if n > 1 else 3.0
        base[2 * n:] = (torch.eye(n) * 6 - 3).flatten()
        fn = torch.randn(rows, n * config["hidden_size"]) * 0.02
        setattr(self, f"{name}_fn", Weight(fn, "f32", bare=True))
        setattr(self, f"{name}_base", Weight(base, "f32", bare=True))
        setattr(self, f"{name}_scale", Weight(torch.full((3,), 0.1), "f32", bare=True))

    def _mix(self, streams, name):
        fn, base, scale = (getattr(self, f"{name}_{part}")() for part in ("fn", "base", "scale"))
        return mix(streams, fn, base, scale, self.config)

    def forward(self, streams, read, rows, step):
        """read [B, T, S]: how the sublayer before said to read the streams. Returns streams and the next read."""
        eps = self.config["rms_norm_eps"]
        if hasattr(self, "engram"):
            streams = self.engram(streams, rows[self.engram.rank])
        next_read, add, change = self._mix(streams, "hc_attn")
        output = self.attn(rms_norm(collapse(streams, read), self.attn_norm(), eps), step)
        streams = expand(output, streams, add, change)
        last_read, add, change = self._mix(streams, "hc_ffn")
        output = self.ffn(rms_norm(collapse(streams, next_read), self.ffn_norm(), eps))
        return expand(output, streams, add, change), last_read


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        vocab, hidden = config["vocab_size"], config["hidden_size"]
        self.embed = Weight(torch.randn(vocab, hidden), "bf16")
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config["num_hidden_layers"]))
        self.norm = ones(hidden)
        self.head = matrix(vocab, hidden, "bf16")

    def forward(self, ids, rows, positions=None, documents=None):
        """ids [B, T]; rows: per Engram layer [B, T, columns] (hashing.Addresser), [] without Engram; positions and
        documents: see Step. Returns logits [B, T, vocab] and, in training, the indexers' loss."""
        if positions is None:
            positions = torch.arange(ids.shape[1]).expand(ids.shape)
        if documents is None:
            documents = torch.zeros_like(ids)
        step = Step(self.config, positions, documents, self.training)
        embedded = F.embedding(ids, self.embed())
        streams = embedded[..., None, :].repeat(1, 1, self.config["hc_mult"], 1)
        read = torch.zeros(*ids.shape, self.config["hc_mult"])
        read[..., 0] = 1
        for layer in self.layers:
            streams, read = layer(streams, read, rows, step)
        out = rms_norm(collapse(streams, read), self.norm(), self.config["rms_norm_eps"])
        return F.linear(out, self.head()), sum(step.losses)

    def weights(self):
        """(path, Weight) of every stored tensor."""
        return [(path, m) for path, m in self.named_modules() if isinstance(m, Weight)]

    def set_rounded(self, rounded):
        for _, weight in self.weights():
            weight.rounded = rounded
