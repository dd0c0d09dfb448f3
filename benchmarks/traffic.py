"""What a training step launches and moves beside the model's own passes: stacked, as on an accelerator, or not.

    python benchmarks/traffic.py smp dense --shape bert-base            # operations, waits, GB
    python benchmarks/traffic.py smp movement --shape minilm --alone # as it was before matrices were stacked

GB: what each operation reads and writes, each tensor once; what an operation reads again within isn't known here.
--alone computes each matrix by itself with torch's operations, as accelerators did, where a CPU takes numpy's; it
looks for no NaN. Any machine will do, and numbers are the same on each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from pruners import masking
from pruners.masks import layer, selection, structure
from pruners.masks.allocation import SAMPLE_STRIDE
from smpcli.bench.shapes import SHAPES, random_checkpoint
from smpcli.bench.train import Case, Contestant
from smpcli.training.launches import Recorder


class Traffic(Recorder):
    """The recorder, and the bytes of each operation's arguments and results."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = sum(self.launched.values())
        found = super().__torch_dispatch__(func, types, args, kwargs)
        if sum(self.launched.values()) > before:
            read = {id(leaf): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            written = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in (*read.values(), *written))
        return found


def recorded(call: Callable[[], object]) -> Traffic:
    traffic = Traffic()
    with traffic:
        call()
    return traffic


def in_torch() -> None:
    """Compute with torch what a CPU computes with numpy."""

    def top_k(scores: np.ndarray, k: int, mask: np.ndarray) -> None:
        numbers = torch.from_numpy(scores)
        threshold = numbers.topk(k, sorted=False).values.min()
        above, equal = numbers > threshold, numbers == threshold
        torch.logical_or(above, equal & (equal.cumsum(0) <= k - above.sum()), out=torch.from_numpy(mask))

    def apply(weight: Tensor, mask: Tensor, out: Tensor) -> None:
        torch.mul(weight.detach(), mask, out=out.detach())

    def threshold(scores: Tensor, kept: int) -> Tensor:
        stride = SAMPLE_STRIDE if scores.numel() >= structure.SAMPLED_FROM else 1
        sample = scores[::stride]
        return sample.topk(min(max(1, round(kept / stride)), sample.numel()), sorted=False).values.min()

    selection._top_k_numpy = top_k
    for module in (layer, masking):
        vars(module)["apply_mask"] = apply
    structure._threshold = threshold


def by_kernels() -> None:
    """Count of a selection what `pruners/masks/radix.py` reads and writes; what it chooses is the same."""
    chosen = selection.RowTopK.mask

    def mask(
        self: selection.RowTopK,
        rows: Tensor,
        kept: Tensor,
        fewer: Tensor,
        least: int,
        most: int,
        inside: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        recorder = _get_current_dispatch_mode()
        with _disable_current_modes():
            found = chosen(self, rows, kept, fewer, least, most, inside, out)
        if isinstance(recorder, Traffic):
            # Four histograms, ties, the mask; and four choices, three numbers set, a running sum.
            reads = sum(part.numel() * part.element_size() for part in (rows, inside) if part is not None)
            recorder.bytes += 6 * reads + found.numel()
            recorder.launched["kernel"] += 6 + 4 + 3 + 1
        return found

    vars(selection)["RowTopK"].mask = mask


def measure(method: str, case: Case, alone: bool) -> str:
    """A line on one method's step, of which the first two, which ask for memory, aren't counted."""
    one = Contestant(method, case, stacked=not alone)
    batches = iter(one.batches)
    for _ in range(2):
        one.step(next(batches))
    batch = next(batches)
    step = recorded(lambda: one.training.step(one.number, batch))
    passes = recorded(lambda: one.training.backward(batch))
    launched = sum(step.launched.values()) - sum(passes.launched.values())
    gigabytes = (step.bytes - passes.bytes) / 1e9
    return f"{method:15} {launched:6,} operations  {sum(step.waits.values()):3} waits  {gigabytes:6.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--shape", default="minilm", choices=list(SHAPES))
    parser.add_argument("--alone", action="store_true", help="a matrix at a time, as before")
    parser.add_argument("--kernels", action="store_true", help="masks by our kernels, as on a GPU that has Triton")
    options = parser.parse_args()
    if options.kernels:
        by_kernels()
    if options.alone:
        torch.set_num_threads(1)
        in_torch()
    with random_checkpoint(options.shape) as folder:
        for method in options.methods:
            print(measure(method, Case(folder, 1, 8, "fp32", "cpu", 0.9, {}), options.alone), flush=True)


if __name__ == "__main__":
    main()
