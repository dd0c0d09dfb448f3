"""The compact model as an ONNX graph, written node by node: batch and length stay open, weights are constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from smpcli.encoding.tokens import INPUTS
from smpcli.modeling.compact_model import CompactBlock, CompactModel, Embeddings, Head

# 17 is the first with LayerNormalization; onnxruntime has read it since 1.12 (2022). IR 8 belongs to it.
OPSET, IR_VERSION = 17, 8
SEGMENTS = "token_type_ids"


class Graph:
    """Nodes and constants; `add` returns the name of a node's first output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{op.lower()}_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Tensor | Sequence[int] | float) -> str:
        if isinstance(value, Tensor):
            array = value.detach().cpu().contiguous().numpy()
        else:
            array = np.array(value, dtype=np.float32 if isinstance(value, float) else np.int64)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def linear(self, x: str, weight: Tensor, bias: Tensor) -> str:
        # A product with a constant on its right is what onnxruntime's quantiser looks for.
        return str(self.add("Add", self.add("MatMul", x, self.constant(weight.T)), self.constant(bias)))

    def norm(self, x: str, weight: Tensor, bias: Tensor, epsilon: float) -> str:
        scale, shift = self.constant(weight), self.constant(bias)
        return str(self.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=epsilon))

    def gather(self, x: str, index: Tensor | None) -> str:
        return x if index is None else str(self.add("Gather", x, self.constant(index), axis=-1))

    def activation(self, x: str, name: str) -> str:
        return _ACTIVATIONS[name](self, x)


def _gelu(g: Graph, x: str) -> str:
    # The form that onnxruntime fuses: x * 0.5 * (1 + erf(x / sqrt 2)).
    erf = g.add("Erf", g.add("Div", x, g.constant(2.0**0.5)))
    return str(g.add("Mul", g.add("Mul", x, g.add("Add", erf, g.constant(1.0))), g.constant(0.5)))


def _gelu_tanh(g: Graph, x: str) -> str:
    cube = g.add("Mul", g.add("Mul", x, x), x)
    inner = g.add("Add", x, g.add("Mul", cube, g.constant(0.044715)))
    tanh = g.add("Tanh", g.add("Mul", inner, g.constant((2 / np.pi) ** 0.5)))
    return str(g.add("Mul", g.add("Mul", x, g.add("Add", tanh, g.constant(1.0))), g.constant(0.5)))


def _silu(g: Graph, x: str) -> str:
    return str(g.add("Mul", x, g.add("Sigmoid", x)))


_ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": lambda g, x: str(g.add("Relu", x)),
    "silu": _silu,
    "swish": _silu,
    "tanh": lambda g, x: str(g.add("Tanh", x)),
}


def build_graph(model: CompactModel, inputs: Sequence[str] = INPUTS) -> onnx.ModelProto:
    """The model's graph: input_ids, attention_mask (and token_type_ids), int64 (batch, length) -> logits.

    inputs: what its tokenizer makes; without token_type_ids among them every token is of the first segment.
    """
    g = Graph()
    segments = model.embeddings.segment is not None and SEGMENTS in inputs
    x = _embed(g, model.embeddings, segments)
    mask = g.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    dropped = g.add("Sub", g.constant(1.0), mask)
    bias = g.add("Mul", dropped, g.constant(float(torch.finfo(torch.float32).min)))
    bias = g.add("Unsqueeze", bias, g.constant([1, 2]))
    for block in model.blocks:
        x = _block(g, x, bias, block, model.mask_id)  # type: ignore[arg-type]
    if not model.blocks[-1].last:
        x = _answer_position(g, x, model.mask_id)
    x = g.add("Squeeze", x, g.constant([1]))
    logits = _head(g, x, model.head)
    taken = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in INPUTS
        if name != SEGMENTS or segments
    ]
    labels = len(model.head.out_bias)
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", labels])
    g.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    graph = helper.make_graph(g.nodes, "smp", taken, [output], g.constants)
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="smp"
    )
    limits = {name: str(rows) for name, rows in asdict(model.limits).items() if rows is not None}
    helper.set_model_props(made, limits)
    onnx.checker.check_model(made)
    return made


