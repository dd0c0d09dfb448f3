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
from unittest import mock

import folders

from smpcli.errors import UserError


@dataclass(frozen=True)
class Reader:
    """`read` takes a file that lies in a folder of its own; `seeds` makes good files of the kind.

    beside: what else is in the folder, by name. What `read` returns where nothing is refused is what was answered.
    """

    name: str
    file: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    beside: Callable[[], dict[str, bytes]] = dict


def _mask(path: Path) -> None:
    from smpcli.runs.maskfile import read_masks

    read_masks(path)


def _task_mask(path: Path) -> None:
    from smpcli.export.mask import read

    read(path)


def _head(path: Path) -> None:
    from smpcli.runs.rundir import RunDir

    RunDir(path.parent).read_tensors("head.safetensors")


def _checkpoint(path: Path) -> None:
    from smpcli.training.checkpoint import _read_file
    from smpcli.training.checkpoint_contents import restore_random

    saved = _read_file(path)
    import torch

    restore_random(saved, torch.device("cpu"))
    assert saved.start.step >= 0


def _checkpoint_index(path: Path) -> None:
    from smpcli.training.checkpoint import read

    read(path.parent)


def _npy(path: Path) -> None:
    from smpcli.runs.released_masks import read_npy

    read_npy(path, {"a": (4, 6), "b": (5, 6)})


def _result(path: Path) -> None:
    from smpcli.runs.rundir import RunDir

    assert RunDir(path.parent).result.value is not None


def _run(path: Path) -> str:
    """What `compare` makes of the folder: a table and a page of it, or the reason why it is left out."""
    from smpcli.comparison.compare import compare
    from smpcli.comparison.page import contents

    found = compare(path.parent)
    found.to_json()
    contents(found)
    return " ".join(problem for _, problem in found.problems)


def _metrics(path: Path) -> None:
    from smpcli.runs.rundir import RunDir

    assert isinstance(RunDir(path.parent).metrics, list)


def _predictions(path: Path) -> str:
    """Intervals for each metric, of a run that reports whatever these predictions give."""
    import numpy as np

    from smpcli.comparison.bootstrap import dev_predictions, intervals
    from smpcli.runs.rundir import RunDir

    directory = RunDir(path.parent)
    usable = [bool(directory.predictions)]
    for metric in ("accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman", "exact_match"):
        found = dev_predictions(directory, metric)
        usable.append(found is not None)
        if found is not None:
            with np.errstate(all="ignore"):
                intervals([([found], [found])], resamples=3)
    return str(usable)


def _sweep(path: Path) -> None:
    from smpcli.sweeping.grid import expand, read_sweep

    expand(read_sweep(str(path)), path.parent)


def _settings(path: Path) -> None:
    from smpcli.runs.rundir import RunDir
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


def _tokens(path: Path) -> str:
    """As if whoever wrote the file had written its digest, too: else that alone would be looked at."""
    from smpcli.encoding import tokens

    with mock.patch.object(tokens, "_digest", lambda arrays: mock.ANY):
        found = tokens._read(path, 3)
    return "made anew" if found is None else f"read {len(found)} columns"


def _texts(path: Path) -> None:
    from smpcli.export.predict import arrange

    list(arrange([], [path], path)[1])


def _about(path: Path) -> None:
    from smpcli.export.about import format_of, read_about

    format_of(path.parent)
    read_about(path.parent, "compact", 1)


def _compact(path: Path) -> None:
    from smpcli.export.compact import load_model

    load_model(path.parent)


def _sparse(path: Path) -> None:
    from smpcli.export.compact import build, read_details
    from smpcli.export.sparse import expand

    build(path.parent, read_details(path.parent), expand)


def _graph(path: Path) -> None:
    from smpcli.export.onnx import GraphModel

    GraphModel(path, 1)


