"""neural-compressor: running |weight x gradient|, ranked over all matrices, masks every third step."""

from __future__ import annotations

from typing import Any

import torch
from neural_compressor.config import WeightPruningConfig
from neural_compressor.training import prepare_pruning
from shared import EVERY, Batch, Peer, main
from torch import nn


class NeuralCompressor(Peer):
    packages = ("neural-compressor",)

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, example: Batch) -> tuple[nn.Module, Any]:
        config = WeightPruningConfig(
            pruning_configs=[{}],
            target_sparsity=self.sparsity,
            pruning_type="snip_momentum",
            pattern="1x1",
            op_names=[r"\.encoder\."],
            start_step=0,
            end_step=self.last,
            pruning_scope="global",
            pruning_frequency=EVERY,
            sparsity_decay_type="exp",
        )
        # It hooks itself into the model's forward pass and the optimizer's step.
        self.pruning = prepare_pruning(model, config, optimizer)
        return model, optimizer


if __name__ == "__main__":
    main(NeuralCompressor)
