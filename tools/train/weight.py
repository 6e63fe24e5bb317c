"""One stored tensor of the checkpoint as a module: its values, the format it is stored in, its name in the file."""
import torch
from torch import nn

import quantise

# How a value of each format is rounded. f32 is stored as it is.
ROUNDING = {"f32": None, "bf16": quantise.round_bf16, "fp8": quantise.round_fp8, "fp4": quantise.round_fp4,
            "rows": quantise.round_rows}


class Weight(nn.Module):
    """values: float32 of any shape. Calling it gives the values to compute with: as they are, or (while `rounded` is
    set, in the last part of a run) as the file will hold them, with the gradient of unrounded ones.

    bare: the tensor's name in the file is the module's path; otherwise ".weight" is added to it.
    stacked: the first dimension counts experts, each of which is a tensor of its own in the file."""

    def __init__(self, values, storage, bare=False, stacked=False, trained=True):
        super().__init__()
        self.values = nn.Parameter(values, requires_grad=trained)
        self.storage, self.bare, self.stacked = storage, bare, stacked
        self.rounded = False

    def forward(self):
        rounding = ROUNDING[self.storage]
        if not self.rounded or rounding is None:
            return self.values
        return quantise.straight_through(rounding, self.values)


def matrix(out_dim, in_dim, storage="fp8", gain=1.0, experts=None):
    """Random values of variance gain^2 / in_dim: [out, in], or [experts, out, in]."""
    shape = (out_dim, in_dim) if experts is None else (experts, out_dim, in_dim)
    return Weight(torch.randn(*shape) * gain * in_dim ** -0.5, storage, stacked=experts is not None)


def ones(*shape, bare=False):
    """The weight of a norm."""
    return Weight(torch.ones(*shape), "bf16", bare=bare)


def rms_norm(x, weight, eps):
    """x [..., n] over its root mean square, times weight [n]."""
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))
