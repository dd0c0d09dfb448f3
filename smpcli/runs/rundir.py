"""A run directory: what one run leaves behind (docs/result-schema.md). result.json comes last: "finished"."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError, one_line
from smpcli.files import cannot_write, is_temporary, remove_temporaries, replacing, write_json, write_text
from smpcli.runs.maskfile import read_masks, write_masks
from smpcli.runs.schema import Result, SchemaError, parse_result
from smpcli.yaml_text import read_yaml, write_yaml

if TYPE_CHECKING:
    from torch import Tensor

SETTINGS, METRICS, PREDICTIONS = "settings.yaml", "metrics.jsonl", "predictions.jsonl"
ANSWERS = "predictions.json"
MASKS, HEAD, WEIGHTS, RESULT = "mask.safetensors", "head.safetensors", "weights.safetensors", "result.json"
CHECKPOINT = "checkpoint"
# In the order of clearing: never a result without what it speaks of, and a run to the last.
_OWN = (RESULT, METRICS, PREDICTIONS, ANSWERS, MASKS, HEAD, WEIGHTS, CHECKPOINT, SETTINGS)
# What no run comes near, and no reader should take into memory.
_LIMITS = {RESULT: 20_000_000, METRICS: 200_000_000, PREDICTIONS: 2_000_000_000}
_HOW_TO_MAKE = "`smp prune … --output FOLDER` makes one"


class RunError(UserError):
    """A folder that can't be used as a finished run, as it is `reason`: "damaged: settings.yaml is missing"."""

    def __init__(self, path: Path, reason: str, remedy: str = "") -> None:
        super().__init__(one_line(f"{path} is {reason}", limit=600), remedy)
        self.path = path
        self.reason = one_line(reason, limit=600)


