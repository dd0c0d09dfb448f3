"""The compact model for onnxruntime: float32, or with matrices and embeddings in 8 bits."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

from smpcli.errors import UserError
from smpcli.export.checking import check
from smpcli.export.compact import beside, describe, exported, shrink_run
from smpcli.export.formats import FULL, TOLERANCE, Exported
from smpcli.export.loading import ABOUT, GRAPH
from smpcli.files import write_json
from smpcli.modeling.compact import CompactModel
from smpcli.training.recompute import Reopened

SUFFIX = "-onnx"


def require_onnx() -> None:
    """Raises UserError where the packages of the extra `onnx` are missing."""
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"this needs the package {' and '.join(missing)}: pip install 'smp-prune[onnx]'")


def write(run: Reopened, target: Path, drop_rows_below: int = 0, precision: str = FULL) -> Exported:
    """Write the folder, run it in onnxruntime in a new process over the dev data, put it in place.

    precision "int8": dynamic quantisation, so logits differ; what that costs is the metric's change.
    """
    require_onnx()
    with beside(target) as folder:
        parts = shrink_run(run, drop_rows_below)
        about = describe(run, parts, "onnx", precision)
        write_graph(CompactModel(parts.architecture, parts.tensors), folder / GRAPH, precision)
        write_json(folder / ABOUT, about)
        run.tokenizer.save_pretrained(folder)
        checked = check(run, folder, run.model, TOLERANCE if precision == FULL else None)
        write_json(folder / ABOUT, {**about, "metrics": checked.metrics, "max_difference": checked.difference})
    return exported(run, target, "onnx", checked, parts)


def write_graph(model: CompactModel, path: Path, precision: str) -> None:
    """Write a model as an ONNX file."""
    import onnx

    from smpcli.export.graph import build_graph

    graph = build_graph(model)
    if precision == FULL:
        onnx.save(graph, path)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It advises, at the level of warnings, to prepare graphs that come from elsewhere.
    logging.getLogger().setLevel(logging.ERROR)
    quantize_dynamic(graph, path, weight_type=QuantType.QInt8, per_channel=True)
