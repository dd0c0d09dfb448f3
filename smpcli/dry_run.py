"""What a run will do, worked out before it is done: steps, weights, memory. Downloads nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruners.masks.allocation import kept_weights
from smpcli.errors import UserError
from smpcli.files import is_folder
from smpcli.training.needs import FLOAT, count_steps, disk_need

if TYPE_CHECKING:
    from smpcli.comparison.published import PublishedRow
    from smpcli.device import Compute
    from smpcli.encoding.cut import Cut
    from smpcli.settings import Settings
    from smpcli.tasks.data import TaskData


@dataclass(frozen=True)
class Plan:
    """A dry run's answer. None: can't be known without a download."""

    settings: dict[str, Any]
    #: Device, precision and threads, as they will be.
    compute: Compute
    train_examples: int | None
    dev_examples: int | None
    steps: int | None
    total_weights: int | None
    prunable_weights: int | None
    kept_weights: int | None
    trained_weights: int | None
    learned_scores: int | None
    memory_bytes: int | None
    disk_bytes: int | None
    #: At tenths of the run: step (None where their number isn't known), remaining, penalty weight. None for dense,
    #: and for a run without steps.
    schedule: list[tuple[int | None, float, float]] | None
    #: What others published for the same task, model, sparsity and use of a teacher, and for the dense model.
    published: list[PublishedRow]
    #: What texts lose that are longer than the task's length, by set ("train", and each dev set).
    cut: dict[str, Cut] | None
    #: Columns, kind, label counts, rows left out and overlap, as result.json's `data` has them; None as above.
    data: dict[str, Any] | None
    #: The same for people.
    data_lines: list[str]


def step_counter() -> Callable[[Settings], int | None]:
    """Training steps of many settings, each task's rows counted once; None where they can't be known yet."""
    from smpcli.tasks.data import dry_run_sizes, local_data

    rows: dict[tuple[Any, ...], int | None] = {}

    def count(settings: Settings) -> int | None:
        run = settings.run
        if run.max_steps is not None or not settings.trains:
            return count_steps(settings, 0)
        windows = settings.task.traits.windows
        place = (run.task, run.data_dir, run.dev_file, *((run.model, run.max_length, run.stride) if windows else ()))
        if place not in rows:
            where = _path(run.data_dir), _path(run.dev_file)
            if windows:
                rows[place] = _windows(settings, local_data(settings.task, *where))
            else:
                rows[place], _ = dry_run_sizes(settings.task, *where)
        examples = rows[place]
        return count_steps(settings, examples) if examples is not None else None

    return count


def make_plan(settings: Settings) -> Plan:
    """Validate everything that can be validated without a download, and estimate the run."""
    from smpcli.tasks.data import local_data, sizes
    from smpcli.tasks.describe import describe, lines

    task = settings.task
    data = local_data(task, _path(settings.run.data_dir), _path(settings.run.dev_file))
    train, dev = sizes(task, data)
    compute = _compute(settings)
    _check_words(settings)
    _check_teacher(settings)
    examples = _windows(settings, data) if task.traits.windows else train
    known = examples is not None or settings.run.max_steps is not None or not settings.trains
    steps = count_steps(settings, examples or 0) if known else None
    weights = _count_weights(settings)
    schedule, others = _schedule(settings, steps), _published(settings)
    about, said = (describe(task, data), lines(task, data)) if data else (None, [])
    return Plan(
        settings.flat(),
        compute,
        train,
        dev,
        steps,
        **weights,
        schedule=schedule,
        published=others,
        cut=_cut(settings, data),
        data=about,
        data_lines=said,
    )


def _schedule(settings: Settings, steps: int | None) -> list[tuple[int | None, float, float]] | None:
    if not settings.pruner.prunes:
        return None
    pruner = settings.pruner(settings.method)
    pruner.begin([], 1 - settings.run.sparsity)
    if steps == 0:
        return None
    return [
        (
            None if steps is None else steps * tenth // 10,
            pruner.density(tenth / 10, 1 - settings.run.sparsity),
            pruner.penalty_weight(tenth / 10),
        )
        for tenth in range(11)
    ]


def _published(settings: Settings) -> list[PublishedRow]:
    from smpcli.comparison.published import published

    # What --task was given, not the name: a person's own sst2.csv is another task.
    task, model = settings.run.task, settings.run.model
    dense = published(task, "dense", model=model)
    if not settings.pruner.prunes:
        return dense
    return [*published(task, None, settings.run.sparsity, model=model, kd=settings.run.teacher is not None), *dense]


def _windows(settings: Settings, data: TaskData | None) -> int | None:
    """Windows to train on of long contexts, where data and tokenizer are at hand to count them."""
    from smpcli.kinds.rows import encode_rows

    tokenizer = _tokenizer(settings.run.model, data) if data is not None else None
    return None if data is None or tokenizer is None else len(encode_rows(tokenizer, data.train, settings))


def _cut(settings: Settings, data: TaskData | None) -> dict[str, Cut] | None:
    """What is cut off the texts of each set, where data and tokenizer are at hand to count it."""
    from smpcli.kinds.rows import foresee_cut

    tokenizer = _tokenizer(settings.run.model, data) if data is not None else None
    if data is None or tokenizer is None:
        return None
    return {name: foresee_cut(tokenizer, rows, settings) for name, rows in {"train": data.train, **data.dev}.items()}


def _tokenizer(name: str, data: TaskData) -> Any | None:
    """A model's tokenizer from a folder or the hub's cache, as the run will have it; None where it isn't at hand."""
    from huggingface_hub import try_to_load_from_cache

    from smpcli.modeling.backbone import load_tokenizer, model_path
    from smpcli.modeling.reading import held_in_every, read_specials

    path = model_path(name)
    if not is_folder(Path(path)):
        config, _ = found = [try_to_load_from_cache(path, file) for file in ("config.json", "tokenizer.json")]
        if not all(isinstance(file, str) for file in found):
            return None
        # By its folder, so that nothing is asked of the network.
        name = str(Path(str(config)).parent)
    tokenizer = load_tokenizer(name)
    read_specials(tokenizer, held_in_every(tokenizer, data.train.whole_texts()))
    return tokenizer


