"""nncf: weights by magnitude, each matrix divided by its norm and ranked over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nncf
import torch
from nncf.parameters import PruneMode, StripFormat
from nncf.torch.function_hook.pruning.magnitude.schedulers import ExponentialMagnitudePruningScheduler
from shared import EVERY, Batch, Peer, main
from torch import nn


class Nncf(Peer):
    packages = ("nncf",)

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, example: Batch) -> tuple[nn.Module, Any]:
        mode = PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL
        self.example = example[0]
        others = nncf.IgnoredScope(patterns=[".*embeddings.*", ".*pooler.*", "classifier.*"])
        pruned = nncf.prune(model, mode, ratio=0.0, ignored_scope=others, examples_inputs=self.example)
        self.scheduler = ExponentialMagnitudePruningScheduler(
            pruned, mode=mode, initial_ratio=0.0, target_ratio=self.sparsity, target_epoch=self.last // EVERY
        )
        return pruned, optimizer

    def before_step(self, model: nn.Module, step: int) -> None:
        if step % EVERY == 0 and step <= self.last:
            self.scheduler.step(step // EVERY)

    def exports(self, model: Any) -> Iterator[tuple[str, Callable[[Path], Any]]]:
        yield "save_pretrained", model.save_pretrained
        nncf.strip(model, do_copy=False, strip_format=StripFormat.IN_PLACE, example_input=self.example)
        yield "nncf.strip, save_pretrained", model.save_pretrained


if __name__ == "__main__":
    main(Nncf)
