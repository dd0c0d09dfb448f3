"""What a GPU makes of smp, in at most five minutes of an H100: masks, waits, step times, sixty runs.

    python benchmarks/gpu.py --json gpu.json

masks   every method's masks on the GPU, stacked, against those of layers on the CPU, bit for bit
waits   every place where a training step waits for the GPU's answer, and where the next batch does
steps   `smp bench train`'s own turns: dense, every method, and masks by a full sort of each matrix
runs    sixty runs of 400 steps by `smp sweep --workers 16`, on generated texts

Models have random weights, and nothing is downloaded. A part that fails doesn't stop the others; each is written to
the JSON file as soon as it is there. Exit code 1: a part failed, masks differ that must not, or a step waits.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel
from transformers.utils import logging

from pruners.masking import attach, refresh
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import stack_layers
from pruners.methods import METHODS
from smpcli.bench.shapes import random_checkpoint
from smpcli.bench.train import DENSE, Case, Contestant, Entrant, make_entrant, take_turns
from smpcli.device import make_accelerator, training_context
from smpcli.modeling.layers import masked_layers

BUILT_IN = ["smp", "movement", "magnitude", "soft-movement", "l0"]
FULL_SORT = "full sort"
CPU = torch.device("cpu")


# -- masks ---------------------------------------------------------------------------------------------------------

# What is compared, and whether any difference is a fault. Mean scores (SMP-S) and sums over channels (structure) are
# added up in another order there, so a number of weights may be rounded the other way: of few weights, if of any.
VARIANTS: list[tuple[str, dict[str, Any], bool]] = [
    ("smp", {"allocation": "S", "structure": 1.0}, False),
    ("smp", {"allocation": "L", "structure": 1.0}, True),
    ("smp", {"allocation": "G", "structure": 1.0}, True),
    ("smp", {"allocation": "S", "structure": "auto"}, False),
    ("movement", {"structure": 1.0}, True),
    ("movement", {"structure": "auto"}, False),
    ("magnitude", {}, True),
    ("soft-movement", {"structure": 1.0}, True),
    ("soft-movement", {"structure": "auto"}, False),
    ("l0", {}, True),
]


@dataclass
class Comparison:
    """A method's masks here and there. exact: whether all must be equal; bits: in which they differ; counts: of
    layers that keep another number, by at most `most`; totals: of models that keep another number, which none may.
    """

    name: str
    exact: bool
    masks: int = 0
    weights: int = 0
    different: int = 0
    bits: int = 0
    counts: int = 0
    most: int = 0
    totals: int = 0

    @property
    def fault(self) -> bool:
        return self.totals > 0 or self.bits > (0 if self.exact else self.weights // 100)

    def add(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
        kept, wanted = (sum(int(mask.sum()) for mask in masks) for masks in (ours, theirs))
        self.totals += kept != wanted
        for own, other in zip(ours, theirs, strict=True):
            bits, count = int((own != other).sum()), abs(int(own.sum()) - int(other.sum()))
            self.masks += 1
            self.weights += own.numel()
            self.bits += bits
            self.different += bits > 0
            self.counts += count > 0
            self.most = max(self.most, count)

    def __str__(self) -> str:
        if not self.bits:
            return f"{self.name}: {self.masks} masks equal"
        counts = f"{self.counts} keep another number, by at most {self.most}" if self.counts else "none in its number"
        word = "FAULT: " if self.fault else ""
        return f"{self.name}: {word}{self.different} of {self.masks} masks differ, in {self.bits:,} bits; {counts}"


def layers_of(hidden: int, blocks: int, device: torch.device) -> list[MaskedLayer]:
    """The masked layers of a small BERT, the same weights every time."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=hidden,
        num_hidden_layers=blocks,
        num_attention_heads=max(2, hidden // 64),
        intermediate_size=4 * hidden,
    )
    model = BertModel(config).to(device)
    return masked_layers(model, model.config)


@cache
def scores(kind: str, shapes: tuple[torch.Size, ...]) -> list[Tensor]:
    """Scores to rank, float32 on the CPU."""
    generator = torch.Generator().manual_seed(1)
    found = [torch.randn(shape, generator=generator) for shape in shapes]
    if kind == "ties":
        # Some fifty values, two of which are 0 and -0.
        return [(8 * one).round() / 8 for one in found]
    if kind == "constants":
        # Whole matrices of one value, beside others.
        return [torch.full_like(one, 0.5) if i % 3 else one.round() for i, one in enumerate(found)]
    return found


