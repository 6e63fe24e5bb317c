"""One training run: a model, batches, a schedule, and how well it predicts text it has not seen."""
import dataclasses
import time

import torch
import torch.nn.functional as F

from model import Model
from optimiser import Optimiser

WARM_UP = 60      # steps until the rates are full, or
EARLY = 0.05      # part of the run until they are: whichever comes first
LEVEL = 0.3       # part of the run at full rates; then they fall in a line
LOWEST = 0.02     # of the full rate, at the end
ROUNDED = 0.85    # from this part of the run on, weights are rounded as the file will hold them
INDEXER_LOSS = 0.01
REPORT_EVERY = 20  # seconds


@dataclasses.dataclass
class Budget:
    """A run ends after so many steps or seconds, whichever is given; both: whichever comes first."""
    steps: int = 0
    seconds: float = 0

    def part(self, step, elapsed):
        """How much of the run is done, 0 .. 1."""
        return max(step / self.steps if self.steps else 0, elapsed / self.seconds if self.seconds else 0)


@dataclasses.dataclass
class Outcome:
    steps: int
    tokens: int
    seconds: float


def batch_loss(model, batch):
    """Sum of the losses of the counted tokens, how many those are, and the indexers' loss."""
    logits, indexers = model(batch.ids, batch.rows, batch.positions, batch.documents)
    loss = F.cross_entropy(logits[batch.counted], batch.targets[batch.counted], reduction="sum")
    return loss, int(batch.counted.sum()), indexers


@torch.no_grad()
def validate(model, packer, pieces):
    """Mean loss per token over the pieces, in nats, in float32."""
    model.eval()
    total = count = 0
    for batch in packer.batches(pieces):
        loss, n, _ = batch_loss(model, batch)
        total, count = total + loss.item(), count + n
    model.train()
    return total / count


def scale_at(step, part):
    warm = min(1, max((step + 1) / WARM_UP, part / EARLY))
    return warm * (1 if part < LEVEL else max(LOWEST, 1 - (part - LEVEL) / (1 - LEVEL)))


def train(config, packer, pieces, budget, seed, say=print):
    """A Model trained on the pieces within the budget -> (Model, Outcome)."""
    torch.manual_seed(seed)
    model = Model(config).train()
    optimiser = Optimiser(model)
    start = said = time.monotonic()
    step = tokens = 0
    recent = None
    for batch in packer.endless(pieces, seed):
        elapsed = time.monotonic() - start
        part = budget.part(step, elapsed)
        if part >= 1:
            break
        model.set_rounded(part >= ROUNDED)
        loss, n, indexers = batch_loss(model, batch)
        (loss / n + INDEXER_LOSS * indexers).backward()
        optimiser.step(scale_at(step, part))
        step, tokens = step + 1, tokens + n
        recent = loss.item() / n if recent is None else 0.95 * recent + 0.05 * loss.item() / n
        if time.monotonic() - said > REPORT_EVERY:
            said = time.monotonic()
            seconds = said - start
            say(f"  {seconds:.0f} s: step {step}, {tokens} tokens, loss {recent:.3f}, {tokens / seconds:.0f} tokens/s"
                f"{', weights rounded' if part >= ROUNDED else ''}")
    model.set_rounded(False)
    return model.eval(), Outcome(step, tokens, time.monotonic() - start)
