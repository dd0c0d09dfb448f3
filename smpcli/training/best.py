"""`select: best`: of the dev evaluations at the final density, the model of the best one is what a run ends as."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smpcli.errors import UserError
from smpcli.training.checkpoint_contents import BestAbout, Saved

if TYPE_CHECKING:
    from pruners.base import Pruner
    from smpcli.training.checkpoint_contents import State


class Best:
    """The best model so far, kept on the CPU: masks, trained weights, head. Of equal ones the first counts.

    step: after which it was evaluated (0: none yet); among: how many evaluations it is the best of; report: what the
    method said of it.
    """

    def __init__(self, state: State, pruner: Pruner, metric: str) -> None:
        self.state = state
        self.pruner = pruner
        self.metric = metric
        self.step = 0
        self.among = 0
        self.value = -math.inf
        self.report: dict[str, float] = {}
        self.masks: dict[str, Tensor] = {}
        self.tensors: dict[str, Tensor] = {}

    def offer(self, step: int, metrics: dict[str, float]) -> None:
        """The model as it stands was evaluated after `step` steps: keep it where it betters all before."""
        self.among += 1
        if metrics[self.metric] <= self.value:
            return
        self.step, self.value = step, metrics[self.metric]
        self.report = self.pruner.report(self.state.layers)
        self.masks = {layer.name: layer.mask.cpu().clone() for layer in self.state.layers}
        self.tensors = {name: tensor.detach().cpu().clone() for name, tensor in self.state.weights().items()}

    @torch.no_grad()
    def put_back(self) -> None:
        """Make the model what it was then."""
        for name, target in self.state.weights().items():
            target.copy_(self.tensors[name])
        for layer in self.state.layers:
            layer.set_mask(self.masks[layer.name].to(self.state.device))

    def about(self) -> BestAbout | None:
        """What a checkpoint says of it beside `masks` and `tensors`; None before there is one."""
        if not self.step:
            return None
        return BestAbout(step=self.step, among=self.among, value=self.value, report=self.report)

    def load(self, saved: Saved) -> None:
        """Become what was saved. Raises `UserError`, with nothing changed, for what doesn't fit."""
        about = saved.about.best
        if about is None:
            return
        wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in self.state.weights().items()}
        shapes = {layer.name: layer.mask.shape for layer in self.state.layers}
        if {name: (tensor.shape, tensor.dtype) for name, tensor in saved.best_tensors.items()} != wanted or {
            name: mask.shape for name, mask in saved.best_masks.items()
        } != shapes:
            raise UserError(f"damaged checkpoint {saved.path}: its best model doesn't fit this run")
        self.step, self.among, self.value, self.report = about.step, about.among, about.value, about.report
        self.masks, self.tensors = saved.best_masks, saved.best_tensors
