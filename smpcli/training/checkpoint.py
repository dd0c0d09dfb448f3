"""When checkpoints are written, where, and how one is read; `checkpoint_contents.py` has what they hold.

checkpoint/ holds one file a checkpoint, and index.json, which names the last and the best. A file is complete in
itself and appears whole or not at all, and so does the index, so there is no moment at which a kill leaves nothing to
go on from. What lies there may be a stranger's: shapes, types and names are checked against the run before their use.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from smpcli.errors import Interrupted, Invalid, UserError, one_line
from smpcli.files import cannot_write, write_json
from smpcli.runs.maskfile import pack, read_described, write_described
from smpcli.training.checkpoint_contents import (
    FORMAT,
    VERSION,
    CheckpointInfo,
    Saved,
    State,
    numpy_state,
    random_tensors,
    restore_random,
)
from smpcli.training.health import Health, refuse_infinite
from smpcli.training.interruption import Interruption, Stopped
from smpcli.training.processes import largest
from smpcli.training.progress import Position, Watch

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from smpcli.training.best import Best
    from smpcli.training.turnover import Turnover

INDEX = "index.json"
_NAME = re.compile(r"step-\d{1,12}\.safetensors")
# Masks as they are, as they were at the last evaluation, and those of the best model; that one's other tensors.
_MASK, _EARLIER, _BEST = "mask:", "earlier:", "best:"
_BEST_TENSOR = "best."


@dataclass(frozen=True)
class Identity:
    """What a run is: a checkpoint of another is never taken. `settings` are those that decide what is computed.

    data, base, teacher: digests of rows and of weights; processes: how many share each batch.
    """

    settings: dict[str, Any]
    data: str
    base: str
    teacher: str | None = None
    processes: int = 1

    def differences(self, saved: CheckpointInfo) -> list[str]:
        """Each thing in which the checkpoint's run is another one: "seed (0, now 1)"."""
        found = setting_differences(saved.settings, self.settings)
        found += ["the data"] if saved.data != self.data else []
        found += ["the base model's weights"] if saved.base != self.base else []
        found += ["the teacher's weights"] if saved.teacher != self.teacher else []
        now = f"processes ({saved.processes}, now {self.processes})"
        return found + ([now] if saved.processes != self.processes else [])


def setting_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} ({one_line(str(then.get(key)), 40)}, now {one_line(str(now.get(key)), 40)})"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]


def read(folder: Path) -> Saved | None:
    """The last checkpoint in `folder`, or the best where the last is damaged; None where there is none.

    Raises `UserError` where all of them are damaged.
    """
    if not (folder / INDEX).exists():
        return None
    index = _index(folder)
    problem: UserError | None = None
    for name in dict.fromkeys(filter(None, (index["last"], index["best"]))):
        try:
            return _read_file(folder / name)
        except UserError as error:
            problem = problem or error
    raise problem or UserError(f"{folder} names no checkpoint")


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        if folder.is_symlink() or path.is_symlink() or not path.is_file():
            raise ValueError("a link")
        with path.open("rb") as file:
            index = json.loads(file.read(10_000))
        names = [index["last"], index["best"]]
        if not isinstance(names[0], str) or not all(name is None or _NAME.fullmatch(name) for name in names):
            raise ValueError("strange names")
        return {"last": names[0], "best": names[1], "metric": float(index["metric"] if names[1] else -math.inf)}
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(
            f"damaged checkpoint {path}: smp didn't write it", "leave out --resume to start over"
        ) from None


def _read_file(path: Path) -> Saved:
    if path.is_symlink():
        raise UserError(f"damaged checkpoint {path}: it's a link, which smp doesn't make")
    masks, tensors, about = read_described(path, FORMAT, VERSION, "checkpoint")
    try:
        found = CheckpointInfo.model_validate(about)
    except ValidationError as error:
        raise UserError(one_line(f"damaged checkpoint {path}: {Invalid.of(error)}")) from None
    current, earlier, best = (_named(masks, kind) for kind in (_MASK, _EARLIER, _BEST))
    if len(current) + len(earlier) + len(best) < len(masks):
        raise UserError(f"damaged checkpoint {path}: masks of unknown use")
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(_BEST_TENSOR)}
    return Saved(path, found, current, earlier, rest, best, _named(tensors, _BEST_TENSOR))


def _named(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)}


def parse_every(text: int | str) -> tuple[int, float]:
    """(steps, seconds) between checkpoints from `checkpoint_every`; 0: not by that measure."""
    minutes = re.fullmatch(r"(\d+(?:\.\d+)?) ?m", str(text))
    return (0, 60 * float(minutes[1])) if minutes else (int(text), 0.0)