@torch.no_grad()
def choose(
    method: str, settings: dict[str, Any], layers: list[MaskedLayer], scored: str, density: float, stacked: bool
) -> list[Tensor]:
    """The masks that a method gives fresh layers at a density, on the CPU. scored: the kind of scores."""
    kind = METHODS.load(method)
    first: dict[str, Any] = {"init": "zero"} if kind.trains_scores else {}
    pruner = kind(kind.Settings(**first, **settings))
    attach(pruner, layers, {})
    for layer, one in zip(layers, scores(scored, tuple(layer.weight.shape for layer in layers)), strict=True):
        (layer.weight if layer.scores is None else layer.scores).copy_(one)
    if stacked and pruner.stacks(layers):
        stack_layers(layers)
    pruner.begin(layers, density)
    refresh(pruner, layers, density)
    return [layer.mask.cpu() for layer in layers]


def compare_masks(device: torch.device, quick: bool) -> list[Comparison]:
    sizes = [(64, 2, ["ties", "constants"], [0.1, 1.0])] if quick else [
        (128, 3, ["random", "ties", "constants"], [0.03, 0.1, 0.5, 0.97, 1.0]),
        # Rows as long as BERT-base's, for which sorting and selection take other ways.
        (768, 2, ["ties"], [0.1]),
    ]  # fmt: skip
    found = []
    for method, settings, exact in VARIANTS:
        named = " ".join([method, *(f"{key}={value}" for key, value in settings.items())])
        found.append(one := Comparison(named, exact))
        for hidden, blocks, kinds, densities in sizes:
            for name, density in product(kinds, densities):
                one.add(
                    choose(method, settings, layers_of(hidden, blocks, device), name, density, stacked=True),
                    choose(method, settings, layers_of(hidden, blocks, CPU), name, density, stacked=False),
                )
        print(f"  {one}", flush=True)
    return found


# -- waits ---------------------------------------------------------------------------------------------------------