def _embed(g: Graph, e: Embeddings, segments: bool) -> str:
    x = g.add("Gather", g.constant(e.word), "input_ids")
    if e.padding_id is None:
        length = g.add("Slice", g.add("Shape", "input_ids"), g.constant([1]), g.constant([2]))
        places = g.add("Slice", g.constant(e.position), g.constant([0]), length, g.constant([0]))
    else:
        padding = g.add("Equal", "input_ids", g.constant([e.padding_id]))
        real = g.add("Cast", g.add("Not", padding), to=TensorProto.INT64)
        counted = g.add("Mul", g.add("CumSum", real, g.constant(torch.tensor(1))), real)
        places = g.add("Gather", g.constant(e.position), g.add("Add", counted, g.constant([e.padding_id])))
    x = g.add("Add", x, places)
    if segments:
        x = g.add("Add", x, g.add("Gather", g.constant(e.segment), SEGMENTS))
    elif e.segment is not None:
        x = g.add("Add", x, g.constant(e.segment[0]))
    x = g.norm(x, e.norm_weight, e.norm_bias, e.epsilon)
    return x if e.project_weight is None else g.linear(x, e.project_weight, e.project_bias)


def _block(g: Graph, x: str, bias: str, block: CompactBlock, mask_id: int | None) -> str:
    here = _answer_position(g, x, mask_id) if block.last else x
    if block.heads:
        mixed = _attend(g, x, here, bias, block)
        here = g.add("Add", here, g.linear(mixed, block.output_weight, block.output_bias))
    else:
        here = g.add("Add", here, g.constant(block.output_bias))
    here = g.norm(here, block.norm1_weight, block.norm1_bias, block.epsilon)
    if block.neurons:
        inner = g.linear(g.gather(here, block.up_reads), block.up_weight, block.up_bias)
        inner = g.activation(inner, block.activation)
        here = g.add("Add", here, g.linear(inner, block.down_weight, block.down_bias))
    else:
        here = g.add("Add", here, g.constant(block.down_bias))
    return g.norm(here, block.norm2_weight, block.norm2_bias, block.epsilon)


def _answer_position(g: Graph, x: str, mask_id: int | None) -> str:
    """The one position of each text that the head reads, (batch, 1, width)."""
    if mask_id is None:
        return str(g.add("Slice", x, g.constant([0]), g.constant([1]), g.constant([1])))
    found = g.add("Cast", g.add("Equal", "input_ids", g.constant([mask_id])), to=TensorProto.INT32)
    at = g.add("ArgMax", found, axis=1, keepdims=1)
    return str(g.add("Unsqueeze", g.add("GatherND", x, at, batch_dims=1), g.constant([1])))


def _attend(g: Graph, x: str, here: str, bias: str, block: CompactBlock) -> str:
    read = g.gather(x, block.attention_reads)
    if block.last:
        (q,) = _heads(g, g.gather(here, block.attention_reads), block, "ask", 1)
        k, v = _heads(g, read, block, "answer", 2)
    else:
        q, k, v = _heads(g, read, block, "all", 3)
    q, v = (g.add("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
    k = g.add("Transpose", k, perm=[0, 2, 3, 1])
    shares = g.add("Softmax", g.add("Add", g.add("MatMul", q, k), bias), axis=-1)
    mixed = g.add("Transpose", g.add("MatMul", shares, v), perm=[0, 2, 1, 3])
    return g.gather(g.add("Reshape", mixed, g.constant([0, 0, -1])), block.mixed)


def _heads(g: Graph, x: str, block: CompactBlock, name: str, parts: int) -> list[str]:
    """`parts` times (batch, positions, heads, width)."""
    y = g.linear(x, getattr(block, f"{name}_weight"), getattr(block, f"{name}_bias"))
    y = g.gather(y, getattr(block, f"{name}_places"))
    split = [y] if parts == 1 else g.add("Split", y, outputs=parts, axis=-1)
    return [str(g.add("Reshape", part, g.constant([0, 0, block.heads, -1]))) for part in split]


def _head(g: Graph, x: str, head: Head) -> str:
    x = g.activation(g.linear(x, head.dense_weight, head.dense_bias), head.activation)
    if head.norm_weight is not None:
        x = g.norm(x, head.norm_weight, head.norm_bias, head.epsilon)
    return g.linear(x, head.out_weight, head.out_bias)
