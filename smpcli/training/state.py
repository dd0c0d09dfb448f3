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
from torch import Tensor, nn

from pruners.masks.layer import MaskedLayer
from smpcli.errors import UserError, one_line
from smpcli.training.processes import everyones
from smpcli.training.progress import Position

if TYPE_CHECKING:
    from accelerate import Accelerator


FORMAT, VERSION = "smp-checkpoint", 2


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
        trained = [layer for layer in self.layers if isinstance(layer.weight, nn.Parameter)]
        return found | {f"layer.{layer.name}.weight": layer.weight for layer in trained}

    def trained(self) -> dict[str, Tensor]:
        """The same and scores."""
        found = self.weights()
        for layer in self.layers:
            parts = {"scores": layer.scores, "row": layer.row, "column": layer.column}
            found |= {f"layer.{layer.name}.{part}": tensor for part, tensor in parts.items() if tensor is not None}
        return found

    def size(self) -> int:
        """About the bytes of a checkpoint: each number with AdamW's two moments, and two masks of a bit."""
        numbers = sum(tensor.numel() * tensor.element_size() for tensor in self.trained().values())
        return 3 * numbers + 2 * sum(layer.mask.numel() for layer in self.layers) // 8

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds as tensors, but for random states."""
        found = self.trained()
        for index, values in self.optimizer.state_dict()["state"].items():
            for key, value in values.items():
                found[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
        # The library stores each memory once: a copy, contiguous and on the CPU.
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    @torch.no_grad()
    def load(self, saved: Saved) -> None:
        """Become what was saved, but for random states. Raises `UserError`, with nothing changed, for a misfit."""
        trained = self.trained()
        groups = self.optimizer.state_dict()["param_groups"]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}

        def misfit(name: str) -> NoReturn:
            raise UserError(f"damaged checkpoint {saved.path}: '{name}' doesn't fit this run")

        for name, tensor in saved.tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, key = rest.partition(".")
                if not index.isdecimal() or not int(index) < len(parameters) or not key:
                    misfit(name)
                like = parameters[int(index)]
                if tensor.shape not in (like.shape, torch.Size()) or not tensor.is_floating_point():
                    misfit(name)
                moments.setdefault(int(index), {})[key] = tensor.clone()
            elif kind != "random":
                target = trained.get(name)
                if target is None or target.shape != tensor.shape or target.dtype != tensor.dtype:
                    misfit(name)
        for name in trained.keys() - saved.tensors.keys():
            misfit(name)
        wanted = {layer.name: layer.mask.shape for layer in self.layers}
        for kind, masks in (("masks", saved.masks), ("earlier masks", saved.earlier or saved.masks)):
            if {name: mask.shape for name, mask in masks.items()} != wanted:
                misfit(kind)
        keys = {frozenset(values) for values in moments.values()}
        if len(keys) > 1 or (saved.about.step and len(moments) != len(parameters)):
            misfit("optimizer")
        for name, target in trained.items():
            target.copy_(saved.tensors[name])
        for layer in self.layers:
            layer.set_mask(saved.masks[layer.name].to(self.device))
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


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
