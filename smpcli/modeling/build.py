"""From settings and a task's labels to a model that returns logits."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError, one_line
from smpcli.modeling.backbone import check_base, load_base, load_config, load_pretrained, unsupported
from smpcli.modeling.heads import TaskModel, output_layer, word_ids
from smpcli.modeling.layers import make_linear
from smpcli.modeling.padding import check_padding
from smpcli.modeling.reading import read_alike
from smpcli.modeling.span_head import SpanModel
from smpcli.modeling.spec import ModelSpec
from smpcli.tasks.traits import TRAITS, output_names

if TYPE_CHECKING:
    from smpcli.tasks.task import Task


def build_model(spec: ModelSpec, task: Task, labels: list[str], tokenizer: Any) -> TaskModel:
    """Load the base model with the head that `spec.head` asks for; "auto" is words where there is an MLM head."""
    config = load_config(spec.name)
    if spec.dropout is not None:
        set_dropout(config, spec.dropout)
    model = None
    if spec.head in ("auto", "words"):
        model = _words_model(spec, task, labels, tokenizer, config)
    if model is None:
        model = _sequence_model(spec, task, labels, tokenizer, config)
    check_padding(model, config.model_type, tokenizer)
    if spec.gradient_checkpointing:
        _checkpoint_gradients(model)
    return model


def _checkpoint_gradients(model: TaskModel) -> None:
    if not model.backbone.supports_gradient_checkpointing:
        raise UserError(
            f"model type '{model.config.model_type}' can't recompute activations", "leave out gradient_checkpointing"
        )
    # What earlier releases of transformers 5 call gradient_ some call activation_checkpointing_enable.
    enable = getattr(model.backbone, "activation_checkpointing_enable", model.backbone.gradient_checkpointing_enable)
    # Only this form works where the embeddings are frozen.
    enable({"use_reentrant": False})


def is_decoder(config: Any) -> bool:
    """Whether a model only predicts the next token: its label words are read at the last token, not at [MASK]."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def _words_model(spec: ModelSpec, task: Task, labels: list[str], tokenizer: Any, config: Any) -> TaskModel | None:
    """The language-model form, or None where the model has no trained LM head and "auto" may choose another."""
    wanted = spec.head == "words"
    if not reads_words(spec, task, config):
        return None
    try:
        backbone, missing = load_pretrained(_language_class(config), spec.name, config)
    except UserError:
        if wanted:
            raise
        return None
    if missing:
        _refuse_half_a_head(backbone, missing, spec.name)
        if wanted:
            raise UserError(
                f"{spec.name} has no trained language-model head for label words", "use --set head=prototype"
            )
        return None
    ids = word_ids(tokenizer, task.words, output_names(task.kind, labels or task.labels), task.name)
    return _words_form(backbone, task.kind, ids, tokenizer.mask_token_id, tokenizer.pad_token_id)


def _refuse_half_a_head(backbone: Any, missing: set[str], name: str) -> None:
    """A language-model head of which the checkpoint holds only a part is damaged. Raises UserError."""
    inner = f"{backbone.base_model_prefix}."
    head = {key for key, _ in backbone.named_parameters() if not key.startswith(inner)}
    if head - missing:
        raise UserError(
            one_line(f"{name} lacks {min(missing)} of its language-model head and holds the rest"),
            "take a whole checkpoint, or read labels without that head (--set head=prototype)",
        )


def _words_form(backbone: Any, kind: str, ids: list[int], mask_id: int | None, padding: int | None) -> TaskModel:
    if TRAITS[kind].every_token:
        return SpanModel(backbone, "words", set(), ids)
    return TaskModel(backbone, "words", set(), ids, mask_id, is_decoder(backbone.config), padding)


