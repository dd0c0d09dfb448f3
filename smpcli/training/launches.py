"""What a stretch of tensor code launches, and how often it would wait for the device, seen on any machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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


def recorded(call: Callable[[], object]) -> Recorder:
    recorder = Recorder()
    with recorder:
        call()
    return recorder
