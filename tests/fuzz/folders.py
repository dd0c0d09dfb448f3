"""Good files of model folders and exports, as small as they can be: one block, eight wide, nine words."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

WIDTH, WORDS = 8, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "dull", "film"]


def _read_all(folder: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    return found


@cache
def model() -> dict[str, bytes]:
    """The files of a BERT with a classifier, by name."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = Path(tempfile.mkdtemp(prefix="smp-fuzz-"))
    ids = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "PAD", "CLS", "SEP", "MASK")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6}
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=10, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    return _read_all(folder)


def _parts() -> tuple[Any, dict[str, Any]]:
    """Architecture and tensors of a compact model with gathered inputs, scattered outputs and heads of two sizes."""
    import torch

    from smpcli.modeling.compact_model import Architecture, BlockSizes

    torch.manual_seed(0)
    tensors: dict[str, Any] = {
        **{f"embeddings.{name}": torch.randn(rows, WIDTH) for name, rows in (("word", 9), ("position", 10))},
        **{f"blocks.0.{role}.weight": torch.randn(3, 4) for role in ("query", "key", "value")},
        **{f"blocks.0.{role}.bias": torch.randn(3) for role in ("query", "key", "value")},
        **{"blocks.0.output.weight": torch.randn(5, 3), "blocks.0.output.bias": torch.randn(WIDTH)},
        **{"blocks.0.up.weight": torch.randn(6, WIDTH), "blocks.0.up.bias": torch.randn(6)},
        **{"blocks.0.down.weight": torch.randn(WIDTH, 6), "blocks.0.down.bias": torch.randn(WIDTH)},
        **{"blocks.0.query.reads": torch.tensor([0, 2, 3, 7]), "blocks.0.output.writes": torch.arange(5)},
        **{"head.dense.weight": torch.randn(WIDTH, WIDTH), "head.dense.bias": torch.randn(WIDTH)},
        **{"head.out.weight": torch.randn(2, WIDTH), "head.out.bias": torch.randn(2)},
    }
    for norm in ("embeddings.norm", "blocks.0.norm1", "blocks.0.norm2"):
        tensors |= {f"{norm}.weight": torch.ones(WIDTH), f"{norm}.bias": torch.zeros(WIDTH)}
    return Architecture([BlockSizes([1, 2], [2, 1])], "gelu", 1e-12, "tanh"), tensors


@cache
def compact() -> dict[str, bytes]:
    """compact.json, and the tensors of a compact and of a sparse export: "tensors", "sparse"."""
    import dataclasses

    from safetensors.torch import save_file

    from smpcli.export.sparse import compress

    folder = Path(tempfile.mkdtemp(prefix="smp-fuzz-"))
    architecture, tensors = _parts()
    details = {"architecture": dataclasses.asdict(architecture), "precision": "fp32", "kept": 30, "area": 60}
    (folder / "compact.json").write_text(json.dumps(details))
    save_file(tensors, folder / "tensors")
    save_file(compress(tensors), folder / "sparse")
    return _read_all(folder)


@cache
def graph() -> bytes:
    """An ONNX file."""
    from smpcli.export.onnx import write_graph
    from smpcli.modeling.compact_model import CompactModel

    folder = Path(tempfile.mkdtemp(prefix="smp-fuzz-"))
    write_graph(CompactModel(*_parts()), folder / "model.onnx", "fp32")
    return _read_all(folder)["model.onnx"]