def _config(path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    from smpcli.modeling.backbone import load_config
    from smpcli.modeling.safety import check_weights

    config = load_config(str(path.parent))
    check_weights(path.parent, "it", AutoModelForSequenceClassification, config)


def _tokenizer(path: Path) -> None:
    from smpcli.modeling.backbone import load_tokenizer

    load_tokenizer(str(path.parent))


def _weights(path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    from smpcli.modeling.backbone import load_config, load_pretrained

    name = str(path.parent)
    load_pretrained(AutoModelForSequenceClassification, name, load_config(name))


def _index_of_shards(path: Path) -> None:
    from smpcli.modeling.safety import _check_shards

    _check_shards(path.parent, "it")


# -- good files


@cache
def _safetensors() -> dict[str, bytes]:
    import torch

    from smpcli.export.mask import FORMAT, VERSION
    from smpcli.runs.maskfile import compress, pack, write_described, write_masks
    from smpcli.training.checkpoint_contents import numpy_state

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
        **{"format": "smp-checkpoint", "version": 3, "shapes": shapes, "settings": {"seed": 0}, "data": "d"},
        **{"base": "b", "step": 3, "density": 0.5, "loss": None, "seconds": 1.0, "evaluated": True},
        **{"history": [[2, {"accuracy": 0.5}]], "rows": [[["step", 1]]], "python_random": [1] * 625},
        **{"python_gauss": None, "numpy_random": [1, 0, 0.0]},
    }
    tensors = {
        "random.torch.0": torch.get_rng_state(),
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


def _prediction_seeds() -> list[bytes]:
    """Of classes, of values, of answers; each gives 0.5 by the metric that the run beside it reports."""
    pairs = ((1, 0), (1, 1), (0, 0), (0, 0))
    classes = [{"split": "dev", "label": label, "prediction": guess} for label, guess in pairs]
    values = [{"split": "dev", "label": i * 0.5, "prediction": float(i)} for i in range(4)]
    answers = [
        {"split": "dev", "id": str(i), "label": ["a film", "it"], "prediction": "film" if i else "no"} for i in (0, 1)
    ]
    return ["".join(json.dumps(row) + "\n" for row in rows).encode() for rows in (classes, values, answers)]


def _beside_predictions() -> dict[str, bytes]:
    result = json.loads(_result_seeds()[0])
    result["metrics"] = dict.fromkeys(("f1", "macro_f1", "matthews", "pearson"), 0.0)
    result["metrics"] |= {"accuracy": 0.75, "spearman": 1.0, "exact_match": 0.5}
    return {"result.json": json.dumps(result).encode()}


def _npy_seeds() -> list[bytes]:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.packbits(np.arange(54) % 3 == 0), allow_pickle=False)
    return [buffer.getvalue()]


def _token_seeds() -> list[bytes]:
    import numpy as np

    from smpcli.encoding.tokens import _write

    folder = Path(tempfile.mkdtemp(prefix="smp-fuzz-"))
    rows = [[2, 5, 3], [2, 6, 7, 3], [2, 3]]
    columns = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
    _write(folder / "x", columns, np.array([0, 2, 0], dtype=np.uint32))
    found = (folder / "x").read_bytes()
    shutil.rmtree(folder)
    return [found]


def _about_seeds() -> list[bytes]:
    about = {
        **{"format": "compact", "version": 1, "task": "sst2", "kind": "classification", "labels": ["no", "yes"]},
        **{"pairs": False, "max_length": 64, "stride": None, "head": "prototype", "words": None, "word_ids": None},
        **{"mask_id": None, "decoder": False, "model": "minilm", "base_digest": "0", "method": "smp"},
        **{"sparsity": 0.9, "remaining": 0.1, "metric": "accuracy", "metrics": {"accuracy": 0.5}},
    }
    span = {"kind": "span", "labels": [], "pairs": True, "stride": 8}
    return [json.dumps(one).encode() for one in (about, about | span)]


def _without(*names: str) -> dict[str, bytes]:
    return {name: content for name, content in folders.model().items() if name not in names}


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
_SWEEP = b"""description: all
recipe: smp-paper
methods: [dense, {method: magnitude, weights_lr: [1e-4, 3e-5]}]
sparsities: [0.9]
seeds: [0]
tasks: [movies]
settings: {batch_size: 16, precision: fp32}
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
        Reader("npy", "mask.npy", _npy, _npy_seeds),
        Reader("head", "head.safetensors", _head, lambda: [_safetensors()["head"]]),
        Reader("checkpoint", "step-3.safetensors", _checkpoint, lambda: [_safetensors()["checkpoint"]]),
        Reader(
            "checkpoint-index",
            "index.json",
            _checkpoint_index,
            lambda: [b'{"last": "step-000003.safetensors", "best": "step-000002.safetensors", "metric": 0.5}'],
            lambda: {f"step-00000{step}.safetensors": _safetensors()["checkpoint"] for step in (2, 3)},
        ),
        Reader("result", "result.json", _result, _result_seeds),
        Reader(
            "compare",
            "result.json",
            _run,
            _result_seeds,
            lambda: {"settings.yaml": b"task: sst2\nseed: 1\n", "mask.safetensors": _safetensors()["mask"]},
        ),
        Reader("predictions", "predictions.jsonl", _predictions, _prediction_seeds, _beside_predictions),
        Reader(
            "metrics",
            "metrics.jsonl",
            _metrics,
            lambda: [b'{"step": 1, "density": 1.0, "loss": 0.5}\n{"step": 2, "loss": null, "accuracy": 0.5}\n'],
        ),
        Reader("settings", "settings.yaml", _settings, lambda: [b"task: movies\n" + _RECIPE]),
        Reader("recipe", "recipe.yaml", _recipe, lambda: [_RECIPE]),
        Reader("sweep", "sweep.yaml", _sweep, lambda: [_SWEEP]),
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
        Reader(
            "glue",
            "SST-2/train.tsv",
            _glue,
            lambda: [b"sentence\tlabel\na fine film\t1\ndull\t0\nwarm\t1\n"],
            lambda: {"dev.tsv": b"sentence\tlabel\nfine\t1\ndull\t0\n"},
        ),
        Reader("texts", "texts.txt", _texts, lambda: [b"a fine film\r\nquestion\tcontext\n"]),
        Reader("tokens", "tokens.safetensors", _tokens, _token_seeds),
        Reader(
            "shards",
            "model.safetensors.index.json",
            _index_of_shards,
            lambda: [b'{"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'],
        ),
        Reader(
            "config",
            "config.json",
            _config,
            lambda: [folders.model()["config.json"]],
            lambda: _without("config.json"),
        ),
        Reader(
            "tokenizer",
            "tokenizer.json",
            _tokenizer,
            lambda: [folders.model()["tokenizer.json"]],
            lambda: _without("tokenizer.json"),
        ),
        Reader(
            "tokenizer-config",
            "tokenizer_config.json",
            _tokenizer,
            lambda: [folders.model()["tokenizer_config.json"]],
            lambda: _without("tokenizer_config.json"),
        ),
        Reader(
            "weights",
            "model.safetensors",
            _weights,
            lambda: [folders.model()["model.safetensors"]],
            lambda: _without("model.safetensors"),
        ),
        Reader("export", "smp.json", _about, _about_seeds),
        Reader(
            "compact",
            "compact.json",
            _compact,
            lambda: [folders.compact()["compact.json"]],
            lambda: {"model.safetensors": folders.compact()["tensors"]},
        ),
        Reader(
            "compact-tensors",
            "model.safetensors",
            _compact,
            lambda: [folders.compact()["tensors"]],
            lambda: {"compact.json": folders.compact()["compact.json"]},
        ),
        Reader(
            "sparse-tensors",
            "model.safetensors",
            _sparse,
            lambda: [folders.compact()["sparse"]],
            lambda: {"compact.json": folders.compact()["compact.json"]},
        ),
        Reader("onnx", "model.onnx", _graph, lambda: [folders.graph()]),
    )
}  # fmt: skip


class Attempt:
    """Writes bytes where a reader looks for them, and reads: None, or the error that it is refused with."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader = reader
        self.path = folder / reader.file
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for name, content in reader.beside().items():
            (self.path.parent / name).write_bytes(content)

    def __call__(self, data: bytes) -> object:
        """None or what the reader answers, or the error that the file is refused with."""
        self.path.write_bytes(data)
        try:
            return self.reader.read(self.path)
        except UserError as error:
            assert "\n" not in str(error) and str(error).strip(), "a message of one line"
            return error