def _language_class(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForCausalLM if is_decoder(config) else AutoModelForMaskedLM


def reads_words(spec: ModelSpec, task: Task, config: Any) -> bool:
    """Whether the head is to be label words, as far as the configuration tells.

    "auto" takes words unless the checkpoint names the class it was saved from and that class has no LM head.
    """
    if spec.head != "auto":
        return spec.head == "words"
    classes = getattr(config, "architectures", None) or []
    heads = ("CausalLM", "LMHead") if is_decoder(config) else ("MaskedLM", "LMHead", "ForPreTraining")
    named = not classes or any(head in name for name in classes for head in heads)
    return bool(task.words) and named


def _sequence_model(spec: ModelSpec, task: Task, labels: list[str], tokenizer: Any, config: Any) -> TaskModel:
    head = "prototype" if spec.head == "auto" else spec.head
    return _sequence_form(spec.name, task.kind, head, labels or task.labels, tokenizer, config)


def _sequence_form(
    name: str, kind: str, head: str, labels: list[str], tokenizer: Any, config: Any, whole: bool = False
) -> TaskModel:
    theirs = label_names(config)
    _name_labels(config, kind, labels)
    pad_as_tokenizer(config, tokenizer)
    loaded = load_base(stock_class(kind), name, config)
    if whole and loaded.missing:
        raise UserError(one_line(f"{name} lacks {min(loaded.missing)} of its head"), "export the run again")
    backbone = loaded.model
    # Prototypes replace the output layer even where the checkpoint brings one.
    output, layer = output_layer(backbone)
    parts = {f"{output}.{part}" for part, _ in layer.named_parameters()}
    own = loaded.missing | parts
    made = stock_form(backbone, kind, head, own)
    if TRAITS[kind].every_token:
        return made
    brought = parts - (loaded.missing - loaded.reshaped)
    if head == "classifier" and brought:
        order = None
        if not parts & loaded.missing:
            order = [0] if TRAITS[kind].outputs else label_order(theirs, labels)
        if order is None:
            made.notes.append(
                one_line(
                    f"the output layer of {name} is for {', '.join(theirs)}, the task asks for "
                    f"{', '.join(output_names(kind, labels))}: it starts from random weights"
                )
            )
        _place_rows(backbone, layer, order)
    return made


def stock_form(backbone: Any, kind: str, head: str, own: set[str]) -> TaskModel:
    """A stock model with a head for this kind of task, as one that returns logits."""
    if TRAITS[kind].every_token:
        return SpanModel(backbone, head, own)
    return TaskModel(backbone, head, own, last=is_decoder(backbone.config))


def _place_rows(backbone: Any, layer: Any, order: list[int] | None) -> None:
    """Put an output layer's rows into this order; None: make them as the library makes those of a new layer."""
    import torch

    if order is not None:
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(parameter[order].clone())
        return
    for parameter in layer.parameters():
        # The mark of what was loaded, which the library never initialises.
        parameter._is_hf_initialized = False
    backbone._init_weights(layer)


def pad_as_tokenizer(config: Any, tokenizer: Any) -> None:
    """A decoder's stock class finds the last token by the padding behind it: by the tokenizer's."""
    if is_decoder(config):
        config.pad_token_id = tokenizer.pad_token_id


def label_names(config: Any) -> list[str]:
    """What a checkpoint's outputs stand for, in their order; LABEL_0, LABEL_1 … where it doesn't say."""
    return [str(config.id2label.get(index, f"LABEL_{index}")) for index in range(config.num_labels)]


def label_order(theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """For each of our labels, the output of that name among theirs; case, spaces, - and _ don't count.

    None where the names are not the same ones: nothing is guessed from the order.
    """
    for spell in (str, _plain):
        spelt = [spell(label) for label in theirs]
        wanted = [spell(label) for label in ours]
        if sorted(spelt) == sorted(wanted) and len(set(spelt)) == len(spelt):
            return [spelt.index(label) for label in wanted]
    return None


def _plain(label: str) -> str:
    return label.casefold().replace("_", " ").replace("-", " ")


def stock_class(kind: str) -> Any:
    """The stock class that has a head of its own for this kind of task."""
    import transformers

    return getattr(transformers, TRAITS[kind].stock)


def rebuild(
    name: str,
    tokenizer: Any,
    kind: str,
    head: str,
    labels: list[str],
    word_ids: list[int] | None = None,
    mask_id: int | None = None,
    special_tokens: list[str] | None = None,
    *,
    whole: bool = False,
) -> TaskModel:
    """The model that `build_model` made, from what an export says of it; it and its tokenizer read texts as then.

    kind: of the task; labels: of a classification; special_tokens: as for `read_alike`; whole: the head must be
    there, too. Raises UserError where the base model has no place for them.
    """
    config = load_config(name)
    if word_ids is None:
        model = _sequence_form(name, kind, head, labels, tokenizer, config, whole)
        read_alike(model, tokenizer, special_tokens)
        check_padding(model, config.model_type, tokenizer)
        return model
    backbone, missing = load_pretrained(_language_class(config), name, config)
    if missing or max(word_ids) >= config.vocab_size:
        raise UserError(
            f"{name} has no trained language-model head for these label words", "name the right base model"
        )
    model = _words_form(backbone, kind, word_ids, mask_id, tokenizer.pad_token_id)
    read_alike(model, tokenizer, special_tokens)
    check_padding(model, config.model_type, tokenizer)
    return model


def outline(spec: ModelSpec, task: Task, config: Any) -> Any:
    """The model of a configuration as a run would load it, without memory for its weights."""
    import torch

    words = reads_words(spec, task, config)
    if not words:
        _name_labels(config, task.kind, task.labels)
    auto_class = _language_class(config) if words else stock_class(task.kind)
    try:
        with torch.device("meta"):
            return make_linear(auto_class.from_config(config, trust_remote_code=False))
    except ValueError as error:
        raise unsupported(config, error) from error


def check_weights_at_hand(spec: ModelSpec, task: Task, config: Any) -> None:
    """Refuse weights that don't fit their configuration, where they are on this machine, by names and shapes alone.

    Raises UserError.
    """
    config = copy.deepcopy(config)
    _name_labels(config, task.kind, task.labels)
    check_base(stock_class(task.kind), spec.name, config)


def _name_labels(config: Any, kind: str, labels: list[str]) -> None:
    names = output_names(kind, labels)
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    if problem_type := TRAITS[kind].problem_type:
        config.problem_type = problem_type


def set_dropout(config: Any, rate: float) -> None:
    """Set every dropout probability that the configuration knows."""
    for key, value in list(config.to_dict().items()):
        # GPT-2 and the like call theirs attn_pdrop, embd_pdrop, resid_pdrop.
        if ("dropout" in key or key.endswith("pdrop")) and isinstance(value, float):
            setattr(config, key, rate)
