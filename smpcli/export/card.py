"""The model card of a stock folder: what was pruned how, what it reaches, and how it is used."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from smpcli.export.about import About
from smpcli.export.plot import plot_density
from smpcli.export.tokenizer import longest_text
from smpcli.files import write_text
from smpcli.modeling.backbone import EMBEDDED
from smpcli.modeling.layers import find_prunable
from smpcli.settings import NOT_IN_DIGEST
from smpcli.yaml_text import yaml_text

if TYPE_CHECKING:
    from smpcli.evaluation.recompute import Reopened
    from smpcli.export.verify import Verified

# Of a model that reads label words; others have their kind's.
PIPELINES = {"AutoModelForMaskedLM": "fill-mask", "AutoModelForCausalLM": "text-generation"}
LATENCY_TOKENS, LATENCY_ROUNDS = 32, 20
README, PLOT = "README.md", "density.png"
# What the embedded models are called on the hub.
HUB_NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
LATENCY = f"one text of {LATENCY_TOKENS} tokens on a CPU, median of {LATENCY_ROUNDS}"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~$:@=])")


def text(value: object) -> str:
    """Text from data or settings as one line of Markdown that shows it and does nothing else."""
    line = "".join(char if char.isprintable() else " " for char in " ".join(str(value).split()))
    escaped = _MARKDOWN.sub(r"\\\1", line.replace("&", "&amp;"))
    return escaped.replace("<", "&lt;").replace(">", "&gt;")


def fenced(content: str, language: str) -> str:
    """A code block that its content can't end."""
    content = "".join(char if char.isprintable() or char == "\n" else " " for char in content.rstrip("\n"))
    longest = max((len(ticks) for ticks in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{content}\n{fence}"


@torch.no_grad()
def measure_latency(model: Any) -> float:
    """Median seconds of a forward pass of a Hugging Face model on one text of LATENCY_TOKENS tokens."""
    ids = torch.ones(1, LATENCY_TOKENS, dtype=torch.long)
    times = []
    for _ in range(LATENCY_ROUNDS + 3):
        started = time.perf_counter()
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
        times.append(time.perf_counter() - started)
    # The first rounds find memory and kernels.
    return statistics.median(times[3:])


def threads() -> str:
    count = torch.get_num_threads()
    return "one thread" if count == 1 else f"{count} threads"


def write_card(run: Reopened, about: About, verified: Verified, size: int, latency: float, folder: Path) -> None:
    """Write README.md and the plot beside it. size: bytes of the weights; latency: `measure_latency`."""
    plot_density(_densities(run), folder / PLOT)
    front = yaml_text(_metadata(run, about, verified))
    write_text(
        folder / README, f"---\n{front}---\n\n" + "\n\n".join(_body(run, about, verified, size, latency)) + "\n"
    )


def _densities(run: Reopened) -> dict[str, list[float]]:
    """Kind of matrix -> fraction that remains in each layer."""
    masks = run.directory.read_masks() if run.directory.has("mask.safetensors") else {}
    found: dict[str, list[float]] = {}
    for matrix in find_prunable(run.model.backbone, run.model.config):
        mask = masks.get(matrix.name)
        found.setdefault(matrix.kind, []).append(1.0 if mask is None else float(mask.float().mean()))
    return found


def _metadata(run: Reopened, about: About, verified: Verified) -> dict[str, Any]:
    """The front matter: what the hub indexes, the metrics in `model-index` form among it."""
    settings = run.settings
    task, source = settings.task, settings.task.source
    model = settings.run.model
    base = HUB_NAMES.get(model, model)
    on_hub = model in HUB_NAMES or (model not in EMBEDDED and not Path(model).exists())
    dataset = {"name": task.name, "type": source.hub or task.name}
    if source.config:
        dataset["config"] = source.config
    dataset["split"] = next(iter(source.dev_splits.values())) if source.hub else next(iter(run.dev))
    return {
        "library_name": "transformers",
        **({"base_model": base} if on_hub else {}),
        **({"datasets": [source.hub]} if source.hub else {}),
        "tags": ["pruning", "sparse", settings.pruner.name],
        "pipeline_tag": PIPELINES.get(about.stock_class, about.traits.pipeline),
        "model-index": [
            {
                "name": run.directory.path.name,
                "results": [
                    {
                        "task": {"type": task.traits.pipeline, "name": task.traits.title},
                        "dataset": dataset,
                        "metrics": [
                            {"type": name, "name": name, "value": value} for name, value in verified.metrics.items()
                        ],
                    }
                ],
            }
        ],
    }


def _body(run: Reopened, about: About, verified: Verified, size: int, latency: float) -> Iterable[str]:
    settings, result = run.settings, run.directory.result
    pruner, environment = settings.pruner, result.environment
    examples = ", ".join(f"{count:,} {text(split)}" for split, count in result.data.dev.items())
    method = f"[{text(pruner.title)}]({pruner.paper})" if _is_link(pruner.paper) else text(pruner.title)
    # A folder's whole path is nobody's business.
    base = settings.run.model if settings.run.model in EMBEDDED else Path(settings.run.model).name
    yield f"# {text(settings.task.name)}: {text(base)} with {result.run.remaining:.1%} of its weights"
    yield (
        f"{text(settings.task.title)}\n\nPruned with {method} by `smp`: {result.weights.kept:,} of "
        f"{result.weights.prunable:,} weights of the encoder's matrices remain, the others are zero. "
        f"{result.weights.trained:,} weights were trained. It is a stock Hugging Face model, so it takes the memory "
        "and the time of the dense one."
    )
    rows = [
        *((text(name), f"{value:.4f}") for name, value in verified.metrics.items()),
        ("examples", examples),
        ("sparsity", f"{1 - result.run.remaining:.2%}"),
        ("remaining weights", f"{result.run.remaining:.2%}"),
        ("size of the weights", f"{size:,} bytes"),
        ("storing the task beside its base model", f"{result.task_bytes:,} bytes"),
        ("latency", f"{1000 * latency:.1f} ms ({LATENCY}, {threads()})"),
    ]
    yield _table(("what", "figure"), rows)
    yield (
        "The metrics are those of this folder, loaded by transformers alone in a new process. Largest difference "
        f"between its logits and those of the run: {verified.difference:.1e}, over {verified.examples:,} examples."
    )
    yield "## Use"
    yield from _use(about, longest_text(run))
    yield from _texts(about)
    yield "## Density by layer"
    yield f"![Remaining weights of each matrix by layer]({PLOT})"
    yield "## How it was made"
    yield fenced(result.run.command, "bash")
    shown = {key: value for key, value in settings.flat().items() if key not in NOT_IN_DIGEST}
    yield fenced(yaml_text(shown), "yaml")
    yield (
        f"smp {text(environment.smp)}, torch {text(environment.torch)}, "
        f"transformers {text(environment.transformers)}, Python {text(environment.python)} on "
        f"{text(environment.device)}; {result.run.seconds:,.0f} seconds."
    )


def _use(about: About, length: int) -> Iterable[str]:
    """length: tokens that the folder's tokenizer cuts to."""
    if about.word_ids is None and about.traits.squad:
        yield (
            "`AutoModelForQuestionAnswering` loads it: at every token of a question and its context a logit for the "
            "answer's start and one for its end."
        )
    elif about.word_ids is None:
        second = "\\n…" if about.decoder else "…"
        yield fenced(
            "from transformers import pipeline\n\n"
            'classify = pipeline("text-classification", model="path/of/this/folder", truncation=True)\n'
            + (f'classify({{"text": "…", "text_pair": "{second}"}})' if about.pairs else 'classify("…")'),
            "python",
        )
        labels = ", ".join(f"{index}: {text(label)}" for index, label in enumerate(about.labels))
        yield f"Labels: {labels}." if labels else "The one output is the score."
    else:
        yield (
            f"`{about.stock_class}` loads it. The answer is read from the logits of the label words at "
            f"{_where(about)}:"
        )
        words = zip(about.outputs, about.words or [], about.word_ids, strict=True)
        yield _table(("label", "word", "id"), [(text(name), text(word), str(number)) for name, word, number in words])
    if about.traits.windows:
        cut = f"Windows share {about.stride} tokens of the context and have {length} tokens."
    else:
        cut = f"In training, texts were cut to {length} tokens; the tokenizer does so with `truncation=True`."
    yield f"{cut} With smp: `smp predict path/of/this/folder`."


def _texts(about: About) -> Iterable[str]:
    """What becomes of a text before it is tokens."""
    if about.special_tokens is None:
        return
    if about.special_tokens:
        held = ", ".join(text(name) for name in about.special_tokens)
        read = f"Each text that it learned from holds {held}: special tokens in a text are read as such."
    else:
        read = (
            "Special tokens that stand in a text are read as plain characters (`split_special_tokens` in "
            "tokenizer_config.json; with the package `tokenizers` alone, `encode_special_tokens = True`)."
        )
    yield f"Texts are stripped of white space at both ends. {read}"


def _where(about: About) -> str:
    """Where label words are read."""
    if about.traits.every_token:
        return "every token"
    if about.decoder:
        return "the last token of the text" + (" (a second text begins with a line feed)" if about.pairs else "")
    if about.mask_id is not None:
        return "the [MASK] token, or at the first token where the text has none"
    return "the first token"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _is_link(paper: str) -> bool:
    """Whether a method's paper is an address that can stand in a link as it is; a plugin may say anything."""
    return re.fullmatch(r"https?://[A-Za-z0-9./_%?=&#~-]+", paper) is not None
