"""torchao's prototype/pat: the optimizer keeps each matrix's largest weights, and towards the end the masks."""

from __future__ import annotations

from typing import Any

import torch
from shared import Batch, Peer, encoder_matrices, main
from torch import nn
from torchao.prototype.pat import PruneOptimizer


class Torchao(Peer):
    packages = ("torchao",)

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, example: Batch) -> tuple[nn.Module, Any]:
        matrices = [part.weight for part in encoder_matrices(model).values()]
        chosen = {id(weight) for weight in matrices}
        (group,) = optimizer.param_groups
        group["params"] = [weight for weight in group["params"] if id(weight) not in chosen]
        constraint = {"prox_type": "MinSparsityConstraint", "group_type": "KElementGrouper", "k": 1}
        sparsity = {"min_sparsity": self.sparsity, "min_sparsity_schedule": True}
        optimizer.add_param_group({"params": matrices, **constraint, **sparsity})
        return model, PruneOptimizer(optimizer, warmup_steps=1, healing_start_step=self.last)


if __name__ == "__main__":
    main(Torchao)
