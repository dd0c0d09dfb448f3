"""How many operations a training step launches beside the model's own, and how often it would wait for them.

Counted on any machine: what an accelerator does is ordinary tensor code, which a CPU carries out as well. An
accelerator launches about one kernel for each.
"""

from __future__ import annotations

from dataclasses import dataclass

from smpcli.bench.train import Case, Contestant
from smpcli.training.launches import recorded


@dataclass(frozen=True)
class Operations:
    """A row of the answer, of one step.

    operations: launched beyond the model's own forward and backward pass, by masks, gradients, clipping and the
    optimiser; waits: how often the host waits for the device in the whole step, the model's passes included.
    """

    method: str
    operations: int
    waits: int


def count_operations(methods: list[str], case: Case) -> list[Operations]:
    """Of dense and `methods`, computed as on an accelerator, whatever the device.

    Raises UserError for a method or setting that doesn't exist.
    """
    return [_count(Contestant(name, case, stacked=True)) for name in dict.fromkeys(["dense", *methods])]


def _count(contestant: Contestant) -> Operations:
    training, batches = contestant.training, iter(contestant.batches)
    # Only the first steps ask for memory, and make what later ones use.
    for _ in range(2):
        training.step(contestant.number, next(batches))
    batch = next(batches)
    whole = recorded(lambda: training.step(contestant.number, batch))
    model = recorded(lambda: training.backward(batch))
    training.optimizer.zero_grad()
    beyond = sum(whole.launched.values()) - sum(model.launched.values())
    return Operations(contestant.method, beyond, sum(whole.waits.values()))
