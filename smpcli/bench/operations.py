"""How many operations a training step launches beside the model's own, and how often it would wait for them.

Counted on any machine: what an accelerator does is ordinary tensor code, which a CPU carries out as well. An
accelerator launches about one kernel for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from smpcli.bench.train import STEP, Case, Contestant

# Memory is asked for, not computed with; profilers' marks.
_FREE = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"),
    *("_record_function_enter_new", "_record_function_exit"),
}
# Their result, or its shape, is a number that the host needs.
_ASK = {
    *("_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "bincount", "histc"),
    *("_unique2", "unique_dim", "unique_consecutive"),
}


@dataclass(frozen=True)
class Operations:
    """A row of the answer, of one step.

    operations: launched beyond the model's own forward and backward pass, by masks, gradients, clipping and the
    optimiser; waits: how often the host waits for the device in the whole step, the model's passes included.
    """

    method: str
    operations: int
    waits: int


class Recorder(TorchDispatchMode):
    """Counts the operations within it by name; views and memory cost no launch.

    Python numbers made into a tensor count as a wait, as they go to the device in memory that isn't pinned; a tensor
    of them that stays on the host looks the same. A whole tensor's way to the host (`tolist`, `cpu`) is no operation
    on a CPU, so it doesn't show here: of a GPU, `torch.cuda.set_sync_debug_mode("error")` finds it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launched: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _FREE:
            self.launched[name] += 1
        by_mask = name in ("index", "index_put_", "index_put") and _by_mask(args[1])
        if name in _ASK or by_mask or (name == "lift_fresh" and _sent(args[0])):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


def _by_mask(indices: Any) -> bool:
    """Whether a mask among the indices makes the result's shape depend on numbers."""
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _sent(made: Tensor) -> bool:
    """Whether a new tensor holds Python numbers: not nothing, nor numpy's memory, which is the host's for good."""
    return made.numel() > 0 and made.untyped_storage().resizable()


def count_operations(methods: list[str], case: Case) -> list[Operations]:
    """Of dense and `methods`, computed as on an accelerator, whatever the device.

    Raises UserError for a method or setting that doesn't exist.
    """
    return [_count(Contestant(name, case, stacked=True)) for name in dict.fromkeys(["dense", *methods])]


def _count(contestant: Contestant) -> Operations:
    training, batches = contestant.training, iter(contestant.batches)
    # Only the first steps ask for memory, and make what later ones use.
    for _ in range(2):
        training.step(STEP, next(batches))
    batch = next(batches)
    whole = recorded(lambda: training.step(STEP, batch))
    model = recorded(lambda: training.backward(batch))
    training.optimizer.zero_grad()
    beyond = sum(whole.launched.values()) - sum(model.launched.values())
    return Operations(contestant.method, beyond, sum(whole.waits.values()))


def recorded(call: Callable[[], object]) -> Recorder:
    recorder = Recorder()
    with recorder:
        call()
    return recorder
