"""What a checkpoint holds, and the state of a run that it is taken from and put back into."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import stacks_of
from smpcli.errors import UserError, one_line
from smpcli.training.processes import everyones
from smpcli.training.progress import Position

if TYPE_CHECKING:
    from accelerate import Accelerator


FORMAT, VERSION = "smp-checkpoint", 3


class BestAbout(BaseModel):
    """What a checkpoint says of the best model so far (`select: best`); `training.best.Best` explains it."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    step: int = Field(ge=1)
    among: int = Field(ge=1)
    value: float
    report: dict[str, float]


class CheckpointInfo(BaseModel):
    """What a checkpoint says beside its tensors.

    settings, data, base, teacher, processes: what it belongs to; rows: of metrics.jsonl, as pairs, since their order
    counts; shapes: of the masks.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: str = FORMAT
    version: int = VERSION
    settings: dict[str, Any]
    data: str
    base: str
    teacher: str | None = None
    processes: int = 1
    step: int = Field(ge=0)
    density: float = Field(ge=0, le=1)
    loss: float | None
    seconds: float = Field(ge=0)
    evaluated: bool
    history: list[tuple[int, dict[str, float]]]
    rows: list[list[tuple[str, Any]]]
    python_random: list[int] = Field(min_length=625, max_length=625)
    python_gauss: float | None
    numpy_random: tuple[int, int, float]
    best: BestAbout | None = None
    shapes: dict[str, list[int]] = {}


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read, not yet believed. earlier: the masks of the last evaluation, if there was one;
    best_masks, best_tensors: the best model so far, where the run is to end as that."""

    path: Path
    about: CheckpointInfo
    masks: dict[str, Tensor]
    earlier: dict[str, Tensor]
    tensors: dict[str, Tensor]
    best_masks: dict[str, Tensor]
    best_tensors: dict[str, Tensor]

    @property
    def start(self) -> Position:
        about = self.about
        loss = math.nan if about.loss is None else about.loss
        return Position(about.step, about.density, loss, about.seconds, tuple(about.history), about.evaluated)


