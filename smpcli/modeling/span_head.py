"""Heads that point into a text: at every token a logit for "the answer starts here" and one for "it ends here"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from smpcli.modeling.heads import TaskModel, output_layer


class SpanModel(TaskModel):
    """A Hugging Face model that returns start and end logits of every token, (batch, 2, length).

    backbone: a stock question-answering model, or a stock masked-LM model when `word_ids` (start, end) are given:
    then each token's logits of these two words are its start and end logits (SMP 4.2).
    """

    def __init__(self, backbone: Any, head: str, own_names: set[str], word_ids: list[int] | None = None) -> None:
        super().__init__(backbone, head, own_names)
        self.word_ids = word_ids
        if word_ids is not None:
            _only_rows(backbone.get_output_embeddings(), self)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Token ids and masks (batch, length) -> logits (batch, 2, length)."""
        found = self.backbone(**inputs)
        if self.word_ids is None:
            return torch.stack([found.start_logits, found.end_logits], 1)
        logits: Tensor = found.logits
        if logits.shape[-1] > len(self.word_ids):
            logits = logits[..., self.word_index]
        return logits.transpose(1, 2)


def _only_rows(decoder: Any, model: SpanModel) -> None:
    """Have the MLM decoder compute the model's words alone: at every token the whole vocabulary is most of the work.

    Only `forward` is replaced, so names, tying and saving of its parameters stay as they are. An architecture that
    doesn't call its output embeddings gives the whole vocabulary all the same.
    """
    if isinstance(decoder, nn.Linear):
        decoder.forward = lambda hidden: linear(  # type: ignore[method-assign, assignment]
            hidden, decoder.weight[model.word_index], None if decoder.bias is None else decoder.bias[model.word_index]
        )


@torch.no_grad()
def set_span_prototypes(model: SpanModel, batches: Iterable[tuple[dict[str, Tensor], Tensor]], scale: float) -> None:
    """Make the rows of the question-answering layer prototypes of start and end tokens of the dense model.

    batches: (inputs, labels (batch, 2)) over some hundred training windows. Each row is the centroid of its tokens
    minus that of all other tokens, what the layer is fed with in evaluation mode; the two are made orthogonal,
    each turned by the same angle, as answers of one token would make them alike; length `scale`. Windows without an
    answer count for nothing. The bias centres the features.
    """
    _, layer = output_layer(model.backbone)
    fed: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: fed.append(args[0]))
    device = layer.weight.device
    sums = torch.zeros(3, layer.in_features, dtype=torch.double, device=device)
    counts = torch.zeros(3, 1, dtype=torch.double, device=device)
    training = model.training
    model.eval()
    for inputs, labels in batches:
        model(**inputs)
        hidden = fed.pop().double()
        rows = torch.arange(len(hidden), device=device)
        labels = labels.to(device)
        answered = (labels[:, 1] > 0).double()
        kinds = torch.zeros(*hidden.shape[:2], 3, dtype=torch.double, device=device)
        kinds[rows, labels[:, 0], 0] = 1
        kinds[rows, labels[:, 1], 1] = 1
        kinds[..., 2] = (kinds.sum(-1) == 0) * inputs["attention_mask"]
        kinds *= answered[:, None, None]
        sums += torch.einsum("blk,blh->kh", kinds, hidden)
        counts += kinds.sum((0, 1)).unsqueeze(1)
    hook.remove()
    model.train(training)
    centroids = sums / counts.clamp_min(1)
    rows_found = scale * _orthonormal(centroids[:2] - centroids[2])
    layer.weight.copy_(rows_found)
    if layer.bias is not None:
        layer.bias.copy_(-rows_found @ centroids[2])


def _orthonormal(rows: Tensor) -> Tensor:
    """The orthonormal rows nearest to these, once each has unit length (Löwdin's symmetric orthogonalisation)."""
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    left, _, right = torch.linalg.svd(rows, full_matrices=False)
    orthonormal: Tensor = left @ right
    return orthonormal