@contextmanager
def noting_waits(found: Counter[str]) -> Iterator[None]:
    """Note where the host waits for the GPU meanwhile: our own line, and the innermost one."""

    def note(message: Any, *where: Any, **more: Any) -> None:
        if "called a synchronizing" in str(message):
            found[_place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _place() -> str:
    frames = [
        frame for frame in traceback.extract_stack() if Path(frame.filename).name not in ("gpu.py", "warnings.py")
    ]
    lines = [f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}" for frame in frames]
    own = [line for line in lines if "smpcli/" in line or "pruners/" in line]
    return " > ".join(dict.fromkeys([*own[-1:], *lines[-1:]]))


def find_waits(case: Case, methods: list[str]) -> dict[str, Any]:
    """For each method: place -> how often, of three steps, and of fetching three batches."""
    found: dict[str, Any] = {}
    for name in methods:
        try:
            found[name] = waits_of(Contestant(name, case))
        except Exception:
            found[name] = {"steps": {traceback.format_exc(): 1}, "batches": {}}
        counts = [f"{sum(places.values())} in three {what}" for what, places in found[name].items()]
        print(f"  {name}: {' and '.join(counts)}")
        for places in found[name].values():
            for place, times in sorted(places.items(), key=lambda pair: -pair[1])[:12]:
                print(f"    {times:4} x {place}", flush=True)
    return found


def waits_of(one: Entrant) -> dict[str, dict[str, int]]:
    one.turn()
    batches = list(islice(iter(one.batches), 3))
    steps: Counter[str] = Counter()
    fetching: Counter[str] = Counter()
    with noting_waits(steps):
        for batch in batches:
            one.step(batch)
    one.check()
    with noting_waits(fetching):
        list(islice(iter(one.batches), 3))
    return {"steps": dict(steps), "batches": dict(fetching)}


# -- steps ---------------------------------------------------------------------------------------------------------


class KeepHighest(torch.autograd.Function):
    """The mask of the `kept` highest scores, by place in the sorted order; its gradient is passed on to them."""

    @staticmethod
    def forward(context: Any, scores: Tensor, kept: int) -> Tensor:
        order = scores.reshape(-1).sort(descending=True).indices
        mask = torch.zeros_like(scores).view(-1)
        mask[order[:kept]] = 1.0
        return mask.view_as(scores)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class FullSortLinear(nn.Module):
    """A linear layer that sorts all of its scores in each forward pass: the yardstick, written from the description
    of the authors' modules."""

    def __init__(self, linear: nn.Linear, density: float) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.kept = int(density * linear.weight.numel())
        self.scores = nn.Parameter(0.01 * torch.randn_like(linear.weight))

    def forward(self, inputs: Tensor) -> Tensor:
        mask = KeepHighest.apply(self.scores, self.kept)  # type: ignore[no-untyped-call]
        return nn.functional.linear(inputs, self.weight * mask, self.bias)


class FullSort(Entrant):
    """A stock BERT whose matrices are masked so, AdamW over their scores; on the batches of another entrant."""

    def __init__(self, case: Case, other: Entrant) -> None:
        super().__init__(other.batches, other.device)
        self.precision = case.precision
        self.model = AutoModelForSequenceClassification.from_pretrained(case.model, num_labels=2)
        self.model.requires_grad_(False)
        for block in self.model.base_model.encoder.layer:
            for name, module in list(block.named_modules()):
                if isinstance(module, nn.Linear):
                    block.set_submodule(name, FullSortLinear(module, 1 - case.sparsity))
        self.model.to(self.device).train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=2e-2, weight_decay=0.0)

    def step(self, batch: Any) -> None:
        for inputs, labels in batch:
            with training_context(self.precision, self.device):
                loss = self.model(**inputs, labels=labels).loss
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def time_steps(name: str, case: Case, methods: list[str], rounds: int) -> list[dict[str, Any]]:
    """A row an entrant. One that fails is left out, and says so."""
    entrants: dict[str, Entrant] = {}
    peaks: dict[str, int] = {}
    makers: dict[str, Callable[[], Entrant]] = {one: partial(Contestant, one, case) for one in [DENSE, *methods]}
    for one in (DENSE, *methods[:1]) if case.device != "cpu" else ():
        makers[f"{one}, no graph"] = partial(Contestant, one, replace(case, settings={"graph": "off"}))
    makers[FULL_SORT] = lambda: FullSort(case, entrants[DENSE])
    for one, make in makers.items():
        try:
            entrants[one], peaks[one] = make_entrant(make)
        except Exception:
            print(f"  {name}: {one} failed\n{traceback.format_exc()}", flush=True)
    rows = [asdict(row) for row in take_turns(entrants, peaks, rounds)]
    dense, yardstick = rows[0], next((row for row in rows if row["method"] == FULL_SORT), None)
    for row in rows:
        row["case"] = name
        row["to_full_sort"] = row["seconds"] / yardstick["seconds"] if yardstick else None
        row["kernels_beyond_dense"] = None if row["kernels"] is None else row["kernels"] - dense["kernels"]
    print_rows(rows)
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    def shown(value: float | None, form: str, factor: float = 1.0) -> str:
        return "-" if value is None else format(factor * value, form)

    print(
        f"  {rows[0]['case']}\n  {'':16}{'ms':>9}{'/ dense':>9}{'/ sort':>9}"
        f"{'kernels':>9}{'beyond':>9}{'GPU ms':>9}{'MiB':>9}"
    )
    for row in rows:
        cells = [
            shown(row["seconds"], ".2f", 1000),
            shown(row["ratio"], ".2f"),
            shown(row["to_full_sort"], ".2f"),
            shown(row["kernels"], ",.0f"),
            shown(row["kernels_beyond_dense"], ",.0f"),
            shown(row["device_seconds"], ".2f", 1000),
            shown(row["peak_memory"] or None, ",.0f", 2**-20),
        ]
        print(f"  {row['method']:16}" + "".join(f"{cell:>9}" for cell in cells), flush=True)


