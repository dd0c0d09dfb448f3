"""Taking stock BERT-like models apart, into the parts that `CompactModel` is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pruners.masks.architectures import ARCHITECTURES, ROLES, HeadPlaces
from smpcli.errors import UserError
from smpcli.export.shrink import shrink
from smpcli.modeling.compact_model import ACTIVATIONS, Architecture
from smpcli.modeling.heads import TaskModel


def take_apart(model: TaskModel) -> tuple[Architecture, dict[str, Tensor], int]:
    """Architecture and tensors of the shrunk model, and the number of elements of its blocks' matrices.

    model: a pruned model with zeros in place. Raises UserError for an architecture that can't be taken apart.
    """
    config, backbone = model.config, model.backbone
    places = ARCHITECTURES[require_supported(config)]
    act = _activation(config)
    tensors = _embeddings(backbone.base_model)
    blocks, area = [], 0
    for index, block in enumerate(backbone.base_model.get_submodule(places.block.stack)):
        matrices = {role: block.get_submodule(places.block.matrices[role]) for role in ROLES}
        small = shrink(
            {role: matrix.weight for role, matrix in matrices.items()},
            {role: matrix.bias for role, matrix in matrices.items()},
            config.num_attention_heads,
            ACTIVATIONS[act],
        )
        parts = dict(small.tensors)
        for number, path in enumerate(places.block.norms, start=1):
            parts |= _named(f"norm{number}", block.get_submodule(path))
        tensors |= {f"blocks.{index}.{name}": tensor for name, tensor in parts.items()}
        blocks.append(small.sizes)
        area += small.area
    head, tensors_of_head = _head(model, places.heads)
    tensors |= tensors_of_head
    norm = backbone.get_submodule(head.norm) if head.norm else None
    architecture = Architecture(
        blocks=blocks,
        activation=act,
        epsilon=_epsilon(backbone.base_model),
        head_activation=act if head.activation == "config" else head.activation,
        head_epsilon=norm.eps if norm is not None else 0.0,
        padding_id=config.pad_token_id if places.counts_padding else None,
        mask_id=model.mask_id,
    )
    return architecture, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, area


def require_supported(config: Any) -> str:
    """The model type. Raises UserError, with the reason, where blocks are of another form than BERT's."""
    kind = str(config.model_type)
    supported = [name for name, places in ARCHITECTURES.items() if places.heads]
    if kind not in supported:
        raise UserError(
            f"model type '{kind}' can't be made compact: its blocks are not BERT's ({', '.join(supported)} can)",
            "`--format hf` exports it with zeros in place",
        )
    embedding = getattr(config, "position_embedding_type", "absolute")
    if embedding != "absolute" or getattr(config, "is_decoder", False):
        raise UserError(
            f"this {kind} can't be made compact: it has relative positions or is a decoder",
            "`--format hf` exports it with zeros in place",
        )
    _activation(config)
    return kind


def _activation(config: Any) -> str:
    name = str(getattr(config, "hidden_act", None) or config.activation)
    if name not in ACTIVATIONS:
        raise UserError(
            f"activation '{name}' can't be made compact ({', '.join(ACTIVATIONS)} can)",
            "`--format hf` exports it with zeros in place",
        )
    return name


def _epsilon(base: Any) -> float:
    return float(base.embeddings.LayerNorm.eps)


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.named_parameters()}


def _embeddings(base: Any) -> dict[str, Tensor]:
    found = base.embeddings
    tensors = {
        "embeddings.word": found.word_embeddings.weight,
        "embeddings.position": found.position_embeddings.weight,
        **_named("embeddings.norm", found.LayerNorm),
    }
    if hasattr(found, "token_type_embeddings"):
        tensors["embeddings.segment"] = found.token_type_embeddings.weight
    if hasattr(base, "embeddings_project"):
        tensors |= _named("embeddings.project", base.embeddings_project)
    return tensors


def _head(model: TaskModel, heads: Mapping[str, HeadPlaces]) -> tuple[HeadPlaces, dict[str, Tensor]]:
    name = type(model.backbone).__name__
    purpose = "MaskedLM" if model.word_ids is not None else "SequenceClassification"
    places = heads[purpose]
    if not name.endswith(f"For{purpose}"):
        raise UserError(f"{name} can't be made compact: its head is not a text classifier's", "use --format hf")
    tensors = _named("head.dense", model.backbone.get_submodule(places.dense))
    if places.norm:
        tensors |= _named("head.norm", model.backbone.get_submodule(places.norm))
    out = model.backbone.get_submodule(places.out)
    rows = slice(None) if model.word_ids is None else model.word_ids
    return places, {**tensors, "head.out.weight": out.weight[rows], "head.out.bias": out.bias[rows]}
