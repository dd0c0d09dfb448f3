#!/usr/bin/env bash
# torch.nn.utils.prune.remove changes what a model with tied weights answers.
#
# Versions: torch 2.13.0, numpy 2.4.6 (CPU).
#
# Behaviour: an embedding and an output layer share one parameter, and the output layer alone is pruned. The
# embedding stays dense, as asked, until prune.remove(head, "weight"): this writes the masked weights into the shared
# parameter. A row of the embedding that nobody pruned becomes zero, and the logits are others than a line before.
#
# Why it surprises: remove is described as taking off the reparameterization and leaving the result ("remains
# permanently pruned"): a step before saving that changes no output. Here the model that was evaluated isn't the one
# that is saved. Tied embeddings are common in language models. Nothing is raised or warned of.
#
# Output seen:
#   pruned:  embedding [[1.0, 2.0], [3.0, 4.0]]  logits [[0.0, 11.0], [0.0, 25.0]]
#   removed: embedding [[0.0, 0.0], [3.0, 4.0]]  logits [[0.0, 0.0], [0.0, 25.0]]
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

embedding, head = nn.Embedding(2, 2), nn.Linear(2, 2, bias=False)
embedding.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
head.weight = embedding.weight


def answer(name):
    rows, logits = embedding.weight.tolist(), head(embedding(torch.tensor([0, 1]))).tolist()
    print(f"{name:<8} embedding {rows}  logits {logits}")
    return rows, logits


prune.l1_unstructured(head, "weight", amount=2)
before = answer("pruned:")
prune.remove(head, "weight")
after = answer("removed:")
assert before == ([[1, 2], [3, 4]], [[0, 11], [0, 25]]), "changed: pruning one of two tied layers"
assert after == ([[0, 0], [3, 4]], [[0, 0], [0, 25]]), "changed: remove leaves the other layer as it was"
PY
