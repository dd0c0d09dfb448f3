"""Which model is built: what `build_model` needs to know of a run, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelSpec:
    """name: minilm, a Hugging Face id, or a folder; head: how labels are read ("auto": words with an MLM head).

    dropout: everywhere (None: the model's own); gradient_checkpointing: compute activations again in backward.
    """

    name: str
    head: Literal["auto", "words", "prototype", "classifier"] = "auto"
    dropout: float | None = None
    gradient_checkpointing: bool = False
