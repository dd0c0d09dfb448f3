"""Many tasks over one base model in memory: a task is packed bits and a head, and switching applies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from smpcli.errors import UserError
from smpcli.export.about import About
from smpcli.export.mask import StoredTask, build_base, read
from smpcli.export.ready import Ready
from smpcli.modeling.backbone import load_tokenizer, weights_file
from smpcli.modeling.fit import refuse_infinite
from smpcli.modeling.heads import TaskModel, output_layer
from smpcli.modeling.layers import PrunableMatrix, find_prunable


@dataclass(frozen=True)
class _Task:
    """bits: packed mask of each matrix, in the order of the model's matrices."""

    about: About
    bits: list[np.ndarray]
    head: dict[str, Tensor]
    ready: Ready


class SharedBase:
    """One base model, and the tasks of some mask files over it.

    In memory are the base's own file, whose pages the system shares among processes and drops when it needs room; the
    encoder's matrices as the current task prunes them; and for each task one bit a weight and its head.
    """

    def __init__(self, paths: Sequence[Path], model: str | None = None) -> None:
        """model: where the base is, if elsewhere. Raises UserError for files that have no base in common."""
        first = read(paths[0])
        name = model or first.about.model
        tokenizer = load_tokenizer(name)
        self.model: TaskModel = build_base(first, name, tokenizer)
        self.matrices = find_prunable(self.model.backbone, self.model.config)
        self.base = _BaseWeights(self.model, self.matrices, name)
        self._tokenizers: dict[bool | None, Any] = {_reading(first.about): tokenizer}
        # One file at a time: unpacked, a mask is eight times as large.
        self.tasks = [self._task(first if path == paths[0] else read(path), first, name) for path in paths]
        self.current: int | None = None

    def use(self, index: int) -> Ready:
        """Make task `index` (in the order of the files) the one that the model answers, and return it."""
        task = self.tasks[index]
        if index != self.current:
            self.current = None
            self._switch(task)
            self.current = index
        return task.ready

    @torch.no_grad()
    def _switch(self, task: _Task) -> None:
        for matrix, bits in zip(self.matrices, task.bits, strict=True):
            weight = matrix.module.weight
            mask = np.unpackbits(bits, count=weight.numel()).view(np.bool_).reshape(weight.shape)
            # numpy multiplies by truth values in a third of the time that torch takes.
            np.multiply(self.base.read(matrix.name).numpy(), mask, out=weight.data.numpy())
        parameters = dict(self.model.backbone.named_parameters())
        for name, tensor in task.head.items():
            # Tasks differ in their number of labels, so the tensor itself is exchanged.
            parameters[name].data = tensor
        self.model.word_ids = task.about.word_ids
        self.model.mask_id = task.about.mask_id
        self.model.padding = None if task.about.special_tokens is None else task.ready.tokenizer.pad_token_id

    def _task(self, task: StoredTask, first: StoredTask, name: str) -> _Task:
        about, path = task.about, task.path
        if about.base_digest != first.about.base_digest:
            raise UserError(
                f"{path} is over another base model than {first.path} ({about.model})",
                "use them in separate commands",
            )
        if about.traits.every_token != first.about.traits.every_token:
            raise UserError(
                f"{path} and {first.path}: a {about.kind} and a {first.about.kind} task have heads of two sorts",
                "use them in separate commands",
            )
        for matrix in self.matrices:
            mask = task.masks.get(matrix.name)
            if mask is None or mask.shape != matrix.module.weight.shape:
                raise UserError(f"{path}: its mask doesn't fit the base model at {matrix.name}")
        _check_head(self.model, task)
        bits = [np.packbits(task.masks[matrix.name].numpy().reshape(-1)) for matrix in self.matrices]
        # One tokenizer for all tasks that read special tokens alike, as it keeps how.
        reading = _reading(about)
        if reading not in self._tokenizers:
            self._tokenizers[reading] = load_tokenizer(name)
        return _Task(about, bits, task.head, Ready.of(about, self.model, self._tokenizers[reading]))


def _reading(about: About) -> bool | None:
    """Whether special tokens in a task's texts are read as such; None: as the tokenizer has it."""
    return None if about.special_tokens is None else bool(about.special_tokens)


def _check_head(model: TaskModel, task: StoredTask) -> None:
    """Refuse a head that isn't one of this model with as many outputs as the task has labels. Raises UserError."""
    refuse_infinite(task.head, str(task.path))
    own = model.own_parameters()
    wanted = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if model.word_ids is None:
        prefix, layer = output_layer(model.backbone)
        outputs = len(task.about.outputs)
        for part, parameter in layer.named_parameters():
            wanted[f"{prefix}.{part}"] = (outputs, *parameter.shape[1:])
    found = {name: tuple(tensor.shape) for name, tensor in task.head.items()}
    if found != wanted or any(tensor.dtype != torch.float32 for tensor in task.head.values()):
        raise UserError(f"damaged mask file {task.path}: its head doesn't fit the base model")


class _BaseWeights:
    """The dense matrices: read from the base's own file where they are in it as they are, else a copy in memory."""

    def __init__(self, model: TaskModel, matrices: Sequence[PrunableMatrix], name: str) -> None:
        self._file, self._keys = _open_file(model, matrices, name)
        self._copies: Mapping[str, Tensor] = {}
        if self._file is None:
            self._copies = {matrix.name: matrix.module.weight.detach().clone() for matrix in matrices}

    def read(self, name: str) -> Tensor:
        if self._file is None:
            return self._copies[name]
        tensor: Tensor = self._file.get_tensor(self._keys[name])
        return tensor.float()


def _open_file(model: TaskModel, matrices: Sequence[PrunableMatrix], name: str) -> tuple[Any, dict[str, str]]:
    """The base's file and what it calls each matrix; None where it isn't one file with these very weights."""
    path = weights_file(name)
    if path is None:
        return None, {}
    try:
        file: Any = safe_open(path, framework="pt")
        stored = set(file.keys())
        prefix = f"{model.backbone.base_model_prefix}."
        keys: dict[str, str] = {}
        for matrix in matrices:
            weight = f"{matrix.name}.weight"
            # A checkpoint of the bare encoder lacks the prefix that a model with a head has.
            key = next((key for key in (weight, weight.removeprefix(prefix)) if key in stored), None)
            if key is None or not torch.equal(file.get_tensor(key).float(), matrix.module.weight):
                return None, {}
            keys[matrix.name] = key
    except (OSError, SafetensorError):
        return None, {}
    return file, keys
