"""Attention of one layer: the window, the compressed positions beside it, and the indexer that selects among them."""
import math

import torch
import torch.nn.functional as F
from torch import nn

import quantise
from quantise import straight_through
from weight import Weight, matrix, ones, rms_norm

HIDDEN = float("-inf")


def rotary_table(config, compressed, positions):
    """positions [...] -> cosines and sines [..., qk_rope_head_dim / 2]. Layers with compressed positions have a base of
    their own, stretched by YaRN where the configuration says so."""
    n = config["qk_rope_head_dim"]
    base = config["compress_rope_theta"] if compressed else config["rope_theta"]
    frequency = 1.0 / base ** (torch.arange(0, n, 2, dtype=torch.float32) / n)
    yarn = config.get("rope_scaling")
    if compressed and yarn:
        def turns(count):  # the channel that turns so many times over the original length
            return n * math.log(yarn["original_max_position_embeddings"] / (2 * math.pi * count)) / (2 * math.log(base))
        low = max(math.floor(turns(yarn["beta_fast"])), 0)
        high = min(math.ceil(turns(yarn["beta_slow"])), n - 1)
        slow = ((torch.arange(n // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
        frequency = frequency / yarn["factor"] * slow + frequency * (1 - slow)
    angle = positions.float()[..., None] * frequency
    return angle.cos(), angle.sin()


def rotate(x, table, inverse=False):
    """The last channels of x [..., n], taken as pairs of neighbours, turned by the table's angles."""
    cos, sin = table
    if inverse:
        sin = -sin
    n = 2 * cos.shape[-1]
    still, turned = x[..., :-n], x[..., -n:]
    a, b = turned[..., 0::2], turned[..., 1::2]
    return torch.cat([still, torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)], -1)


class Compressor(nn.Module):
    """Groups of `ratio` tokens into one latent each; only the layers that own a compressed cache have one."""

    def __init__(self, config, ratio):
        super().__init__()
        self.ratio, self.eps = ratio, config["rms_norm_eps"]
        self.wkv = matrix(config["head_dim"], config["hidden_size"], "bf16")
        if ratio > 1:
            self.wgate = matrix(config["head_dim"], config["hidden_size"], "bf16")
        self.norm = ones(config["head_dim"])

    def forward(self, x):
        """x [B, T, H] -> latents [B, T // ratio, D]; tokens behind the last whole group have none yet."""
        latent = F.linear(x, self.wkv())
        if self.ratio > 1:
            whole = x.shape[1] // self.ratio * self.ratio
            grouped = latent[:, :whole].unflatten(1, (-1, self.ratio))
            gate = F.linear(x, self.wgate())[:, :whole].unflatten(1, (-1, self.ratio))
            latent = (gate.softmax(2) * grouped).sum(2)
        return rms_norm(latent, self.norm(), self.eps)


class Indexer(nn.Module):
    """Scores compressed positions for each query. Its gradient comes from `follow` alone: a selection has none."""

    def __init__(self, config, has_keys):
        super().__init__()
        self.n_heads, self.width = config["index_n_heads"], config["index_head_dim"]
        self.eps = config["rms_norm_eps"]
        self.wq_b = matrix(self.n_heads * self.width, config["q_lora_rank"])
        self.weights_proj = matrix(self.n_heads, config["hidden_size"], "bf16")
        if has_keys:
            self.wk = matrix(self.width, config["head_dim"], "bf16")
            self.k_norm = ones(self.width)

    def keys(self, latent, table):
        """latent [B, n, D], not rotated yet -> keys [B, n, index_head_dim]."""
        key = rms_norm(F.linear(latent.detach(), self.wk()), self.k_norm(), self.eps)
        return straight_through(quantise.round_index, rotate(key, table))

    def scores(self, x, query_latent, keys, table):
        """x [B, T, H], query_latent [B, T, q_lora_rank], keys [B, n, d] -> [B, T, n]."""
        query = F.linear(query_latent.detach(), self.wq_b()).unflatten(-1, (self.n_heads, self.width))
        query = straight_through(quantise.round_index, rotate(query, [t[:, :, None] for t in table]))
        weight = F.linear(x.detach(), self.weights_proj()) * (self.width ** -0.5 * self.n_heads ** -0.5)
        dots = F.relu(torch.einsum("bthd,bjd->bthj", query, keys))
        return torch.einsum("bthj,bth->btj", dots, weight)

    @staticmethod
    def follow(scores, selected, shares):
        """How far the scores are from the attention that was paid: a loss. shares [B, T, n]: what the heads gave to
        each compressed position, averaged; selected [B, T, n]."""
        total = shares.sum(-1, keepdim=True)
        target = shares / total.clamp(min=1e-9)
        guess = torch.log_softmax(scores.masked_fill(~selected, -1e4), -1)
        return -((target * guess).sum(-1) * (total[..., 0] > 1e-6)).mean()


class Attention(nn.Module):
    """One shared key of head_dim channels, which is the value as well, for all heads."""

    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer, self.ratio = config, layer, config["compress_ratios"][layer]
        heads, width, rank = config["num_attention_heads"], config["head_dim"], config["q_lora_rank"]
        self.groups, self.out_rank = config["o_groups"], config["o_lora_rank"]
        hidden, out = config["hidden_size"], self.groups * self.out_rank
        self.attn_sink = Weight(torch.zeros(heads), "f32", bare=True)
        self.wq_a, self.q_norm, self.wq_b = matrix(rank, hidden), ones(rank), matrix(heads * width, rank)
        self.wkv, self.kv_norm = matrix(width, hidden), ones(width)
        self.wo_a, self.wo_b = matrix(out, heads * width // self.groups), matrix(hidden, out, gain=1 / 3)
        self.owns_cache = layer in config["kv_source_layer_ids"]
        if self.owns_cache:
            self.compressor = Compressor(config, self.ratio)
        if layer in config["index_source_layer_ids"]:
            self.indexer = Indexer(config, self.owns_cache)

    def forward(self, x, step):
        """x [B, T, H] normalised, step: what the layers of this pass share (model.Step) -> [B, T, H]."""
        config, width = self.config, self.config["head_dim"]
        table = step.rotary[bool(self.ratio)]
        spread = [t[:, :, None] for t in table]
        query_latent = rms_norm(F.linear(x, self.wq_a()), self.q_norm(), config["rms_norm_eps"])
        query = rotate(F.linear(query_latent, self.wq_b()).unflatten(-1, (-1, width)), spread)
        key = rotate(rms_norm(F.linear(x, self.wkv()), self.kv_norm(), config["rms_norm_eps"]), table)
        keys, visible = straight_through(quantise.round_window_kv, key), step.window
        if self.ratio:
            self._select(x, query_latent, table, step)
            keys, visible = torch.cat([keys, step.cache], 1), torch.cat([visible, step.selected], -1)
        shares = self._shares(query, keys, visible)
        if hasattr(self, "indexer") and step.training:
            paid = shares[..., x.shape[1]:].detach().mean(1)
            step.losses.append(Indexer.follow(step.scores, step.selected, paid))
        out = rotate(torch.einsum("bhtj,bjd->bthd", shares, keys), spread, inverse=True)
        grouped = out.flatten(-2).unflatten(-1, (self.groups, -1))
        mixed = torch.einsum("btgi,gri->btgr", grouped, self.wo_a().unflatten(0, (self.groups, self.out_rank)))
        return F.linear(mixed.flatten(-2), self.wo_b())

    def _shares(self, query, keys, visible):
        """Softmax over the visible keys and each head's sink, which takes a share and gives nothing:
        [B, h, T, keys]."""
        scores = torch.einsum("bthd,bjd->bhtj", query, keys) / math.sqrt(query.shape[-1])
        scores = scores.masked_fill(~visible[:, None], HIDDEN)
        sink = self.attn_sink().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        return torch.cat([scores, sink], -1).softmax(-1)[..., :-1]

    def _select(self, x, query_latent, table, step):
        """Leaves in step: the compressed cache and its index keys (a layer that owns one), then scores and selection
        (a layer with an indexer). Other layers use what is there."""
        if self.owns_cache:
            latent = self.compressor(x)
            first = step.first_of_group[self.ratio]
            step.index_keys = self.indexer.keys(latent, first)
            step.cache = straight_through(quantise.round_compressed_kv, rotate(latent, first))
        if hasattr(self, "indexer"):
            step.scores = self.indexer.scores(x, query_latent, step.index_keys, table)
            seen = step.scores.detach().masked_fill(~step.complete[self.ratio], HIDDEN)
            source = self.config["candidate_source_layer_id"]
            if 0 <= source < self.layer:
                seen = seen.masked_fill(~step.candidates, HIDDEN)
            step.selected = best(seen, self.config["index_topk"])
            if self.layer == source:
                step.candidates = self._candidate_blocks(seen, step)

    def _candidate_blocks(self, seen, step):
        """The blocks of positions that later indexers choose from, as a mask of positions [B, T, n]: the best ones, and
        always the block of the newest position."""
        size, n = self.config["candidate_block_size"], seen.shape[-1]
        blocks = F.pad(seen, (0, -n % size), value=HIDDEN).unflatten(-1, (-1, size)).amax(-1)
        if blocks.shape[-1] == 0:
            return torch.zeros_like(seen, dtype=torch.bool)
        newest = step.newest_group[self.ratio] // size
        index = torch.arange(blocks.shape[-1])
        forced = (index == newest[..., None]) & (blocks > HIDDEN)
        kept = best(blocks.masked_fill(forced, float("inf")), self.config["candidate_topk_blocks"])
        return kept.repeat_interleave(size, -1)[..., :n]


def best(scores, k):
    """Mask of the k best per row of scores [..., n], without those that are -inf; of equals the first."""
    k = min(k, scores.shape[-1])
    order = torch.sort(scores, dim=-1, descending=True, stable=True)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter_(-1, order.indices[..., :k], order.values[..., :k] > HIDDEN)
