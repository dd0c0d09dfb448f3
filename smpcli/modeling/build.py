"""From settings and a task's labels to a model that returns logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError
from smpcli.modeling.backbone import load_config, load_pretrained, unsupported
from smpcli.modeling.heads import TaskModel, output_layer, word_ids

if TYPE_CHECKING:
    from smpcli.settings import RunSettings
    from smpcli.tasks.task import Task


def build_model(settings: RunSettings, task: Task, labels: list[str], tokenizer: Any) -> TaskModel:
    """Load the base model with the head that `settings.head` asks for; "auto" is words where there is an MLM head."""
    labels = [] if task.kind == "regression" else labels
    config = load_config(settings.model)
    if settings.dropout is not None:
        set_dropout(config, settings.dropout)
    if settings.head in ("auto", "words"):
        model = _words_model(settings, task, labels, tokenizer, config)
        if model is not None:
            return model
    return _sequence_model(settings, labels, config)


def _words_model(
    settings: RunSettings, task: Task, labels: list[str], tokenizer: Any, config: Any
) -> TaskModel | None:
    """The masked-LM form, or None where the model has no trained MLM head and "auto" may choose another."""
    from transformers import AutoModelForMaskedLM

    wanted = settings.head == "words"
    if not reads_words(settings, task, config):
        return None
    try:
        backbone, missing = load_pretrained(AutoModelForMaskedLM, settings.model, config)
    except UserError:
        if wanted:
            raise
        return None
    if missing:
        if wanted:
            raise UserError(
                f"{settings.model} has no trained masked-LM head for label words: use --set head=prototype"
            )
        return None
    names = _output_names(labels)
    return TaskModel(
        backbone, "words", set(), word_ids(tokenizer, task.words, names, task.name), tokenizer.mask_token_id
    )


def reads_words(settings: RunSettings, task: Task, config: Any) -> bool:
    """Whether the head is to be label words, as far as the configuration tells.

    "auto" takes words unless the checkpoint names the class it was saved from and that class has no MLM head.
    """
    if settings.head != "auto":
        return settings.head == "words"
    classes = getattr(config, "architectures", None) or []
    named = not classes or any("MaskedLM" in name or "ForPreTraining" in name for name in classes)
    return bool(task.words) and named


def _sequence_model(settings: RunSettings, labels: list[str], config: Any) -> TaskModel:
    return _sequence_form(settings.model, "prototype" if settings.head == "auto" else settings.head, labels, config)


def rebuild(
    name: str, head: str, labels: list[str], word_ids: list[int] | None = None, mask_id: int | None = None
) -> TaskModel:
    """The model that `build_model` made, from what an export says of it; labels: none in a regression."""
    from transformers import AutoModelForMaskedLM

    config = load_config(name)
    if word_ids is None:
        return _sequence_form(name, head, labels, config)
    backbone, missing = load_pretrained(AutoModelForMaskedLM, name, config)
    if missing or max(word_ids) >= config.vocab_size:
        raise UserError(f"{name} has no trained masked-LM head for these label words: name the right base model")
    return TaskModel(backbone, head, set(), word_ids, mask_id)


def _sequence_form(name: str, head: str, labels: list[str], config: Any) -> TaskModel:
    from transformers import AutoModelForSequenceClassification

    _name_labels(config, labels)
    backbone, missing = load_pretrained(AutoModelForSequenceClassification, name, config)
    # Prototypes replace the output layer even where the checkpoint brings one.
    output, layer = output_layer(backbone)
    own = missing | {f"{output}.{part}" for part, _ in layer.named_parameters()}
    return TaskModel(backbone, head, own)


def outline(settings: RunSettings, task: Task, config: Any) -> Any:
    """The model of a configuration as a run would load it, without memory for its weights."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

    words = reads_words(settings, task, config)
    if not words:
        _name_labels(config, task.labels)
    auto_class = AutoModelForMaskedLM if words else AutoModelForSequenceClassification
    try:
        with torch.device("meta"):
            return auto_class.from_config(config)
    except ValueError as error:
        raise unsupported(config, error) from error


def _output_names(labels: list[str]) -> list[str]:
    """One name a logit; a regression, which has no labels, has one logit."""
    return labels or ["score"]


def _name_labels(config: Any, labels: list[str]) -> None:
    names = _output_names(labels)
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = "single_label_classification" if labels else "regression"


def set_dropout(config: Any, rate: float) -> None:
    """Set every dropout probability that the configuration knows."""
    for key, value in list(config.to_dict().items()):
        if "dropout" in key and isinstance(value, float):
            setattr(config, key, rate)
