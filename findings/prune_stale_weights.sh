#!/usr/bin/env bash
# torch.nn.utils.prune ranks a pruned module's weights by what they were at its last forward pass.
#
# Versions: torch 2.13.0, numpy 2.4.6 (CPU).
#
# Behaviour: pruning a second time, after the parameter has changed, goes by the magnitudes of before the
# change. After a step of the optimizer that makes a weight the largest of all, l1_unstructured prunes that very
# weight. After load_state_dict of other weights, global_unstructured prunes by the weights that were there before.
#
# Why it surprises: the docstrings promise that the lowest of the module's parameter go. Iterative magnitude pruning
# is a loop of training and pruning, and training ends with a step of the optimizer. Nothing is raised or warned of.
# The cause: `weight` is then a plain attribute, computed by a hook before each forward pass, and the scores are read
# from it instead of from `weight_orig`. The docstrings don't say that pruning reads the hook's last result.
#
# Output seen:
#   after the step:  weight_orig [1, 10, 3, 4]  pruned again: weight [0, 0, 3, 4]  by today's weights: [0, 10, 0, 4]
#   after a forward pass, too: weight [0, 10, 0, 4]
#   after loading:  weight_orig [9, 8, 7, 0.5]  pruned by two: weight [0, 0, 7, 0.5]  by today's weights: [9, 8, 0, 0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 numpy==2.4.6
venv/bin/python -I - <<'PY'
import torch
from torch import nn
from torch.nn.utils import prune


def shown(weight):
    return "[" + ", ".join(f"{value:g}" for value in weight.flatten().tolist()) + "]"


def layer():
    module = nn.Linear(4, 1, bias=False)
    module.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    return module


def trained():
    """Pruned by one weight, the 1; then a step that takes the weight of 2 to 10."""
    module = prune.l1_unstructured(layer(), "weight", amount=1)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    module(torch.tensor([[0.0, -8.0, 0.0, 0.0]])).sum().backward()
    optimizer.step()
    return module


module = trained()
now = shown(module.weight_orig)
prune.l1_unstructured(module, "weight", amount=1)
print(f"after the step:  weight_orig {now}  pruned again: weight {shown(module.weight)}  "
      "by today's weights: [0, 10, 0, 4]")
assert now == "[1, 10, 3, 4]"
assert shown(module.weight) == "[0, 0, 3, 4]", "changed: the weights of today are ranked"

module = trained()
module(torch.ones(1, 4))
prune.l1_unstructured(module, "weight", amount=1)
print(f"after a forward pass, too: weight {shown(module.weight)}")
assert shown(module.weight) == "[0, 10, 0, 4]"

module = prune.identity(layer(), "weight")
module.load_state_dict({"weight_orig": torch.tensor([[9.0, 8.0, 7.0, 0.5]]), "weight_mask": torch.ones(1, 4)})
now = shown(module.weight_orig)
prune.global_unstructured([(module, "weight")], pruning_method=prune.L1Unstructured, amount=2)
print(f"after loading:  weight_orig {now}  pruned by two: weight {shown(module.weight)}  "
      "by today's weights: [9, 8, 0, 0]")
assert shown(module.weight) == "[0, 0, 7, 0.5]", "changed: the weights that were loaded are ranked"
PY