class Checkpoints(Watch):
    """Saves a run when that is due, and when a signal comes; begins it at what was saved.

    rows: the rows of metrics.jsonl so far; final: the density that the run ends on; resume: the command that goes on;
    turnover: remembers masks of its own. Of several processes the first one writes, and all stop after the same step.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        *,
        every: int | str,
        metric: str,
        final: float,
        rows: Callable[[], list[dict[str, Any]]],
        interruption: Interruption,
        resume: str,
        accelerator: Accelerator,
        turnover: Turnover,
        saved: Saved | None = None,
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.steps, self.seconds = parse_every(every)
        self.metric = metric
        self.final = final
        self.rows = rows
        self.interruption = interruption
        self.resume = resume
        self.accelerator = accelerator
        self.turnover = turnover
        self.saved = saved
        self.start = saved.start if saved else Position()
        self.last: tuple[int, Path] | None = (saved.about.step, saved.path) if saved else None
        self._best: tuple[float, str] | None = None
        self._state: State | None = None
        self._health: Health | None = None
        self._selected: Best | None = None
        self._written = time.monotonic()

    def attach(self, state: State, health: Health, best: Best | None = None) -> None:
        """What is to be saved; where the run is resumed, it becomes what was saved.

        health: asked before anything is saved.
        best: what a run with `select: best` has chosen so far.
        """
        self._state, self._health, self._selected = state, health, best
        if self.saved is None:
            return
        if best is not None:
            best.load(self.saved)
        state.load(self.saved)
        self.restore_random()
        if self.saved.earlier:
            self.turnover.before = [self.saved.earlier[layer.name].to(state.device) for layer in state.layers]
        with suppress(UserError):
            index = _index(self.folder)
            self._best = (index["metric"], index["best"]) if index["best"] else None

    def restore_random(self) -> None:
        if self.saved is not None and self._state is not None:
            restore_random(self.saved, self._state.device, self.accelerator.process_index)

    def after_step(self, position: Position) -> None:
        # Processes have clocks of their own; what they do they do together.
        due = self._is_due(position) and self.accelerator.is_main_process
        self.interruption.signal, due = largest([self.interruption.signal, due], self.accelerator)
        if self.interruption.signal or due:
            self._save(position)
        if self.interruption.signal:
            raise self._interrupted(position)

    @contextmanager
    def evaluating(self, position: Position) -> Iterator[None]:
        if self.accelerator.num_processes > 1:
            yield
            return
        try:
            with self.interruption.at_once():
                yield
        except Stopped:
            self._save(position)
            raise self._interrupted(position) from None

    def _is_due(self, position: Position) -> bool:
        by_steps = self.steps and position.step % self.steps == 0
        by_time = self.seconds and time.monotonic() - self._written >= self.seconds
        # An evaluation takes longer than to keep what it found to be the best.
        best = (self.steps or self.seconds) and self._betters(position) is not None
        return bool(by_steps or by_time or best)

    def _betters(self, position: Position) -> float | None:
        """The metric of an evaluation after this very step, where it is the best so far at the final density."""
        if not position.history or position.history[-1][0] != position.step or position.density > self.final + 1e-9:
            return None
        value = position.history[-1][1][self.metric]
        return value if self._best is None or value > self._best[0] else None

    def _save(self, position: Position) -> None:
        """Write the checkpoint, then the index that names it, then remove what the index no longer names."""
        assert self._state is not None and self._health is not None
        self._health.read()
        position = dataclasses.replace(position, loss=self._health.loss)
        states = random_tensors(self.accelerator)
        if not self.accelerator.is_main_process:
            return
        refuse_infinite(list(self._state.changing().values()), position.step - 1)
        name = f"step-{position.step:06d}.safetensors"
        layers = self._state.layers
        masks = {_MASK + layer.name: layer.mask for layer in layers}
        masks |= {_EARLIER + layer.name: mask for layer, mask in zip(layers, self.turnover.before, strict=False)}
        selected = self._selected
        if selected is not None:
            masks |= {_BEST + name: mask for name, mask in selected.masks.items()}
        packed, shapes = pack(masks)
        tensors = {**packed, **self._state.tensors(), **states}
        if selected is not None:
            tensors |= {_BEST_TENSOR + name: tensor.contiguous() for name, tensor in selected.tensors.items()}
        write_described(self.folder / name, tensors, self._about(position, shapes).model_dump(mode="json"))
        better = self._betters(position)
        if better is not None:
            self._best = (better, name)
        metric, best = self._best or (None, None)
        write_json(self.folder / INDEX, {"last": name, "best": best, "metric": metric})
        self.last = (position.step, self.folder / name)
        self._written = time.monotonic()
        try:
            for entry in self.folder.iterdir():
                if entry.name.endswith(".tmp") or (_NAME.fullmatch(entry.name) and entry.name not in (name, best)):
                    entry.unlink()
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def _about(self, position: Position, shapes: dict[str, list[int]]) -> CheckpointInfo:
        _, inner, gauss = random.getstate()
        legacy = numpy_state()
        identity = self.identity
        return CheckpointInfo(
            settings=identity.settings,
            data=identity.data,
            base=identity.base,
            teacher=identity.teacher,
            processes=identity.processes,
            step=position.step,
            density=position.density,
            loss=position.loss if math.isfinite(position.loss) else None,
            seconds=position.seconds,
            evaluated=position.evaluated,
            history=list(position.history),
            rows=[list(row.items()) for row in self.rows()],
            python_random=list(inner),
            python_gauss=gauss,
            numpy_random=(int(legacy[2]), int(legacy[3]), float(legacy[4])),
            best=self._selected.about() if self._selected is not None else None,
            shapes=shapes,
        )

    def _interrupted(self, position: Position) -> Interrupted:
        return Interrupted(
            self.interruption.code,
            f"interrupted after step {position.step}: a checkpoint is in {self.folder}",
            self.resume,
        )
