"""What the commands do, as functions that return objects. Nothing here prints; heavy imports wait for the call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from smpcli.errors import UserError

if TYPE_CHECKING:
    from smpcli.bench.infer import Report
    from smpcli.bench.operations import Operations
    from smpcli.bench.train import Timed
    from smpcli.comparison.compare import Comparison
    from smpcli.dry_run import Plan
    from smpcli.evaluation.recompute import Recomputed
    from smpcli.evaluation.released import Released
    from smpcli.export.formats import Exported
    from smpcli.export.ready import Ready
    from smpcli.inspection.inspect import Inspection
    from smpcli.runs.rundir import RunDir
    from smpcli.settings import Settings
    from smpcli.sweeping.estimate import Estimate
    from smpcli.sweeping.grid import Job
    from smpcli.sweeping.reproduction import Reproduction
    from smpcli.sweeping.sweep import SweepObserver, SweepRun
    from smpcli.training.run import RunObserver

#: Those of the paper's tables.
SEEDS = "0,1,2,3,4"


def _quietly() -> None:
    """Before a library is imported: nothing here prints, and neither shall they."""
    from smpcli.console import quieten_libraries

    quieten_libraries()


def prune(
    task: str | None = None,
    method: str | None = None,
    sparsity: float | None = None,
    *,
    recipe: str | None = None,
    output: str | Path = "results",
    overwrite: bool = False,
    resume: bool = False,
    track: str | None = None,
    progress: RunObserver | None = None,
    **settings: Any,
) -> RunDir:
    """Prune a model for a task and return the finished run.

    resume: go on from the last checkpoint of an interrupted run; a finished one is returned as it is.
    task, method, sparsity, recipe: as on the command line. settings: every other flag and --set key, e.g.
    model="bert-base-uncased", seed=1, max_steps=500, init="zero". track: an experiment tracker, e.g.
    "tensorboard". Raises UserError for bad input.
    """
    _quietly()
    # Settings first: what is wrong with them is said before anything heavy is imported.
    resolved = _resolve(recipe, {"task": task, "method": method, "sparsity": sparsity, **settings})
    from smpcli.training.run import run

    if resume:
        from smpcli.training.resume import refuse_others

        refuse_others(resolved, Path(output))
    return run(resolved, Path(output), progress, overwrite, resume=resume, track=track)


def finetune(task: str | None = None, **options: Any) -> RunDir:
    """The dense run under its everyday name; options as for `prune`."""
    return prune(task, method="dense", **options)


def plan(
    task: str | None = None,
    method: str | None = None,
    sparsity: float | None = None,
    *,
    recipe: str | None = None,
    output: str | Path = "results",
    **settings: Any,
) -> Plan:
    """What `prune` would do with the same arguments: resolved settings, steps, weights, memory. Downloads nothing."""
    _quietly()
    from smpcli.dry_run import make_plan
    from smpcli.training.needs import check_output

    check_output(Path(output))
    return make_plan(_resolve(recipe, {"task": task, "method": method, "sparsity": sparsity, **settings}))


def _resolve(recipe: str | None, flags: Mapping[str, Any]) -> Settings:
    from smpcli.settings import resolve

    return resolve(
        recipe, flags={key: str(value) if isinstance(value, Path) else value for key, value in flags.items()}
    )


def doctor() -> dict[str, Any]:
    """Versions, devices, caches and who answers on the network, as `smp doctor --json` prints them."""
    _quietly()
    from smpcli.doctor import examine

    return examine()


def evaluate(run: str | Path, *, data_dir: str | Path | None = None) -> Recomputed:
    """Recompute a finished run's metrics from its directory."""
    _quietly()
    from smpcli.evaluation.recompute import recompute

    return recompute(Path(run), Path(data_dir) if data_dir else None)


def evaluate_mask(
    mask: str | Path,
    *,
    model: str,
    task: str,
    words: Literal["task", "released"] | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
) -> Released:
    """Metrics of a base model pruned by an .npy mask as SMP's authors release them, read by the label words.

    words: the task's own, or those of the authors' files; needed where they differ (mnli).
    """
    _quietly()
    from smpcli.evaluation.released import evaluate_mask as evaluate_released

    return evaluate_released(Path(mask), model, task, Path(data_dir) if data_dir else None, device, words)


def compare(
    *paths: str | Path,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    where: Sequence[str] = (),
    metric: str | None = None,
    sort: str | None = None,
    with_published: bool = False,
    with_floors: bool = False,
    on_floor: Callable[[str], None] = lambda what: None,
) -> Comparison:
    """Compare the runs under some folders; `.rows`, `.to_frame()`, `.to_plot(path)`, `.to_html(path)` and more.

    tasks, methods, where (such as "init=zero"), metric, sort: as on the command line. on_floor: told what is fitted.
    Raises UserError for bad input.
    """
    _quietly()
    from smpcli.comparison.compare import compare as compare_runs

    return compare_runs(
        *(Path(path) for path in paths),
        tasks=tasks,
        methods=methods,
        where=where,
        metric=metric,
        sort=sort,
        with_published=with_published,
        with_floors=with_floors,
        on_floor=on_floor,
    )


