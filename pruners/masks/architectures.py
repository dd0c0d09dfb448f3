"""Architectures as data: where a model type keeps what is pruned and cut. A new one is an entry of ARCHITECTURES.

A block's matrices have roles: attention's query, key, value and output, the feed-forward part's up and down. Any
transformer can be pruned without an entry. Blocks of exactly these six get `structure`, and `smp inspect` orders
matrices by their roles. With norms and heads, an entry makes the exports `compact`, `sparse` and `onnx` possible.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

#: The six matrices of a block.
ROLES = ("query", "key", "value", "output", "up", "down")
ATTENTION = ROLES[:4]


@dataclass(frozen=True)
class BlockPlaces:
    """matrices: role -> path inside a block. For exports: stack, the list of blocks inside the base model; norms, the
    LayerNorms behind attention and behind the feed-forward part inside a block.
    """

    matrices: Mapping[str, str]
    stack: str = ""
    norms: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeadPlaces:
    """dense, norm and output layer of a stock head, and its activation ("config": the encoder's)."""

    dense: str
    activation: str
    out: str
    norm: str | None = None


@dataclass(frozen=True)
class Places:
    """heads: by what the stock class is for; counts_padding: positions are counted from behind the padding's own."""

    block: BlockPlaces
    heads: Mapping[str, HeadPlaces] = field(default_factory=dict)
    counts_padding: bool = False


def _six(*paths: str) -> dict[str, str]:
    return dict(zip(ROLES, paths, strict=True))


_BERT = BlockPlaces(
    _six(
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ),
    stack="encoder.layer",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
)
_ROBERTA = Places(
    _BERT,
    {
        "SequenceClassification": HeadPlaces("classifier.dense", "tanh", "classifier.out_proj"),
        "MaskedLM": HeadPlaces("lm_head.dense", "gelu", "lm_head.decoder", "lm_head.layer_norm"),
    },
    counts_padding=True,
)
#: By `config.model_type`.
ARCHITECTURES = {
    "bert": Places(
        _BERT,
        {
            "SequenceClassification": HeadPlaces("bert.pooler.dense", "tanh", "classifier"),
            "MaskedLM": HeadPlaces(
                "cls.predictions.transform.dense",
                "config",
                "cls.predictions.decoder",
                "cls.predictions.transform.LayerNorm",
            ),
        },
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Places(
        _BERT,
        {
            "SequenceClassification": HeadPlaces("classifier.dense", "gelu", "classifier.out_proj"),
            "MaskedLM": HeadPlaces(
                "generator_predictions.dense", "gelu", "generator_lm_head", "generator_predictions.LayerNorm"
            ),
        },
    ),
    "distilbert": Places(
        BlockPlaces(
            _six(
                "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"
            ),
            stack="transformer.layer",
            norms=("sa_layer_norm", "output_layer_norm"),
        ),
        {
            "SequenceClassification": HeadPlaces("pre_classifier", "relu", "classifier"),
            "MaskedLM": HeadPlaces("vocab_transform", "config", "vocab_projector", "vocab_layer_norm"),
        },
    ),
    "mpnet": Places(
        BlockPlaces(
            _six(
                "attention.attn.q",
                "attention.attn.k",
                "attention.attn.v",
                "attention.attn.o",
                "intermediate.dense",
                "output.dense",
            )
        )
    ),
    "deberta-v2": Places(
        BlockPlaces(
            _six(
                "attention.self.query_proj",
                "attention.self.key_proj",
                "attention.self.value_proj",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            )
        )
    ),
    "llama": Places(
        BlockPlaces(
            _six(
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "self_attn.o_proj",
                "mlp.up_proj",
                "mlp.down_proj",
            )
            | {"gate": "mlp.gate_proj"}
        )
    ),
}


def matrices_by_role(kinds: Collection[str]) -> Mapping[str, str] | None:
    """Role -> path in a block that has exactly the six matrices of an architecture; None for any other.

    kinds: the paths of the block's matrices.
    """
    for places in ARCHITECTURES.values():
        matrices = places.block.matrices
        if matrices.keys() == set(ROLES) and set(matrices.values()) == set(kinds):
            return matrices
    return None


def role_of(kind: str) -> str | None:
    """The role of the matrix at this path inside a block; None where its name tells none.

    What no entry names is a query, key or value by its last part, as entries call them: "attn.q_proj" is a query.
    """
    roles = _roles()
    ends = {path.rsplit(".", 1)[-1]: role for path, role in roles.items() if role in ("query", "key", "value")}
    return roles.get(kind) or ends.get(kind.rsplit(".", 1)[-1])


def in_attention(kind: str) -> bool:
    """Whether the matrix at this path is attention's: by its entry, or in a part that is called so."""
    known = _roles().get(kind)
    return known in ATTENTION or (
        known is None and any(part.startswith(("attention", "attn", "self_attn")) for part in kind.split("."))
    )


def _roles() -> dict[str, str]:
    return {path: role for places in ARCHITECTURES.values() for role, path in places.block.matrices.items()}
