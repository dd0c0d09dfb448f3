"""Loading what was exported, whatever the format: a function from token ids and masks to logits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

    from smpcli.modeling.compact import CompactModel
    from smpcli.modeling.sparse import SparseModel

ABOUT, TENSORS, GRAPH = "compact.json", "model.safetensors", "model.onnx"
FORMAT, VERSION = "smp-compact", 1

#: "input_ids", "attention_mask" and, where the model has segments, "token_type_ids", each (batch, length) -> logits.
Runner = Callable[[Mapping[str, "Tensor"]], "Tensor"]


def read_about(folder: Path) -> dict[str, Any]:
    """compact.json, checked. Raises UserError where it is no export of ours."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is no compact export: it holds no {ABOUT}") from None
    except (ValueError, RecursionError):
        raise UserError(f"damaged export {folder}: {ABOUT} is no JSON") from None
    except OSError as error:
        raise UserError(f"can't read {folder / ABOUT}: {error.strerror or error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"damaged export {folder}: {ABOUT} doesn't say that it is {FORMAT}")
    if about.get("version") != VERSION:
        raise UserError(f"{folder} is of version {about.get('version')!r} and this smp reads {VERSION}: upgrade smp")
    return about


def load_compact(folder: Path) -> CompactModel:
    """The model of a `compact` export. Raises UserError for a folder that isn't one, or whose parts don't fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from smpcli.modeling.compact import Architecture, CompactModel

    about = read_about(folder)
    try:
        tensors = load_file(folder / TENSORS)
        if about["runtime"] == "sparse":
            from smpcli.export.sparse import expand

            tensors = expand(tensors)
        return CompactModel(Architecture.from_json(about["architecture"]), tensors)
    except FileNotFoundError:
        raise UserError(f"damaged export {folder}: {TENSORS} is missing") from None
    except (SafetensorError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            one_line(
                f"damaged export {folder}: {TENSORS} and {ABOUT} don't fit each other ({error}); export it again"
            )
        ) from error


def load_export(path: Path, threads: int | None = None) -> Runner:
    """What runs an export on this machine's CPU (with as many threads as torch has, or `threads`).

    Raises UserError for what is none.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    about = read_about(path)
    if about.get("runtime") == "onnx":
        return load_graph(path / GRAPH, torch.get_num_threads())
    compact = load_compact(path)
    model: torch.nn.Module = compact
    if about["runtime"] == "sparse":
        model = _on_sparse_kernels(compact, about)

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(**inputs)
        return logits.float()

    return run


def _on_sparse_kernels(model: CompactModel, about: dict[str, Any]) -> SparseModel:
    """With the choices of the export where it was made on a machine like this one, else with new ones."""
    from smpcli.export.sparse import machine
    from smpcli.modeling.sparse import SparseModel

    made = SparseModel(model)
    made.choose(about.get("sparse_at") if about.get("machine") == machine() else None)
    return made


def load_graph(file: Path, threads: int) -> Runner:
    """What runs an ONNX file of ours in onnxruntime."""
    from smpcli.export.onnx import require_onnx

    require_onnx()
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exceptions have no base of their own
        raise UserError(
            one_line(f"damaged export {file}: onnxruntime can't load it ({error}); export it again")
        ) from error
    names = [wanted.name for wanted in session.get_inputs()]

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        given = dict(inputs)
        if "token_type_ids" in names and "token_type_ids" not in given:
            given["token_type_ids"] = torch.zeros_like(given["input_ids"])
        return torch.from_numpy(session.run(["logits"], {name: given[name].numpy() for name in names})[0])

    return run
