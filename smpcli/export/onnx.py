"""The compact model for onnxruntime: float32, or with matrices and embeddings in 8 bits."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from smpcli.encoding.tokens import INPUTS, input_names
from smpcli.errors import UserError, one_line
from smpcli.evaluation.recompute import Reopened
from smpcli.export.about import format_of, read_about
from smpcli.export.compact import VERSION, describe_and_verify, details, exported, folder_for, shrink_run
from smpcli.export.formats import FULL, Exported
from smpcli.export.ready import Ready
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.compact_model import CompactModel
from smpcli.modeling.limits import Limits

SUFFIX = "-onnx"
FORMAT = "onnx"
GRAPH = "model.onnx"
# What graph.py writes, and what quantising makes of it.
OPERATORS = set(
    "Add ArgMax Cast CumSum DequantizeLinear Div DynamicQuantizeLinear Equal Erf Gather GatherND Identity "
    "LayerNormalization MatMul MatMulInteger Mul Not Relu Reshape Shape Sigmoid Slice Softmax Split Squeeze Sub Tanh "
    "Transpose Unsqueeze".split()
)


def require_onnx() -> None:
    """Raises UserError where the packages of the extra `onnx` are missing."""
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"this needs the package {' and '.join(missing)}", "pip install 'smp-prune[onnx]'")


def write(run: Reopened, target: Path, drop_rows_below: int = 0, precision: str = FULL) -> Exported:
    """Write the folder, run it in onnxruntime in a new process over the dev data, put it in place.

    precision "int8": dynamic quantisation, so logits differ; what that costs is the metric's change.
    """
    require_onnx()
    with folder_for(target) as folder:
        parts = shrink_run(run, drop_rows_below)
        model = CompactModel(parts.architecture, parts.tensors)
        inputs = write_graph(model, folder / GRAPH, precision, input_names(run.tokenizer))
        verified = describe_and_verify(run, folder, FORMAT, details(parts, precision), inputs)
        return exported(run, target, folder, FORMAT, verified, parts)


def is_one(path: Path) -> bool:
    return path.is_dir() and format_of(path) == FORMAT


def load(path: Path, model: str | None = None) -> Ready:
    """The folder's own graph; it needs no base, so `model` changes nothing."""
    about = read_about(path, FORMAT, VERSION)
    return Ready.of(about, load_model(path), load_tokenizer(path))


def load_model(path: Path) -> GraphModel:
    """The graph alone, without the tokenizer, on as many threads as torch has."""
    return GraphModel(path / GRAPH, torch.get_num_threads())


class GraphModel(nn.Module):
    """An ONNX file of ours in onnxruntime: token ids and masks (batch, length) -> logits (batch, labels)."""

    def __init__(self, file: Path, threads: int) -> None:
        super().__init__()
        require_onnx()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what is wrong with a graph, the error says
        try:
            _check_graph(file)
            self.session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except UserError:
            raise
        except Exception as error:  # its own exceptions have no base of their own
            raise UserError(
                one_line(f"damaged export {file}: onnxruntime can't load it ({error})"), "export it again"
            ) from error
        said = self.session.get_modelmeta().custom_metadata_map
        # Graphs of earlier releases don't say them.
        rows = {name: said.get(name, "") for name in ("tokens", "positions", "segments")}
        self.limits = Limits(**{name: int(text) for name, text in rows.items() if re.fullmatch("[0-9]{1,9}", text)})
        outputs = [found.name for found in self.session.get_outputs()]
        self.names = [wanted.name for wanted in self.session.get_inputs()]
        if outputs != ["logits"] or not {"input_ids", "attention_mask"} <= {*self.names} <= {*INPUTS}:
            raise UserError(one_line(f"damaged export {file}: its inputs and outputs are not those of an export"))

    def forward(self, **inputs: Tensor) -> Tensor:
        # Older exports ask for it where their tokenizers make none.
        if "token_type_ids" in self.names and "token_type_ids" not in inputs:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        return torch.from_numpy(self.session.run(["logits"], {name: inputs[name].numpy() for name in self.names})[0])


def _check_graph(file: Path) -> None:
    """Refuse a graph that isn't one of ours: what others can do (read other files, make a tensor of any size)."""
    import onnx

    found = onnx.load(file, load_external_data=False)
    strange = {f"{node.domain}{node.op_type}" for node in found.graph.node} - OPERATORS
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in found.graph.initializer):
        strange.add("weights in another file")
    if found.functions or found.graph.sparse_initializer:
        strange.add("functions or sparse weights")
    if strange:
        raise UserError(
            one_line(f"damaged export {file}: smp doesn't write {', '.join(sorted(strange))}"), "export it again"
        )


def write_graph(model: CompactModel, path: Path, precision: str, inputs: Sequence[str] = INPUTS) -> list[str]:
    """Write a model as an ONNX file; returns its inputs: those of `inputs` that the model has a use for."""
    import onnx

    from smpcli.export.graph import build_graph

    graph = build_graph(model, inputs)
    names = [found.name for found in graph.graph.input]
    if precision == FULL:
        onnx.save(graph, path)
        return names
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It advises, at the level of warnings, to prepare graphs that come from elsewhere.
    logging.getLogger().setLevel(logging.ERROR)
    quantize_dynamic(graph, path, weight_type=QuantType.QInt8, per_channel=True)
    return names