def is_run(path: Path) -> bool:
    """Whether a folder is a run directory, finished or not. Raises `OSError` where that can't be seen."""
    return (path / SETTINGS).is_file() or (path / RESULT).is_file()


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for these settings, whatever the order of their keys."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, allow_nan=False, default=os.fspath)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class RunDir:
    """One run's folder. `create` starts one and is then written to; `open` takes a finished one, checked.

    Whatever is wrong with a folder or a file in it is a `UserError` of one line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, Any]] = []

    @classmethod
    def create(cls, output: Path, run_id: str, overwrite: bool = False) -> RunDir:
        """Make `output`/`run_id`, or clear what an unfinished run (with `overwrite`: a finished one) left there.

        A folder that holds anything else is refused and stays as it is.
        """
        if run_id in ("", ".", "..") or "/" in run_id or "\\" in run_id or "\0" in run_id:
            raise UserError(f"'{run_id}' can't be a run's name", "a name without slashes is needed")
        path = output / run_id
        try:
            path.mkdir(parents=True, exist_ok=True)
            entries = sorted(path.iterdir())
            # Files that only bear our names aren't a run either: settings.yaml is the first to come, the last to go.
            foreign = [entry for entry in entries if not _is_own(entry)]
            if not foreign and not is_run(path):
                foreign = [entry for entry in entries if entry.name in _OWN]
            if foreign:
                raise UserError(
                    f"{path} holds '{foreign[0].name}', which is not part of a run, and is left as it is",
                    "choose another place with --output",
                )
            cls.refuse_finished(path, overwrite)
            for entry in sorted(entries, key=_clearing_order):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as error:
            raise cannot_write(path, error) from error
        return cls(path)

    @classmethod
    def resume(cls, path: Path, rows: Sequence[Mapping[str, Any]]) -> RunDir:
        """Take an unfinished run to go on with it: with these rows in metrics.jsonl, and nothing half written."""
        run = cls(path)
        try:
            run.tidy()
            for name in (PREDICTIONS, ANSWERS, MASKS, HEAD, WEIGHTS):
                (path / name).unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error
        run._rows = [dict(row) for row in rows]
        run._write_rows(METRICS, run._rows)
        return run

    def tidy(self) -> None:
        """Remove what a killed process left half written, and of a finished run its checkpoints."""
        checkpoint = self.path / CHECKPOINT
        remove_temporaries(self.path, *_OWN)
        if checkpoint.is_symlink():
            checkpoint.unlink()
        elif self.has(RESULT):
            shutil.rmtree(checkpoint, ignore_errors=True)
        elif checkpoint.is_dir():
            for entry in checkpoint.glob(".*.tmp"):
                entry.unlink()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl as written by this process, fit for JSON."""
        return [_finite(row) for row in self._rows]

    @staticmethod
    def refuse_finished(path: Path, overwrite: bool) -> None:
        """Raise `UserError` where a finished run is, unless it may be done again."""
        if (path / RESULT).exists() and not overwrite:
            raise UserError(f"{path} holds a finished run", "--overwrite does it again, --output names another place")

    @classmethod
    def open(cls, path: Path | str) -> RunDir:
        """Take a finished run whose files are all there. Raises `RunError` for anything else."""
        path = Path(path)
        try:
            if not path.exists():
                raise RunError(path, "not there", f"a run is a folder, and {_HOW_TO_MAKE}")
            if not path.is_dir():
                raise RunError(path, "not a run: it's a file", f"a run is a folder, and {_HOW_TO_MAKE}")
            if not is_run(path):
                raise _no_run(path)
            if not (path / RESULT).is_file():
                raise RunError(path, f"unfinished: it has no {RESULT}", "run it again with the same command")
            if not (path / SETTINGS).is_file():
                raise RunError(path, f"damaged: {SETTINGS} is missing")
            run = cls(path)
            run._refuse_links()
            run._check_files(run.result)
        except OSError as error:
            raise RunError(path, f"unreadable: {error.strerror or error}") from error
        return run

    @property
    def result(self) -> Result:
        """result.json, checked against the schema."""
        try:
            return parse_result(self._read(RESULT))
        except SchemaError as error:
            raise RunError(self.path, f"damaged: {RESULT}: {error.problem}", error.remedy) from None

    @property
    def settings(self) -> dict[str, Any]:
        """The fully resolved settings."""
        try:
            settings = read_yaml(self.path / SETTINGS)
        except UserError as error:
            raise RunError(self.path, f"damaged: {error.problem}", error.remedy) from None
        if strange := [key for key in settings if not isinstance(key, str)]:
            raise RunError(self.path, f"damaged: {SETTINGS}: the key {one_line(repr(strange[0]), 60)} is not a name")
        return settings

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, oldest first; none where the run logged none."""
        return self._read_rows(METRICS)

    @property
    def predictions(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of predictions.jsonl of each dev split, in the order of its examples."""
        splits: dict[str, list[dict[str, Any]]] = {}
        for row in self._read_rows(PREDICTIONS):
            splits.setdefault(str(row.pop("split", "")), []).append(row)
        return splits

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        # Through JSON, so that YAML gets plain values only: no tuples, paths or anchors.
        write_yaml(self.path / SETTINGS, json.loads(json.dumps(settings, default=os.fspath)))

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.jsonl. A loss that isn't finite becomes null, as JSON has no other word."""
        self._rows.append(dict(row))
        self._write_rows(METRICS, self._rows)

    def write_predictions(self, predictions: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Write {"label", "prediction"} rows of each dev split."""
        self._write_rows(
            PREDICTIONS, ({"split": split, **row} for split, rows in predictions.items() for row in rows)
        )

    def write_answers(self, answers: Mapping[str, str]) -> None:
        """Write {question's id: answer}: what SQuAD's official script reads."""
        write_json(self.path / ANSWERS, dict(answers))

    def write_masks(self, masks: Mapping[str, Tensor]) -> None:
        write_masks(self.path / MASKS, masks)

    def read_masks(self) -> dict[str, Tensor]:
        return read_masks(self.path / MASKS)

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write head.safetensors or weights.safetensors."""
        from safetensors.torch import save_file

        with replacing(self._tensor_file(name)) as temporary:
            save_file({key: tensors[key].detach().cpu().contiguous() for key in sorted(tensors)}, temporary)

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._tensor_file(name)
        try:
            return load_file(path)
        except FileNotFoundError:
            raise RunError(self.path, f"damaged: {name} is missing") from None
        except SafetensorError as error:
            raise RunError(self.path, f"damaged: {name}: {error}") from None
        except OSError as error:
            raise RunError(self.path, f"unreadable: {name}: {error.strerror or error}") from None

    def has(self, name: str) -> bool:
        """Whether a file of this name is there; head and weights are optional."""
        return (self.path / name).is_file()

    def sizes(self) -> dict[str, int]:
        """The bytes of each file that is there, by name: what result.json keeps as "files"."""
        present = (self.path / name for name in sorted(_OWN) if name != RESULT)
        return {file.name: file.stat().st_size for file in present if file.is_file()}

    def write_result(self, result: Result) -> None:
        """Write result.json: the last act of a run."""
        text = json.dumps(result.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_text(self.path / RESULT, text)

    def _refuse_links(self) -> None:
        """A run may be a stranger's: none of its files is one that lies elsewhere."""
        inside = self.path.resolve()
        for name in _OWN:
            file = self.path / name
            if file.is_symlink() and not file.resolve().is_relative_to(inside):
                raise RunError(self.path, f"damaged: {name} is a link that leads out of the folder")

    def _check_files(self, result: Result) -> None:
        pruned = result.weights.kept < result.weights.prunable
        expected: dict[str, int | None] = {MASKS: None} if pruned else {}
        for name, size in {**expected, **result.files}.items():
            if name not in _OWN:
                raise RunError(
                    self.path, f"damaged: {RESULT} lists '{one_line(name, 60)}', which is not a file of a run"
                )
            file = self.path / name
            if not file.is_file():
                raise RunError(self.path, f"damaged: {name} is missing")
            if size is not None and file.stat().st_size != size:
                raise RunError(
                    self.path,
                    f"damaged: {name} has {file.stat().st_size} bytes, where {RESULT} says {size}",
                )

    def _read(self, name: str) -> str:
        try:
            file = self.path / name
            if (size := file.stat().st_size) > _LIMITS.get(name, size):
                raise RunError(self.path, f"damaged: {name} has {size:,} bytes, more than any run writes")
            return file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RunError(self.path, f"unfinished: it has no {name}") from None
        except UnicodeDecodeError:
            raise RunError(self.path, f"damaged: {name} isn't UTF-8 text") from None
        except OSError as error:
            raise RunError(self.path, f"unreadable: {name}: {error.strerror or error}") from None

    def _read_rows(self, name: str) -> list[dict[str, Any]]:
        if not (self.path / name).exists():
            return []
        rows = []
        for number, line in enumerate(self._read(name).split("\n"), start=1):
            if not line:
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise RunError(self.path, f"damaged: {name}, line {number}: no JSON object")
            rows.append(row)
        return rows

    def _write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        lines = (json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        write_text(self.path / name, "".join(lines))

    def _tensor_file(self, name: str) -> Path:
        if name not in (HEAD, WEIGHTS):
            raise ValueError(f"a run has no file '{name}'")
        return self.path / name


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
    }


def _is_own(entry: Path) -> bool:
    return entry.name in _OWN or is_temporary(entry.name, _OWN)


def _clearing_order(entry: Path) -> int:
    # Temporary files in between: after the result, before the settings.
    return _OWN.index(entry.name) if entry.name in _OWN else 1


def _no_run(path: Path) -> RunError:
    inside = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and is_run(entry))
    if not inside:
        return RunError(path, f"not a run: it holds neither {SETTINGS} nor {RESULT}", _HOW_TO_MAKE)
    return RunError(path, f"not a run but holds {_listed(inside)}", f"name one, such as {path / inside[0]}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"the run {shown}" if len(names) == 1 else f"{len(names)} runs ({shown})"