def inspect(run: str | Path, other: str | Path | None = None) -> Inspection:
    """A run's mask by layer and matrix type, what is empty in it, how it moved; with a second run, their overlap."""
    _quietly()
    from smpcli.inspection.inspect import inspect as inspect_runs

    return inspect_runs(Path(run), Path(other) if other is not None else None)


def export(
    run: str | Path,
    format: str = "hf",
    *,
    output: str | Path | None = None,
    data_dir: str | Path | None = None,
    overwrite: bool = False,
    drop_rows_below: int = 0,
    precision: str = "fp32",
) -> Exported:
    """Export a finished run; returns where it lies, its size, and what verifying it found.

    drop_rows_below: for the formats that shrink, also drop rows of fewer kept weights than this (lossy).
    precision: "bf16" (compact) or "int8" (onnx): smaller and, where the hardware has units for it, faster (lossy).
    """
    _quietly()
    from smpcli.export.formats import export_run

    return export_run(
        Path(run),
        format,
        Path(output) if output else None,
        Path(data_dir) if data_dir else None,
        overwrite,
        drop_rows_below,
        precision,
    )


def predict(*exports: str | Path, texts: Iterable[str], model: str | None = None) -> Iterator[dict[str, Any]]:
    """One answer for each text and each export, in that order: "text", "task", and what `Ready.predict` gives.

    exports: a run's folder or an export, or several mask files over one base model, which is then loaded once.
    texts: for tasks on pairs (questions and their contexts), both texts with a tab between them. Raises UserError.
    """
    _quietly()
    from smpcli.export.predict import answers

    return answers([Path(path) for path in exports], texts, model)


def load(path: str | Path, model: str | None = None) -> Ready:
    """A ready torch module from a run's folder or an export: `load(path).predict(["a text"])`.

    model: where the base model is, for a mask whose base lies elsewhere than when it was made. Raises UserError.
    """
    _quietly()
    from smpcli.export.loading import load as load_any

    return load_any(path, model)


