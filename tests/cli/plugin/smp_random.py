"""Random pruning: what a method in a package of its own takes."""

from dataclasses import dataclass

import torch

from pruners import Pruner, PrunerSettings, setting


@dataclass
class RandomSettings(PrunerSettings):
    mask_seed: int = setting(0, "seed of the random scores", 0)


class Random(Pruner):
    """Keeps weights at random: the floor that every method must beat."""

    name, title, trains_weights = "chance", "Chance", True
    Settings = RandomSettings

    def score(self, layer):
        generator = torch.Generator().manual_seed(self.settings.mask_seed)
        return torch.rand(layer.weight.shape, generator=generator).to(layer.weight.device)