@dataclass
class State:
    """All that training changes. `parameters`: what is trained beside the layers' parts, and the head, by name."""

    parameters: Mapping[str, Tensor]
    layers: Sequence[MaskedLayer]
    optimizer: Any
    device: torch.device

    def weights(self) -> dict[str, Tensor]:
        """Trained weights and the head, by names that hold for the same run in another process."""
        found = {f"model.{name}": tensor for name, tensor in self.parameters.items()}
        trained = [layer for layer in self.layers if layer.trains_weight]
        return found | {f"layer.{layer.name}.weight": layer.weight for layer in trained}

    def trained(self) -> dict[str, Tensor]:
        """The same and scores."""
        found = self.weights()
        for layer in self.layers:
            parts = {"scores": layer.scores, "row": layer.row, "column": layer.column}
            found |= {f"layer.{layer.name}.{part}": tensor for part, tensor in parts.items() if tensor is not None}
        return found

    def changing(self) -> dict[str, Tensor]:
        """The same and what the method keeps of gradients."""
        running = {
            f"layer.{layer.name}.running.{name}": tensor
            for layer in self.layers
            for name, tensor in layer.running.items()
        }
        return self.trained() | running

    def size(self) -> int:
        """About the bytes of a checkpoint: each number with AdamW's two moments, and two masks of a bit."""
        numbers = sum(tensor.numel() * tensor.element_size() for tensor in self.trained().values())
        return 3 * numbers + 2 * sum(layer.mask.numel() for layer in self.layers) // 8

    def _parts(self) -> list[list[tuple[str, torch.Size]]]:
        """What each parameter of the optimiser holds, by the names of `trained`: itself, or all that is stacked.

        So a checkpoint says the same of a run wherever that computes.
        """
        trained = self.trained()
        names = {id(tensor): name for name, tensor in trained.items()}
        stacks = stacks_of(self.layers)
        found = []
        for parameter in (parameter for group in self.optimizer.param_groups for parameter in group["params"]):
            if id(parameter) in names:
                found.append([(names[id(parameter)], parameter.shape)])
                continue
            assert stacks is not None, "what is trained has a name"
            inside = [f"layer.{layer.name}.{part}" for layer, part in stacks.inside(parameter)]
            found.append([(name, trained[name].shape) for name in inside])
        return found

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds as tensors, but for random states."""
        found = self.changing()
        state = self.optimizer.state_dict()["state"]
        for index, parts in enumerate(self._parts()):
            for key, value in state.get(index, {}).items():
                split = torch.as_tensor(value)
                sizes = [math.prod(shape) for _, shape in parts]
                shares = torch.split(split.reshape(-1), sizes) if split.ndim else [split] * len(parts)
                for (name, shape), share in zip(parts, shares, strict=True):
                    found[f"optimizer.{key}.{name}"] = share.view(shape) if split.ndim else share.clone()
        # The library stores each memory once: a copy, contiguous and on the CPU.
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    @torch.no_grad()
    def load(self, saved: Saved) -> None:
        """Become what was saved, but for random states. Raises `UserError`, with nothing changed, for a misfit."""
        trained, changing = self.trained(), self.changing()
        groups = self.optimizer.state_dict()["param_groups"]
        moments: dict[str, dict[str, Tensor]] = {}

        def misfit(name: str) -> NoReturn:
            raise UserError(f"damaged checkpoint {saved.path}: '{name}' doesn't fit this run")

        for name, tensor in saved.tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                key, _, of = rest.partition(".")
                like = trained.get(of)
                if like is None or tensor.shape not in (like.shape, torch.Size()) or not tensor.is_floating_point():
                    misfit(name)
                moments.setdefault(of, {})[key] = tensor
            elif kind != "random":
                target = changing.get(name)
                if target is None or target.shape != tensor.shape or target.dtype != tensor.dtype:
                    misfit(name)
        for name in changing.keys() - saved.tensors.keys():
            misfit(name)
        wanted = {layer.name: layer.mask.shape for layer in self.layers}
        for kind, masks in (("masks", saved.masks), ("earlier masks", saved.earlier or saved.masks)):
            if {name: mask.shape for name, mask in masks.items()} != wanted:
                misfit(kind)
        keys = {frozenset((key, value.ndim > 0) for key, value in values.items()) for values in moments.values()}
        parts = self._parts()
        if len(keys) > 1 or len(moments) != (sum(map(len, parts)) if saved.about.step else 0):
            misfit("optimizer")
        for name, target in changing.items():
            target.copy_(saved.tensors[name])
        for layer in self.layers:
            layer.set_mask(saved.masks[layer.name].to(self.device))
        state = {index: _joined([moments[name] for name, _ in own]) for index, own in enumerate(parts) if moments}
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """AdamW's state of one parameter: that of its only part, or all parts' numbers in a row, at the step of all."""
    if len(parts) == 1:
        return {key: value.clone() for key, value in parts[0].items()}
    return {
        key: torch.cat([part[key].reshape(-1) for part in parts]) if value.ndim else value.clone()
        for key, value in parts[0].items()
    }


def numpy_state() -> tuple[Any, ...]:
    """(name, 624 words, position, has_gauss, gauss) of numpy's global generator."""
    state: Any = np.random.get_state(legacy=True)
    return tuple(state)


def random_tensors(accelerator: Accelerator) -> dict[str, Tensor]:
    """Random states: of torch "random.torch.0" and, for its GPU, "random.device.0", a number for each process."""
    states = {"torch": torch.get_rng_state()}
    if (kind := accelerator.device.type) != "cpu":
        states["device"] = torch.get_device_module(kind).get_rng_state()
    found = {"random.numpy": torch.from_numpy(numpy_state()[1].astype(np.int64))}
    for name, state in states.items():
        found |= {f"random.{name}.{index}": one for index, one in enumerate(everyones(state, accelerator))}
    return found


def restore_random(saved: Saved, device: torch.device, process: int = 0) -> None:
    """Every random state of this process as it was. Raises `UserError` for what isn't a state."""
    about, tensors = saved.about, saved.tensors
    try:
        random.setstate((3, tuple(about.python_random), about.python_gauss))
        position, has_gauss, gauss = about.numpy_random
        keys = tensors["random.numpy"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", keys, position, has_gauss, gauss))
        if device.type != "cpu" and f"random.device.{process}" in tensors:
            torch.get_device_module(device.type).set_rng_state(tensors[f"random.device.{process}"].clone())
        torch.set_rng_state(tensors[f"random.torch.{process}"].clone())
    except (KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        reason = one_line(str(error), 80)
        raise UserError(f"damaged checkpoint {saved.path}: no random states ({reason})") from None
