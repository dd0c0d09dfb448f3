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
    config = load_config(settings.model)
    if settings.dropout is not None:
        set_dropout(config, settings.dropout)
    if settings.head in ("auto", "words"):
        model = _words_model(settings, task, labels, tokenizer, config)
        if model is not None:
            return model
    return _sequence_model(settings, task, labels, config)


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
    names = ["score"] if task.kind == "regression" else labels
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


def _sequence_model(settings: RunSettings, task: Task, labels: list[str], config: Any) -> TaskModel:
    from transformers import AutoModelForSequenceClassification

    _name_labels(config, task, labels)
    backbone, missing = load_pretrained(AutoModelForSequenceClassification, settings.model, config)
    head = "prototype" if settings.head == "auto" else settings.head
    # Prototypes replace the output layer even where the checkpoint brings one.
    name, layer = output_layer(backbone)
    own = missing | {f"{name}.{part}" for part, _ in layer.named_parameters()}
    return TaskModel(backbone, head, own)


def outline(settings: RunSettings, task: Task, config: Any) -> Any:
    """The model of a configuration as a run would load it, without memory for its weights."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

    words = reads_words(settings, task, config)
    if not words:
        _name_labels(config, task, task.labels)
    auto_class = AutoModelForMaskedLM if words else AutoModelForSequenceClassification
    try:
        with torch.device("meta"):
            return auto_class.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise unsupported(config, error) from error


def _name_labels(config: Any, task: Task, labels: list[str]) -> None:
    names = ["score"] if task.kind == "regression" else labels
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = "regression" if task.kind == "regression" else "single_label_classification"


def set_dropout(config: Any, rate: float) -> None:
    """Set every dropout probability that the configuration knows."""
    for key, value in list(config.to_dict().items()):
        if "dropout" in key and isinstance(value, float):
            setattr(config, key, rate)