def all_steps(device: str, quick: bool) -> list[dict[str, Any]]:
    cases = [("bert-tiny", 2, 8, "fp32")] if quick else [
        ("bert-base", 32, 128, "bf16"),
        ("bert-base", 32, 128, "fp32"),
        ("minilm", 64, 16, "fp32"),
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    failed = []
    for shape, batch, length, precision in cases:
        name = f"{shape} shape, {batch} x {length}, {precision}"
        try:
            with random_checkpoint(shape) as folder:
                case = Case(folder, batch, length, precision, device, 0.9, {})
                rows += time_steps(name, case, ["smp"] if quick else BUILT_IN, 1 if quick else 5)
        except Exception:
            failed.append(name)
            print(f"  {name} failed\n{traceback.format_exc()}", flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if not rows:
        raise RuntimeError(f"failed: {', '.join(failed)}")
    return rows


# -- runs ----------------------------------------------------------------------------------------------------------


def write_texts(file: Path, count: int) -> None:
    """Texts of fourteen letters; more than half of them from the first half of the alphabet, or not."""
    draw = random.Random(0)
    halves = {"first": "abcdefghijklm", "second": "nopqrstuvwxyz"}
    with file.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target)
        writer.writerow(["text", "label"])
        for number in range(count):
            label = list(halves)[number % 2]
            letters = draw.choices(halves[label], k=9) + draw.choices("abcdefghijklmnopqrstuvwxyz", k=5)
            draw.shuffle(letters)
            writer.writerow([" ".join(letters), label])


def sweep_runs(device: str, quick: bool, limit: float) -> dict[str, Any]:
    """Sixty runs by one command; whatever takes longer than `limit` seconds is ended."""
    grid: dict[str, Any] = {
        "methods": ["smp"] if quick else BUILT_IN,
        "sparsities": [0.9] if quick else [0.5, 0.8, 0.9, 0.97],
        "seeds": [0] if quick else [0, 1, 2],
    }
    runs = len(grid["methods"]) * len(grid["sparsities"]) * len(grid["seeds"])
    steps, workers = (3, 1) if quick else (400, 16)
    settings = {"max_steps": steps, "batch_size": 64, "max_length": 32, "evaluations": 1, "precision": "fp32"}
    with (
        TemporaryDirectory(prefix="smp-gpu-") as name,
        random_checkpoint("bert-tiny" if quick else "minilm") as model,
    ):
        folder = Path(name)
        write_texts(folder / "letters.csv", 200 if quick else 2200)
        sweep = {**grid, "tasks": [str(folder / "letters.csv")], "settings": {**settings, "model": model}}
        (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep), encoding="utf-8")
        command = [sys.executable, "-m", "smpcli", "sweep", str(folder / "sweep.yaml"), "--quiet"]
        command += ["--workers", str(workers), "--device", device, "--output", str(folder / "results")]
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            _, told = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            # The whole group, which is ours alone: the workers, too.
            os.killpg(process.pid, signal.SIGKILL)
            _, told = process.communicate()
            told = f"ended after {limit:.0f} s\n{told}"
        seconds = time.perf_counter() - started
        told = told[-4000:]
        finished = len(list((folder / "results").glob("*/result.json")))
    print(f"  {finished} of {runs} runs of {steps} steps finished in {seconds:.1f} s, {workers} at a time")
    if finished < runs:
        print("\n".join(f"    {line}" for line in told.splitlines()[-12:]), flush=True)
    return {
        "runs": runs,
        "finished": finished,
        "seconds": seconds,
        "workers": workers,
        "steps": steps,
        "told": told[-4000:],
    }


# -- all of it -----------------------------------------------------------------------------------------------------

PARTS = ["masks", "waits", "steps", "runs"]


def machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def measure(part: str, options: argparse.Namespace, device: torch.device) -> tuple[Any, bool]:
    """What a part found, and whether all is well."""
    if part == "masks":
        found = compare_masks(device, options.quick)
        return [asdict(one) for one in found], not any(one.fault for one in found)
    if part == "waits":
        if device.type != "cuda":
            print("  needs CUDA")
            return "needs CUDA", True
        with random_checkpoint("bert-tiny" if options.quick else "minilm") as folder:
            case = Case(folder, 16, 16, "fp32", str(device), 0.9, {})
            waits = find_waits(case, [DENSE, *BUILT_IN])
        return waits, not any(one["steps"] or one["batches"] for one in waits.values())
    if part == "steps":
        rows = all_steps(str(device), options.quick)
        return rows, True
    runs = sweep_runs(str(device), options.quick, options.runs_limit)
    return runs, runs["finished"] == runs["runs"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the script itself")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, few steps")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these")
    parser.add_argument("--no-runs", action="store_true", help="leave the sixty runs out")
    parser.add_argument("--runs-limit", type=float, default=240, help="seconds after which the runs are ended")
    parser.add_argument("--json", type=Path, help="file for what was found")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = make_accelerator(options.device).device
    found: dict[str, Any] = {"machine": machine(device), "seconds": {}, "failed": []}
    print(", ".join(f"{key} {value}" for key, value in found["machine"].items()), flush=True)
    for part in PARTS:
        if part not in options.parts or (part == "runs" and options.no_runs):
            continue
        print(part, flush=True)
        started = time.perf_counter()
        try:
            found[part], well = measure(part, options, device)
        except Exception:
            found[part], well = traceback.format_exc(), False
            print(found[part], flush=True)
        found["seconds"][part] = time.perf_counter() - started
        found["failed"] += [] if well else [part]
        print(f"  {found['seconds'][part]:.0f} s", flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"not as it should be: {', '.join(found['failed'])}" if found["failed"] else "all well")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
