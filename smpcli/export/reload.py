"""What `verify` runs in a new process: load an export, answer the questions, leave the logits."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from smpcli.console import quieten_libraries


def main(export: Path, scratch: Path) -> None:
    quieten_libraries()
    import torch
    from safetensors.torch import save_file

    from smpcli.export.loading import load

    model = load(export)
    splits = json.loads((scratch / "questions.json").read_text(encoding="utf-8"))
    logits = {
        split: torch.cat([model.logits(batch["texts"], batch["pairs"]) for batch in batches])
        for split, batches in splits.items()
    }
    save_file(logits, scratch / "logits.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