def _compute(settings: Settings) -> Compute:
    from smpcli.device import compute_of, make_accelerator

    return compute_of(make_accelerator(settings.run.device), settings.run.precision)


def _check_words(settings: Settings) -> None:
    """Label words are tokens of the model's tokenizer, where both are at hand."""
    from smpcli.modeling.backbone import load_config, load_tokenizer, model_path
    from smpcli.modeling.build import reads_words
    from smpcli.modeling.heads import word_ids

    task = settings.task
    if not is_folder(Path(model_path(settings.run.model))):
        return
    if reads_words(settings.run.spec, task, load_config(settings.run.model, local_only=True)):
        word_ids(load_tokenizer(settings.run.model), task.words, task.outputs, task.name)


def _check_teacher(settings: Settings) -> None:
    """The teacher knows the task's labels, where it is at hand; a recipe's "name your own" may stay open here."""
    from smpcli.training.teacher import WANTED, check_teacher

    if settings.run.teacher and settings.run.teacher != WANTED:
        check_teacher(settings, local_only=True)


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None


def _count_weights(settings: Settings) -> dict[str, int | None]:
    """Weights of the model as built from its configuration alone, without memory for them."""
    from pruners.masking import running_numbers
    from pruners.masks.layer import MaskedLayer
    from smpcli.modeling.backbone import load_config, model_path
    from smpcli.modeling.build import check_weights_at_hand, outline
    from smpcli.modeling.layers import find_prunable

    names = (
        *("total_weights", "prunable_weights", "kept_weights", "trained_weights", "learned_scores"),
        *("memory_bytes", "disk_bytes"),
    )
    try:
        config = load_config(settings.run.model, local_only=True)
    except UserError:
        if is_folder(Path(model_path(settings.run.model))):
            raise
        return dict.fromkeys(names)
    check_weights_at_hand(settings.run.spec, settings.task, config)
    model = outline(settings.run.spec, settings.task, config)
    total = sum(parameter.numel() for parameter in model.parameters())
    found = find_prunable(model, config)
    prunable = sum(matrix.module.weight.numel() for matrix in found)
    pruner = settings.pruner
    factored = getattr(settings.method, "factored", False)
    edges = sum(sum(matrix.module.weight.shape) for matrix in found) if factored else 0
    scores = prunable + edges if pruner.trains_scores else 0
    layers = [MaskedLayer(matrix.name, "", matrix.module) for matrix in found] if pruner.prunes else []
    method = pruner(settings.method)
    method.check(layers)
    running = running_numbers(method, layers)
    head = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not name.startswith(model.base_model_prefix + ".")
    )
    trained = total if pruner.trains_weights else head if settings.run.head == "classifier" else 0
    kept = kept_weights(1 - settings.run.sparsity, prunable) if pruner.prunes else prunable
    # A trained number needs a gradient and AdamW's two moments; masking keeps W beside W', and a byte of mask.
    memory = FLOAT * (total + 3 * trained + 4 * scores + running)
    if pruner.prunes:
        memory += (FLOAT + 1) * prunable
        memory += FLOAT * prunable if pruner.trains_weights else 0
    memory += _activations(settings, config)
    weights = total if pruner.trains_weights else 0
    best = settings.run.select == "best"
    memory += FLOAT * weights + prunable if best else 0
    disk = disk_need(trained + scores, weights, prunable, settings.run.checkpoint_every, best, running)
    return dict(zip(names, (total, prunable, kept, trained, scores, memory, disk), strict=True))


def _activations(settings: Settings, config: Any) -> int:
    """Activations kept for backward: 34 + 5 a s / h half-precision bytes a token, layer, unit (arXiv 2205.05198)."""
    length, hidden = settings.max_length, config.hidden_size
    half = settings.run.batch_size * length * hidden * (34 + 5 * config.num_attention_heads * length / hidden)
    return int(2 * half * config.num_hidden_layers)
