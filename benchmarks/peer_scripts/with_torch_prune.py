"""torch.nn.utils.prune: the smallest weights of all matrices go, a few more every third step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shared import EVERY, Peer, encoder_matrices, main
from torch import nn
from torch.nn.utils import prune


class TorchPrune(Peer):
    def before_step(self, model: nn.Module, step: int) -> None:
        if step == 0 or step % EVERY or step > self.last:
            return
        pairs = [(part, "weight") for part in encoder_matrices(model).values()]
        gone = sum(int((part.weight == 0).sum()) for part, _ in pairs)
        more = round(self.ramp(step) * sum(part.weight.numel() for part, _ in pairs)) - gone
        for part, _ in pairs:
            if prune.is_pruned(part):
                # One mask in place of a chain of them; and what is ranked is the weights of today.
                mask = part.weight_mask
                prune.remove(part, "weight")
                prune.custom_from_mask(part, "weight", mask)
        prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=more)

    def exports(self, model: Any) -> Iterator[tuple[str, Callable[[Path], Any]]]:
        yield "save_pretrained", model.save_pretrained
        for part in encoder_matrices(model).values():
            prune.remove(part, "weight")
        yield "prune.remove, save_pretrained", model.save_pretrained


if __name__ == "__main__":
    main(TorchPrune)
