"""`smp` on one of several processes, once for each method; each process leaves the masks that it ended with."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import save_file

from smpcli.errors import guarded
from smpcli.main import app
from smpcli.training import processes

folder, methods, *rest = sys.argv[1:]
agree = processes.check_agreement


def keep_and_agree(layers: Any, accelerator: Any) -> None:
    masks = {layer.name: layer.mask for layer in layers}
    save_file(masks, Path(folder) / f"{method}-{os.environ['RANK']}.safetensors")
    agree(layers, accelerator)


processes.check_agreement = keep_and_agree
# It ends the processes' group, which the next method needs.
Accelerator.end_training = lambda self: None  # type: ignore[method-assign]
for method in methods.split(","):
    code = guarded(lambda: app(args=["prune", "--method", method, *rest], standalone_mode=False))  # noqa: B023
    if code:
        sys.exit(code)
