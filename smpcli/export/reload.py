"""What `verify` runs in a new process: load an export, answer the questions, leave the logits."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smpcli.console import quieten_libraries

if TYPE_CHECKING:
    from torch import Tensor

    from smpcli.export.ready import Ready


def main(export: Path, scratch: Path) -> None:
    quieten_libraries()
    import torch
    from safetensors.torch import save_file
    from torch.nn.functional import pad

    from smpcli.export.loading import load

    model = load(export)
    splits = json.loads((scratch / "questions.json").read_text(encoding="utf-8"))
    logits = {}
    for split, asked in splits.items():
        parts = list(_parts(model, asked["texts"], asked["pairs"], asked["batches"]))
        # Of spans, each batch is as long as its longest window.
        longest = max(part.shape[-1] for part in parts)
        logits[split] = torch.cat([pad(part, (0, longest - part.shape[-1])) for part in parts])
    save_file(logits, scratch / "logits.safetensors")


def _parts(model: Ready, texts: list[str], pairs: list[str] | None, batches: list[list[int]]) -> Iterator[Tensor]:
    """Logits of each batch of examples, or of windows where the task has them."""
    import torch

    if model.stride is None:
        for batch in batches:
            yield model.logits([texts[i] for i in batch], None if pairs is None else [pairs[i] for i in batch])
        return
    assert pairs is not None
    windows = model.windows(texts, pairs)
    if len(windows) != sum(map(len, batches)):
        raise RuntimeError(f"the export makes {len(windows)} windows of the contexts, not {sum(map(len, batches))}")
    for batch in batches:
        with torch.no_grad():
            yield model(**windows.collate(batch)[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