def bench_train(
    methods: list[str] | None = None,
    *,
    model: str | None = None,
    shape: str | None = None,
    batch_size: int = 32,
    length: int = 32,
    sparsity: float = 0.9,
    rounds: int = 10,
    threads: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    memory: bool = True,
    on_round: Callable[[int], None] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[Timed]:
    """Seconds a training step and peak memory of dense and `methods` (default: all that train), in turns.

    shape: of a model with random weights, in place of `model` (`smpcli/bench/shapes.py`); length: tokens a text;
    settings: what --set takes, for every method. Raises UserError for bad input.
    """
    _quietly()
    checkpoint = _checkpoint(model, shape)
    from smpcli.bench.train import Case, methods_with_steps, time_methods

    with checkpoint as name:
        case = Case(name, batch_size, length, precision, device, sparsity, dict(settings or {}), threads)
        names = methods or methods_with_steps(case)
        return time_methods(names, case, rounds, memory, on_round or (lambda done: None))


def _checkpoint(model: str | None, shape: str | None) -> AbstractContextManager[str]:
    """What `model` names, or random weights of a shape for as long as they are needed."""
    if shape is None:
        return nullcontext(model or "minilm")
    from smpcli.bench.shapes import check_shape, random_checkpoint

    if model is not None:
        raise UserError("--shape makes a model of its own", "leave out --model, or --shape")
    check_shape(shape)
    return random_checkpoint(shape)


def bench_operations(
    methods: list[str] | None = None,
    *,
    model: str | None = None,
    shape: str | None = None,
    batch_size: int = 32,
    length: int = 32,
    sparsity: float = 0.9,
    precision: str = "auto",
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> list[Operations]:
    """What a step launches on an accelerator beside the model's own passes, counted on any machine.

    Arguments as of `bench_train`. Raises UserError for bad input.
    """
    _quietly()
    checkpoint = _checkpoint(model, shape)
    from smpcli.bench.operations import count_operations
    from smpcli.bench.train import Case, methods_with_steps

    with checkpoint as name:
        case = Case(name, batch_size, length, precision, device, sparsity, dict(settings or {}))
        return count_operations(methods or methods_with_steps(case), case)


def sweep(
    file: str | Path,
    *,
    output: str | Path = "results",
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
    engine: str | None = None,
    address: str | None = None,
    watcher: SweepObserver | None = None,
) -> list[SweepRun]:
    """Make every run of a sweep file that isn't finished yet; returns all of them, `.state` says how each ended.

    file: a YAML file, or the name of a sweep (`smp sweep` lists them). settings: for every run, over the file's own.
    workers: runs at a time. engine: "local" (a process for each run), "pool" (processes that stay; the default where
    runs have a GPU) or "ray", `address` a Ray cluster's. Raises UserError for bad input.
    """
    _quietly()
    from smpcli.sweeping import engines

    engines.check(engine, workers, address)
    runs = plan_sweep(file, output=output, settings=settings)
    _carry_out(runs, output, engine, workers, address, watcher)
    return runs


def _carry_out(
    runs: list[SweepRun],
    output: str | Path,
    engine: str | None,
    workers: int | None,
    address: str | None,
    watcher: SweepObserver | None,
) -> None:
    from smpcli.sweeping import engines
    from smpcli.sweeping.sweep import carry_out

    if waiting := [run.job.settings.run.device for run in runs if run.state == "waiting"]:
        made = engines.make(engine or engines.usual(waiting), workers, address)
        carry_out(runs, Path(output).absolute(), made, watcher)


def plan_sweep(
    file: str | Path, *, output: str | Path = "results", settings: Mapping[str, Any] | None = None
) -> list[SweepRun]:
    """The runs of a sweep file as they stand in `output`, without making any. Downloads nothing."""
    _quietly()
    from smpcli.sweeping.grid import expand, read_sweep
    from smpcli.training.needs import check_output

    check_output(Path(output))
    given = {key: str(value) if isinstance(value, Path) else value for key, value in (settings or {}).items()}
    return _survey(expand(read_sweep(str(file)), Path(output), given), output)


def _survey(jobs: Iterable[Job], output: str | Path) -> list[SweepRun]:
    from smpcli.dry_run import step_counter
    from smpcli.sweeping.sweep import survey

    count = step_counter()
    return survey(jobs, Path(output), lambda job: count(job.settings))


def estimate_sweep(
    file: str | Path,
    *,
    output: str | Path = "results",
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
    calibrate: bool = False,
) -> tuple[list[SweepRun], Estimate]:
    """The runs of a sweep and how long those to be made will take, by steps measured in finished runs.

    calibrate: make a few steps where no finished run tells; that needs data and model, and may download them.
    """
    from smpcli.sweeping import engines
    from smpcli.sweeping.estimate import estimate

    engines.check("local", workers, None)
    runs = plan_sweep(file, output=output, settings=settings)
    return runs, estimate(runs, Path(output), workers or 1, calibrate)


def reproduce(
    table: str,
    *,
    output: str | Path = "results",
    workers: int | None = None,
    engine: str | None = None,
    address: str | None = None,
    watcher: SweepObserver | None = None,
    **options: Any,
) -> Reproduction:
    """Make every run of a table of the paper that isn't finished yet; `.figures()` are the paper's and ours.

    options: as of `plan_reproduction`; workers, engine, address: as of `sweep`. Raises UserError for bad input.
    """
    _quietly()
    from smpcli.sweeping import engines

    engines.check(engine, workers, address)
    found = plan_reproduction(table, output=output, **options)
    _carry_out(found.runs, output, engine, workers, address, watcher)
    return found


def plan_reproduction(
    table: str,
    *,
    seeds: str | Sequence[int] = SEEDS,
    output: str | Path = "results",
    model: str | Path | None = None,
    max_steps: int | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
) -> Reproduction:
    """A table of the paper (`smp reproduce` lists them) and its runs as they stand in `output`. Downloads nothing.

    model, max_steps: in place of the paper's, for a trial. Raises UserError for bad input.
    """
    _quietly()
    from smpcli.sweeping.reproduction import plan_table
    from smpcli.training.needs import check_output

    check_output(Path(output))
    given = {"model": model, "max_steps": max_steps, "data_dir": data_dir, "device": device}
    texts = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    found = plan_table(table, _numbers(seeds, "--seeds", least=0), Path(output), texts)
    found.runs.extend(_survey(found.jobs, output))
    return found


def estimate_reproduction(
    table: str, *, workers: int | None = None, calibrate: bool = False, **options: Any
) -> tuple[Reproduction, Estimate]:
    """What `plan_reproduction` gives, and how long the runs to be made will take, as `estimate_sweep` says it."""
    from smpcli.sweeping import engines
    from smpcli.sweeping.estimate import estimate

    engines.check("local", workers, None)
    found = plan_reproduction(table, **options)
    return found, estimate(found.runs, Path(options.get("output", "results")), workers or 1, calibrate)


def bench_infer(
    *exports: str | Path,
    batches: str | Sequence[int] = "1,8,32",
    lengths: str | Sequence[int] = "16,32,128",
    repeats: int = 10,
    threads: int | None = None,
) -> Report:
    """Time exports beside the dense model that they come from; `.to_json()`, `.verdict()`, `.fastest()`."""
    _quietly()
    from smpcli.bench.infer import bench

    return bench(
        [Path(path) for path in exports],
        _numbers(batches, "--batches"),
        _numbers(lengths, "--lengths"),
        repeats,
        threads,
    )


def _numbers(given: str | Sequence[int], flag: str, least: int = 1) -> list[int]:
    from smpcli.errors import UserError

    parts = given.split(",") if isinstance(given, str) else given
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise UserError(f"{flag} takes whole numbers from {least} up, with commas between them, not '{given}'")
    return list(dict.fromkeys(numbers))
