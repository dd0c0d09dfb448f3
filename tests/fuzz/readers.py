"""Everything that smp reads from a file, as functions of bytes, each with a few good files to begin from."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from smpcli.errors import UserError


@dataclass(frozen=True)
class Reader:
    """`read` takes a file that lies in a folder of its own; `seeds` makes good files of the kind."""

    name: str
    file: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]


def _mask(path: Path) -> None:
    from smpcli.results.masks import read_masks

    read_masks(path)


def _task_mask(path: Path) -> None:
    from smpcli.export.mask import read

    read(path)


def _head(path: Path) -> None:
    from smpcli.results.rundir import RunDir

    RunDir(path.parent).read_tensors("head.safetensors")


def _checkpoint(path: Path) -> None:
    from smpcli.training.checkpoint import _read_file
    from smpcli.training.state import restore_random

    saved = _read_file(path)
    import torch

    restore_random(saved, torch.device("cpu"))
    assert saved.start.step >= 0


def _checkpoint_index(path: Path) -> None:
    from smpcli.training.checkpoint import read

    read(path.parent)


def _result(path: Path) -> None:
    from smpcli.results.rundir import RunDir

    assert RunDir(path.parent).result.value is not None


def _run(path: Path) -> None:
    from smpcli.results.compare import compare

    compare(path.parent).to_json()


def _metrics(path: Path) -> None:
    from smpcli.results.rundir import RunDir

    assert isinstance(RunDir(path.parent).metrics, list)


def _settings(path: Path) -> None:
    from smpcli.results.rundir import RunDir
    from smpcli.settings import resolve

    resolve(flags=RunDir(path.parent).settings).flat()


def _recipe(path: Path) -> None:
    from smpcli.settings import resolve

    resolve(str(path), flags={"task": "movies"}).flat()


def _task(path: Path) -> None:
    from smpcli.tasks.task import load_yaml

    load_yaml(path)


def _table(path: Path) -> None:
    from smpcli.tasks.data import load_data
    from smpcli.tasks.task import find_task

    load_data(find_task(str(path)), None)


def _glue(path: Path) -> None:
    from smpcli.tasks.data import load_data
    from smpcli.tasks.task import find_task

    load_data(find_task("sst2"), path.parent.parent)


def _index_of_shards(path: Path) -> None:
    from smpcli.modeling.safety import _check_shards

    _check_shards(path.parent, "it")


# -- good files


@cache
def _safetensors() -> dict[str, bytes]:
    import torch

    from smpcli.export.mask import FORMAT, VERSION
    from smpcli.results.masks import compress, pack, write_described, write_masks
    from smpcli.training.state import numpy_state

    folder = Path(tempfile.mkdtemp(prefix="smp-fuzz-"))
    masks = {f"encoder.{i}": torch.arange(24).view(4, 6) % 3 == i for i in range(2)}
    write_masks(folder / "mask", masks)
    payloads, shapes, codes = compress(masks)
    about: dict[str, Any] = {
        **{"format": FORMAT, "version": VERSION, "shapes": shapes, "codes": codes, "task": "sst2"},
        **{"base_digest": "0", "kind": "classification", "labels": ["no", "yes"], "pairs": False},
        **{"max_length": 64, "stride": None, "head": "prototype", "words": None, "word_ids": None},
        **{"mask_id": None, "decoder": False, "model": "minilm", "method": "smp", "sparsity": 0.9},
        **{"remaining": 0.1, "metric": "accuracy", "metrics": {"accuracy": 0.5}},
    }
    write_described(folder / "task", {**payloads, "head.weight": torch.ones(2, 3)}, about)
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2, 3), "b": torch.zeros(1, dtype=torch.bfloat16)}, folder / "head")
    state = numpy_state()
    packed, shapes = pack({f"{kind}:{name}": mask for kind in ("mask", "earlier") for name, mask in masks.items()})
    about = {
        **{"format": "smp-checkpoint", "version": 1, "shapes": shapes, "settings": {"seed": 0}, "data": "d"},
        **{"base": "b", "step": 3, "density": 0.5, "loss": None, "seconds": 1.0, "evaluated": True},
        **{"history": [[2, {"accuracy": 0.5}]], "rows": [[["step", 1]]], "python_random": [1] * 625},
        **{"python_gauss": None, "numpy_random": [1, 0, 0.0]},
    }
    tensors = {
        "random.torch": torch.get_rng_state(),
        "random.numpy": torch.from_numpy(state[1].astype("int64")),
        "layer.a.scores": torch.ones(4, 6),
    }
    write_described(folder / "checkpoint", {**packed, **tensors}, about)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    return found


def _result_seeds() -> list[bytes]:
    result: dict[str, Any] = {
        "schema": 1,
        "run": {
            **{"id": "r", "method": "smp", "task": "sst2", "model": "minilm", "sparsity": 0.9, "remaining": 0.1},
            **{"seed": 0, "settings_digest": "0", "command": "smp", "started": "2026-01-01T00:00:00+00:00"},
            "seconds": 1.0,
        },
        "metric": "accuracy",
        "metrics": {"accuracy": 0.5},
        "weights": {"total": 100, "prunable": 100, "kept": 10, "trained": 0},
        "task_bytes": 5,
        "files": {},
        "method": {"report": {}},
        "data": {"digest": "d", "origin": "o", "train": 5, "dev": {"dev": 5}},
        "model": {"name": "minilm", "digest": "d", "head": "prototype"},
        "training": {"steps": 5, "batch_size": 8, "seconds_per_step": 0.1, "metric_history": [[5, 0.5]]},
        "environment": {
            **{"smp": "0", "python": "3", "torch": "2", "transformers": "5", "platform": "l", "device": "cpu"},
            "threads": 1,
        },
    }
    return [json.dumps(result).encode()]


_TASK = b"""title: t
kind: classification
text: text
label: label
labels: [bad, good]
words: {bad: terrible, good: great}
metrics: [accuracy, f1]
defaults: {epochs: 2}
source: {folder: X, hub: a/b, dev_splits: {dev: validation}}
"""
_RECIPE = (
    b"method: smp\nsparsity: 0.95\nseed: 3\nepochs: 1.5\nscores_lr: 2e-2\ninit: zero\nfactored: true\nhead: auto\n"
)
_CSV = b'text,label\n"a ""fine"", film",good\ndull,bad\nwarm,good\ncold,bad\nodd,bad\nnice,good\n'
_SCORES = b"sentence1,sentence2,score\na,b,0.5\nc,d,-1.25\ne,f,3.0\n"
_SQUAD = b"""{"version": "1.1", "data": [{"title": "t", "paragraphs": [
{"context": "It was.", "qas": [{"id": "1", "question": "What?", "answers": [{"text": "It", "answer_start": 0}]}]},
{"context": "Up, down.", "qas": [{"id": "2", "question": "Where?", "answers": [{"text": "Up", "answer_start": 0}]}]}
]}]}"""


def _parquet_seeds() -> list[bytes]:
    import io

    import pyarrow as pa
    from pyarrow import parquet

    texts, labels = ["fine", "dull", "warm", "cold"] * 4, ["good", "bad"] * 8
    seeds = []
    for table, options in (
        (pa.table({"text": texts, "label": labels}), {"compression": "none"}),
        (pa.table({"text": texts, "label": [0, 1] * 8}), {"compression": "snappy", "store_schema": False}),
        (pa.table({"text": texts, "label": [0.5, -1.25] * 8}), {"use_dictionary": False, "compression": "zstd"}),
    ):
        buffer = io.BytesIO()
        parquet.write_table(table, buffer, **options)
        seeds.append(buffer.getvalue())
    return seeds


READERS = {
    reader.name: reader
    for reader in (
        Reader("mask", "mask.safetensors", _mask, lambda: [_safetensors()["mask"]]),
        Reader("exported-mask", "x.smpmask", _task_mask, lambda: [_safetensors()["task"]]),
        Reader("head", "head.safetensors", _head, lambda: [_safetensors()["head"]]),
        Reader("checkpoint", "step-3.safetensors", _checkpoint, lambda: [_safetensors()["checkpoint"]]),
        Reader(
            "checkpoint-index",
            "index.json",
            _checkpoint_index,
            lambda: [b'{"last": "step-000003.safetensors", "best": "step-000002.safetensors", "metric": 0.5}'],
        ),
        Reader("result", "result.json", _result, _result_seeds),
        Reader("compare", "result.json", _run, _result_seeds),
        Reader(
            "metrics",
            "metrics.jsonl",
            _metrics,
            lambda: [b'{"step": 1, "density": 1.0, "loss": 0.5}\n{"step": 2, "loss": null, "accuracy": 0.5}\n'],
        ),
        Reader("settings", "settings.yaml", _settings, lambda: [b"task: movies\n" + _RECIPE]),
        Reader("recipe", "recipe.yaml", _recipe, lambda: [_RECIPE]),
        Reader("task", "task.yaml", _task, lambda: [_TASK]),
        Reader("csv", "own.csv", _table, lambda: [_CSV, _SCORES]),
        Reader("tsv", "own.tsv", _table, lambda: [_SCORES.replace(b",", b"\t"), b"text\tlabel\na\tx\nb\ty\nc\tx\n"]),
        Reader(
            "jsonl",
            "own.jsonl",
            _table,
            lambda: [b'{"text": "fine", "label": "a"}\n{"text": "dull", "label": "b"}\n{"text": "x", "label": "b"}'],
        ),
        Reader("squad", "own.json", _table, lambda: [_SQUAD]),
        Reader("parquet", "own.parquet", _table, _parquet_seeds),
        Reader("glue", "SST-2/train.tsv", _glue, lambda: [b"sentence\tlabel\na fine film\t1\ndull\t0\nwarm\t1\n"]),
        Reader(
            "shards",
            "model.safetensors.index.json",
            _index_of_shards,
            lambda: [b'{"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'],
        ),
    )
}  # fmt: skip


class Attempt:
    """Writes bytes where a reader looks for them, and reads: None, or the error that it is refused with."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader = reader
        self.path = folder / reader.file
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if reader.name == "glue":
            (self.path.parent / "dev.tsv").write_text("sentence\tlabel\nfine\t1\ndull\t0\n")
        if reader.name == "compare":
            (folder / "settings.yaml").write_text("task: sst2\nseed: 1\n")

    def __call__(self, data: bytes) -> UserError | None:
        self.path.write_bytes(data)
        try:
            self.reader.read(self.path)
        except UserError as error:
            assert "\n" not in str(error) and str(error).strip(), "a message of one line"
            return error
        return None
