"""How fast exports are here, beside the dense model in torch and onnxruntime: sparsity, size and speed together."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smpcli.errors import UserError, one_line
from smpcli.export.about import format_of, read_about
from smpcli.export.compact import VERSION, read_details
from smpcli.export.formats import SHRINKING

BATCHES, LENGTHS, REPEATS = (1, 8, 32), (16, 32, 128), 10
# Threads of torch and onnxruntime go on spinning after a run, some 20 ms, in the hope of another: the next contender
# would share its cores with them.
REST = 0.05
BASELINE = "dense, torch"


@dataclass
class Contender:
    """Something that is timed. metric: of the task, where it is known. seconds: by (batch, length), one a round."""

    name: str
    kind: str
    path: str
    sparsity: float
    bytes: int
    metric: str = ""
    seconds: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    memory: int = 0

    @property
    def is_export(self) -> bool:
        return not self.name.startswith("dense")

    def latency(self, shape: tuple[int, int]) -> float:
        """Median seconds of a batch."""
        return statistics.median(self.seconds[shape])


@dataclass(frozen=True)
class Report:
    """What was measured. `speed` is relative to the dense model in torch."""

    contenders: list[Contender]
    batches: list[int]
    lengths: list[int]
    threads: int
    repeats: int

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [(batch, length) for batch in self.batches for length in self.lengths]

    @property
    def title(self) -> str:
        threads = f"{self.threads} thread" + ("s" if self.threads > 1 else "")
        return (
            f"Milliseconds a batch, times dense torch, texts a second. Medians of {self.repeats} rounds, {threads}."
        )

    def speed(self, contender: Contender, shape: tuple[int, int]) -> float:
        return self.contenders[0].latency(shape) / contender.latency(shape)

    def mean_speed(self, contender: Contender) -> float:
        """Geometric mean over the shapes."""
        return math.exp(statistics.fmean(math.log(self.speed(contender, shape)) for shape in self.shapes))

    def fastest(self, shape: tuple[int, int] | None = None) -> Contender:
        """The fastest export at a shape, or over all of them."""
        exports = [contender for contender in self.contenders if contender.is_export]
        return max(exports, key=self.mean_speed if shape is None else lambda one: self.speed(one, shape))

    def verdict(self) -> list[str]:
        """Which export is fastest here, in plain words."""
        best = self.fastest()
        rivals = [contender for contender in self.contenders[1:] if not contender.is_export]
        lines = [f"fastest export here: {best.name}, {self.mean_speed(best):.2f} times dense torch over all shapes"]
        if rivals:
            rival = max(rivals, key=self.mean_speed)
            lines.append(f"the fastest dense rival, {rival.name}: {self.mean_speed(rival):.2f} times")
        for shape in self.shapes:
            winner = max(self.contenders, key=lambda one: self.speed(one, shape))
            if winner is not best:
                lines.append(
                    f"but at batch {shape[0]}, length {shape[1]}: {winner.name}, {self.speed(winner, shape):.2f}"
                )
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "repeats": self.repeats,
            "fastest": self.fastest().path,
            "contenders": [
                {
                    "name": one.name,
                    "path": one.path if one.is_export else None,
                    "sparsity": one.sparsity,
                    "bytes": one.bytes,
                    "peak_memory": one.memory,
                    "metric": one.metric or None,
                    "mean_speed": self.mean_speed(one),
                    "shapes": [
                        {
                            "batch": shape[0],
                            "length": shape[1],
                            "latency": one.latency(shape),
                            "texts_per_second": shape[0] / one.latency(shape),
                            "speed": self.speed(one, shape),
                        }
                        for shape in self.shapes
                    ],
                }
                for one in self.contenders
            ],
        }


def bench(
    exports: Sequence[Path],
    batches: Sequence[int] = BATCHES,
    lengths: Sequence[int] = LENGTHS,
    repeats: int = REPEATS,
    threads: int | None = None,
) -> Report:
    """Time exports (compact, sparse, onnx or hf) and the dense model that they come from, in turns.

    Each contender runs in a process of its own and only when it is asked, so all see the same machine. Peak memory is
    what loading and running added to the process. Raises UserError for anything but exports of one model.
    """
    found = [_export(path) for path in exports]
    # A stock folder doesn't say what it was made from, but it has the same shape.
    bases = {base for _, base in found if base is not None} or {found[0][0].path}
    if len(bases) > 1:
        raise UserError(
            f"these are exports of different models ({', '.join(sorted(bases))})", "bench one model at a time"
        )
    shapes = [(batch, length) for batch in batches for length in lengths]
    threads = threads or int(os.environ.get("OMP_NUM_THREADS") or 0) or os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="smp-bench-") as scratch, ExitStack() as stack:
        dense = _dense(bases.pop(), Path(scratch), max(lengths))
        contenders = [*dense, *(contender for contender, _ in found)]
        # The last first: an export that doesn't load says so before the dense models' processes start.
        processes = [stack.enter_context(_started(contender, threads)) for contender in reversed(contenders)][::-1]
        for shape in shapes:
            for _ in range(repeats):
                for contender, process in zip(contenders, processes, strict=True):
                    time.sleep(REST)
                    answer = _ask(contender, process, {"batch": shape[0], "length": shape[1]})
                    contender.seconds.setdefault(shape, []).append(answer["seconds"])
                    contender.memory = answer["memory"]
    return Report(contenders, list(batches), list(lengths), threads, repeats)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    # A tokenizer is the same for all of them.
    return sum(file.stat().st_size for file in files if not file.name.startswith("tokenizer"))


def _export(path: Path) -> tuple[Contender, str | None]:
    """The contender of an export, and its base model where the export names it."""
    format = format_of(path) if path.is_dir() else None
    if format in SHRINKING:
        about, found = read_about(path, format, VERSION), read_details(path)
        metric = found.get("metrics", {}).get(about.metric)
        shown = f"{about.metric} {metric:.4f}" if metric is not None else ""
        sparsity = found.get("sparsity", 1 - about.remaining)
        return Contender(path.name, format, str(path), sparsity, _size(path), shown), about.model
    if (path / "config.json").is_file():
        return Contender(path.name, "stock", str(path), _sparsity(str(path)), _size(path)), None
    raise UserError(
        f"{path} is not an export that can be timed", "`smp export RUN --format compact` (sparse, onnx, hf) makes one"
    )


def _sparsity(path: str) -> float:
    """The share of zeros in the prunable matrices of a stock folder."""
    from transformers import AutoModelForSequenceClassification

    from smpcli.modeling.backbone import load_config, load_pretrained
    from smpcli.modeling.layers import find_prunable

    model, _ = load_pretrained(AutoModelForSequenceClassification, path, load_config(path))
    weights = [matrix.module.weight for matrix in find_prunable(model, model.config)]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def _dense(base: str, scratch: Path, longest: int) -> list[Contender]:
    """The unpruned model in torch, and where onnxruntime is installed also there, in float32 and int8."""
    from importlib.util import find_spec

    from smpcli.modeling.backbone import model_path

    path = model_path(base)
    model, size = _shrink_nothing(path, longest)
    made = [Contender(BASELINE, "stock", path, 0.0, size)]
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        return made
    from smpcli.export.onnx import write_graph

    for precision in ("fp32", "int8"):
        file = scratch / f"dense-{precision}.onnx"
        write_graph(model, file, precision)
        made.append(Contender(f"dense, onnxruntime {precision}", "graph", str(file), 0.0, file.stat().st_size))
    return made


def _shrink_nothing(path: str, longest: int) -> tuple[Any, int]:
    """The dense model as a graph's source, computing every position as a stock export does, and its bytes."""
    from transformers import AutoModelForSequenceClassification

    from smpcli.export.stock import take_apart
    from smpcli.modeling.backbone import load_config, load_pretrained
    from smpcli.modeling.compact_model import CompactModel
    from smpcli.modeling.heads import TaskModel
    from smpcli.modeling.limits import limits_of

    backbone, missing = load_pretrained(AutoModelForSequenceClassification, path, load_config(path))
    most = limits_of(backbone).positions
    if most is not None and longest > most:
        raise UserError(f"the model takes {most} tokens at most", f"give --lengths up to {most}")
    architecture, tensors, _ = take_apart(TaskModel(backbone, "classifier", missing))
    size = sum(tensor.numel() * tensor.element_size() for tensor in backbone.parameters())
    return CompactModel(architecture, tensors, all_positions=True), size


@contextmanager
def _started(contender: Contender, threads: int) -> Iterator[subprocess.Popen[str]]:
    # Errors go to a file: a pipe that nobody reads would fill up.
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "smpcli.bench.infer_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        try:
            _ask(contender, process, {"kind": contender.kind, "path": contender.path, "threads": threads})
            yield process
        except _SilentError:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["it ended without a word"])[-1]
            raise UserError(one_line(f"{contender.name} can't be timed: {last}")) from None
        finally:
            process.kill()
            process.communicate()


class _SilentError(Exception):
    """A worker has ended."""


def _ask(contender: Contender, process: subprocess.Popen[str], question: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        raise _SilentError
    answer: dict[str, Any] = json.loads(line)
    return answer
