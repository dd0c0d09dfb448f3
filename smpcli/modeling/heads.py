"""Heads: how a task's labels are read off the encoder. Words and prototypes are frozen, a classifier is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from smpcli.errors import UserError
from smpcli.modeling.backbone import digest_weights
from smpcli.modeling.reading import last_tokens


class TaskModel(nn.Module):
    """A Hugging Face model that returns one logit a label (or one value, for regression).

    backbone: a stock sequence-classification model, or a stock language model when `word_ids` are given.
    head: "words", "prototype" or "classifier". own_names: parameters that belong to the task, not to the base model.
    mask_id: of [MASK], where words are read at it; last: a decoder, so what is read is the last token of the text;
    padding: the token that isn't one of the text's (None, of older runs: only the attention mask tells).
    """

    word_index: Tensor

    def __init__(
        self,
        backbone: Any,
        head: str,
        own_names: set[str],
        word_ids: list[int] | None = None,
        mask_id: int | None = None,
        last: bool = False,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.own_names = own_names
        self.word_ids = word_ids
        self.mask_id = mask_id
        self.last = last
        self.padding = padding
        #: What a person should know of how the model was made.
        self.notes: list[str] = []
        self._positions: Tensor | None = None
        if word_ids is not None:
            backbone.base_model.register_forward_hook(self._keep_one_position)

    @property
    def config(self) -> Any:
        return self.backbone.config

    @property
    def word_ids(self) -> list[int] | None:
        """Vocabulary ids of the label words, in label order; None of a head without words."""
        return self._word_ids

    @word_ids.setter
    def word_ids(self, ids: list[int] | None) -> None:
        self._word_ids = ids
        # As an index, a list would be sent to the device in each forward pass. No state dict holds it.
        self.register_buffer("word_index", None if ids is None else torch.tensor(ids), persistent=False)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Token ids and masks (batch, length) -> logits (batch, labels)."""
        if self.word_ids is None:
            return self.backbone(**inputs, **self._extra).logits  # type: ignore[no-any-return]
        positions = self._positions = self._answer_positions(inputs["input_ids"], inputs["attention_mask"])
        logits: Tensor = self.backbone(**inputs, **self._extra).logits
        self._positions = None
        # OPT and the like call what is inside their base model, so all positions arrive here.
        rows = torch.arange(len(logits), device=logits.device)
        return logits[rows, positions if logits.shape[1] > 1 else 0][:, self.word_index]

    @property
    def _extra(self) -> dict[str, Any]:
        # A decoder would keep keys and values for tokens that nobody asks for.
        return {"use_cache": False} if self.last else {}

    def _answer_positions(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Where the label word is read; (batch,).

        At [MASK], or at the first token where there is none (SMP 4.2); a decoder's at the last token of the text.
        """
        if self.last and self.padding is None:
            return attention_mask.sum(1) - 1
        if self.last:
            return last_tokens(input_ids, self.padding)  # type: ignore[arg-type]
        if self.mask_id is None:
            return torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device)
        # argmax of an all-False row is 0: the first token.
        return (input_ids == self.mask_id).to(torch.uint8).argmax(1)

    def _keep_one_position(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Cut the encoder's output to the answer's position, so that any MLM head runs on one token, not on all."""
        if self._positions is None:
            return output  # the base model was called by itself, not for an answer
        hidden = output.last_hidden_state
        rows = torch.arange(len(hidden), device=hidden.device)
        output.last_hidden_state = hidden[rows, self._positions].unsqueeze(1)
        return output

    def base_digest(self) -> str:
        """Digest of the base model's weights as loaded: everything but the task's own tensors."""
        state = self.backbone.state_dict()
        return digest_weights({name: tensor for name, tensor in state.items() if name not in self.own_names})

    def own_parameters(self) -> dict[str, Tensor]:
        """The task's own tensors (of the head), by their name in the backbone."""
        state = self.backbone.state_dict()
        return {name: state[name] for name in sorted(self.own_names) if name in state}


def word_ids(tokenizer: Any, words: dict[str, str], labels: Iterable[str], task: str) -> list[int]:
    """Vocabulary ids of the label words, in label order. Each word must be one token."""
    ids: list[int] = []
    for label in labels:
        word = words.get(label)
        if word is None:
            raise UserError(
                f"task '{task}' names no label word for '{label}'",
                "add it under `words:` or use --set head=prototype",
            )
        # Byte-level vocabularies write a word inside a sentence with its leading space.
        choices = [tokenizer.encode(form, add_special_tokens=False) for form in (f" {word}", word)]
        single = next((tokens[0] for tokens in choices if len(tokens) == 1), None)
        if single is None or single == tokenizer.unk_token_id:
            pieces = " ".join(tokenizer.convert_ids_to_tokens(choices[1]))
            raise UserError(
                f"label word '{word}' for '{label}' is not one token of this model ({pieces})",
                "choose another word under `words:` or use --set head=prototype",
            )
        ids.append(single)
    if len(set(ids)) != len(ids):
        raise UserError(f"two labels of task '{task}' share a label word", "give each its own under `words:`")
    return ids


def output_layer(backbone: Any) -> tuple[str, nn.Linear]:
    """The last linear layer of a stock sequence-classification head, and its name."""
    labels = backbone.config.num_labels
    found = [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == labels
        and not name.startswith(backbone.base_model_prefix + ".")
    ]
    if not found:
        raise UserError(
            f"model type '{backbone.config.model_type}' has no linear classification layer",
            "use another model or head",
        )
    return found[-1]


@torch.no_grad()
def set_prototypes(model: TaskModel, batches: Iterable[tuple[dict[str, Tensor], Tensor]], scale: float) -> None:
    """Make the output layer's rows the class prototypes of the dense model (in evaluation mode).

    batches: (inputs, labels) over some thousand training examples. Classification: centroids of what the layer makes
    the logits of, centred over the classes, each of unit length times `scale`; the bias centres the features.
    Regression: the ridge regression of the labels on the features.
    """
    _, layer = output_layer(model.backbone)
    seen: list[Tensor] = []
    labels: list[Tensor] = []
    training = model.training
    model.eval()
    # A layer that changes nothing: the model itself picks the token, before the layer or behind it, that it reads.
    layer.forward = lambda features: features  # type: ignore[method-assign, assignment]
    try:
        for inputs, target in batches:
            seen.append(model(**inputs))
            labels.append(target.to(seen[-1].device))
    finally:
        del layer.forward
    model.train(training)
    features, target = torch.cat(seen).double(), torch.cat(labels)
    if layer.out_features == 1:
        rows, bias = _ridge(features, target.double())
    else:
        # A class without an example gets the mean of all: a row of zeros.
        groups = [features[target == label] for label in range(layer.out_features)]
        centroids = torch.stack([(group if len(group) else features).mean(0) for group in groups])
        rows = centroids - centroids.mean(0)
        rows = scale * rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        bias = -rows @ centroids.mean(0)
    layer.weight.copy_(rows)
    if layer.bias is not None:
        layer.bias.copy_(bias)


def _ridge(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (1, in) and bias (1,) of the ridge regression with a penalty of 1 % of the mean feature variance."""
    mean = features.mean(0)
    centred = features - mean
    gram = centred.T @ centred
    # Features that are all the same tell nothing: the row is then zero.
    penalty = (0.01 * len(features) * centred.var()).clamp_min(torch.finfo(gram.dtype).tiny)
    gram += penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    row = torch.linalg.solve(gram, centred.T @ (target - target.mean()))
    return row.unsqueeze(0), (target.mean() - row @ mean).unsqueeze(0)
