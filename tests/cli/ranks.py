"""`smp` on one of several processes, once for each method; each process leaves the masks that it ended with.

At last one run is broken off on all of them after a step of their choice, and resumed.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import save_file

from smpcli.main import app
from smpcli.reporting import guarded
from smpcli.training import processes
from smpcli.training.checkpoint import Checkpoints

folder, methods, *rest = sys.argv[1:]
agree = processes.check_agreement


def keep_and_agree(layers: Any, accelerator: Any) -> None:
    masks = {layer.name: layer.mask for layer in layers}
    save_file(masks, Path(folder) / f"{method}-{os.environ['RANK']}.safetensors")
    agree(layers, accelerator)


processes.check_agreement = keep_and_agree
# It ends the processes' group, which the next method needs.
Accelerator.end_training = lambda self: None
for method in methods.split(","):
    # Without scores there is no structure.
    own = [part for part in rest if method != "snip-momentum" or part != "--set=structure=1"]
    code = guarded(lambda: app(args=["prune", "--method", method, *own], standalone_mode=False))  # noqa: B023
    if code:
        sys.exit(code)


class Broken(BaseException):
    pass


def break_off(checkpoints: Checkpoints, position: Any) -> None:
    after_step(checkpoints, position)
    if position.step == 8:
        raise Broken


# Drawn gates and dropout: each process has random numbers of its own.
method = "again"
given = ["prune", "--method", "l0", *rest, "--set", "dropout=0.1"]
given[given.index("together")] = "again"
app(args=[*given, "--output", "uninterrupted"], standalone_mode=False)
after_step = Checkpoints.after_step
Checkpoints.after_step = break_off  # type: ignore[assignment,method-assign]
with suppress(Broken):
    app(args=[*given, "--set", "checkpoint_every=3"], standalone_mode=False)
Checkpoints.after_step = after_step  # type: ignore[method-assign]
sys.exit(guarded(lambda: app(args=[*given, "--set", "checkpoint_every=3", "--resume"], standalone_mode=False)))
