"""smp: prune pre-trained language models for a task, and compare methods of doing so.

From a notebook:

    from smpcli import compare, load, prune
    run = prune(task="movies", method="smp", sparsity=0.9)
    compare("results/").to_frame()
    load(run.path).predict(["a film of rare charm"])
"""

# The room first: importing it later would put the module in the place of the function of the same name.
import smpcli.export  # noqa: F401
from smpcli.api import (
    compare,
    evaluate,
    evaluate_mask,
    export,
    finetune,
    inspect,
    load,
    plan,
    predict,
    prune,
    reproduce,
    sweep,
)
from smpcli.errors import UserError

__all__ = [
    "UserError",
    "compare",
    "evaluate",
    "evaluate_mask",
    "export",
    "finetune",
    "inspect",
    "load",
    "plan",
    "predict",
    "prune",
    "reproduce",
    "sweep",
]
