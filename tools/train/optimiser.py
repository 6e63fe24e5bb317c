"""What moves which weight: Muon the matrices between layers, AdamW what is read and written token by token (embedding,
head, norms, hyper-connections, router), sparse Adam the rows of the Engram tables that a batch looked up."""
import math

import torch

MATRIX_RATE, VECTOR_RATE, TABLE_RATE = 0.02, 3e-3, 3e-2
MATRIX_DECAY = 0.02
ROUTER_RATE = 0.002  # of the router's bias, see model.Router
MOMENTUM = 0.95
BY_VECTOR = ("embed", "head", "norm", "hc_", "q_weight", "k_weight", "gate", "attn_sink")


def orthogonal(g):
    """g [N, a, b] with all singular values near one, by five steps of a polynomial (Newton and Schulz)."""
    tall = g.shape[1] > g.shape[2]
    x = g.mT if tall else g
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    x = x.float()
    return x.mT if tall else x


class Muon:
    """Momentum, made orthogonal. Matrices of one shape are done together."""

    def __init__(self, parameters):
        self.by_shape, self.momentum = {}, {}
        for p in parameters:
            self.by_shape.setdefault(tuple(p.shape[-2:]), []).append(p)
            self.momentum[p] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, rate):
        for shape, parameters in self.by_shape.items():
            parameters = [p for p in parameters if p.grad is not None]
            if not parameters:
                continue
            pushes = []
            for p in parameters:
                average = self.momentum[p].lerp_(p.grad, 1 - MOMENTUM)
                pushes.append(p.grad.lerp(average, MOMENTUM).reshape(-1, *shape))
            moves = orthogonal(torch.cat(pushes)) * (0.2 * math.sqrt(max(shape)))
            for p, move in zip(parameters, moves.split([push.shape[0] for push in pushes])):
                p.mul_(1 - rate * MATRIX_DECAY).add_(move.view_as(p), alpha=-rate)


class Optimiser:
    """All of them, with one scale of their rates."""

    def __init__(self, model):
        vectors, matrices, tables = [], [], []
        for path, weight in model.weights():
            p = weight.values
            if not p.requires_grad:
                continue
            if weight.storage == "rows":
                tables.append(p)
            elif p.ndim < 2 or any(word in path for word in BY_VECTOR):
                vectors.append(p)
            else:
                matrices.append(p)
        self.model, self.vectors = model, vectors
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(vectors, VECTOR_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.sparse = torch.optim.SparseAdam(tables, TABLE_RATE, betas=(0.8, 0.98)) if tables else None

    def step(self, scale):
        """One step from the gradients, which are used up. scale: 0 .. 1, of all rates."""
        torch.nn.utils.clip_grad_norm_(self.vectors, 1.0)
        self.muon.step(MATRIX_RATE * scale)
        self.adam.param_groups[0]["lr"] = VECTOR_RATE * scale
        self.adam.step()
        if self.sparse:
            self.sparse.param_groups[0]["lr"] = TABLE_RATE * scale
            self.sparse.step()
        for layer in self.model.layers:
            layer.ffn.gate.even_out(ROUTER_RATE * scale)
        self.model.zero_grad(set_to_none=True)
