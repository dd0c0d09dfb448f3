"""The course of a sweep, with an engine that makes runs by hand: order, failures, skipping, the estimate."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from smpcli import api, prune
from smpcli.commands.live import SweepDisplay
from smpcli.errors import Interrupted
from smpcli.runs.rundir import RunDir
from smpcli.settings import resolve
from smpcli.sweeping import estimate as estimating
from smpcli.sweeping import sweep as course
from smpcli.sweeping.engines import LocalEngine, Outcome, fair_threads, usual
from smpcli.sweeping.grid import Job
from smpcli.sweeping.progress_table import counts, render
from smpcli.sweeping.sweep import SweepRun, carry_out


class ByHand:
    """Ends what was started at the next look, with `code` by the run's name (0 makes an empty result)."""

    def __init__(self, slots: int, codes: Mapping[str, int] | None = None) -> None:
        self.slots, self.codes = slots, codes or {}
        self.remark: str | None = None
        self.order: list[str] = []
        self.running: list[str] = []
        self.most = 0
        self.stopped = False

    def start(self, name: str, job: Mapping[str, Any]) -> None:
        self.order.append(name)
        self.running.append(name)
        self.most = max(self.most, len(self.running))
        if not self.codes.get(name):
            folder = Path(job["output"]) / name
            folder.mkdir(parents=True)
            (folder / "result.json").write_text("{}")

    def ended(self) -> dict[str, Outcome]:
        ended = {self.running.pop(0): None} if self.running else {}
        return {name: Outcome(self.codes.get(name, 0), f"{name} broke") for name in ended}

    def stop(self) -> None:
        self.stopped = True


class Silent:
    def changed(self, run: SweepRun) -> None: ...
    def tick(self, runs: list[SweepRun]) -> None: ...


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def close(run: SweepRun) -> None:
        run.state, run.exit_code = "finished", 0

    monkeypatch.setattr(course, "POLL_SECONDS", 0)
    monkeypatch.setattr(course, "_close", close)


def runs(folder: Path, names: Iterable[str], teachers: Mapping[str, str] | None = None) -> list[SweepRun]:
    settings = resolve(flags={"task": "rte"})
    return [SweepRun(Job(name, settings, (teachers or {}).get(name)), folder / name) for name in names]


def test_all_are_made_no_more_at_a_time_than_there_are_slots(tmp_path: Path) -> None:
    found, engine = runs(tmp_path, "abcde"), ByHand(2)
    carry_out(found, tmp_path, engine, Silent())
    assert engine.order == list("abcde") and engine.most == 2 and engine.stopped
    assert {run.state for run in found} == {"finished"}


def test_a_run_that_fails_stops_no_other_and_keeps_its_exit_code(tmp_path: Path) -> None:
    found, engine = runs(tmp_path, "abc"), ByHand(1, {"b": 137})
    carry_out(found, tmp_path, engine, Silent())
    assert [run.state for run in found] == ["finished", "failed", "finished"]
    assert (found[1].exit_code, found[1].error) == (137, "b broke")


def test_what_is_taught_waits_for_its_teacher(tmp_path: Path) -> None:
    # c is d's teacher and comes late; x is y's, and fails.
    found = runs(tmp_path, "dcyx", {"d": "c", "y": "x"})
    engine = ByHand(4, {"x": 2})
    carry_out(found, tmp_path, engine, Silent())
    assert engine.order == ["c", "x", "d"]
    states = {run.job.id: (run.state, run.exit_code) for run in found}
    assert states == {"c": ("finished", 0), "d": ("finished", 0), "x": ("failed", 2), "y": ("failed", None)}
    assert "x" in str(found[2].error)


def test_an_interruption_stops_the_engine(tmp_path: Path) -> None:
    class Impatient(Silent):
        def tick(self, runs: list[SweepRun]) -> None:
            raise KeyboardInterrupt

    engine = ByHand(1)
    with pytest.raises(Interrupted, match="0 of 2 runs"):
        carry_out(runs(tmp_path, "ab"), tmp_path, engine, Impatient())
    assert engine.stopped and engine.order == ["a"]


def test_a_run_that_nobody_can_see_counts_as_failed(tmp_path: Path) -> None:
    class Elsewhere(ByHand):
        def start(self, name: str, job: Mapping[str, Any]) -> None:
            self.running.append(name)

    (run,) = found = runs(tmp_path, "a")
    carry_out(found, tmp_path, Elsewhere(1), Silent())
    assert run.state == "failed" and "--output" in str(run.error)


def test_a_table_that_does_not_fit_shows_what_matters(tmp_path: Path) -> None:
    found = runs(tmp_path, "abcdefghij")
    for run in found[:5]:
        run.state = "finished"
    found[1].state = "failed"
    found[5].state = "running"
    shown = render(found, most=4)
    ids = [str(cell) for cell in shown.columns[0].cells]
    assert ids == ["b", "e", "f", "g"] or ids == ["b", "d", "e", "f"]
    assert len(list(render(found).columns[0].cells)) == 10
    assert counts(found) == "4 finished, 1 running, 4 waiting, 1 failed"


def test_in_a_terminal_a_live_table_shows_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    found = runs(tmp_path, ["first-run", "second-run", "third-run"])
    found[0].state, found[0].metrics, found[0].seconds = "finished", {"accuracy": 0.8125}, 65.0
    found[1].state, found[1].step, found[1].steps = "running", 40, 200
    with SweepDisplay(quiet=False) as progress:
        progress.tick(found)
        progress.note("[they] share a GPU")
        progress.changed(found[0])
        progress.live.refresh()  # type: ignore[union-attr]
    assert "[they] share a GPU" in screen.getvalue()
    for text in ("first-run", "accuracy 0.8125", "1:05", "second-run", "40/200", "third-run", "waiting", "1 running"):
        assert text in screen.getvalue()
    # A table in place of lines.
    assert "finished in" not in screen.getvalue()


@pytest.mark.parametrize(("cpus", "workers", "threads"), [(8, 2, 4), (8, 3, 2), (2, 4, 1), (7.0, 1, 7)])
def test_threads_are_shared_fairly(cpus: float, workers: int, threads: int) -> None:
    assert fair_threads(workers, cpus) == threads


def test_a_worker_gets_its_share_unless_the_person_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("smpcli.sweeping.engines.fair_threads", lambda workers: 12 // workers)
    assert LocalEngine(1)._share(0) == {"OMP_NUM_THREADS": "12"}
    shares = [LocalEngine(3)._share(slot) for slot in range(3)]
    assert shares == [{"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": device} for device in ("2", "5", "2")]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert LocalEngine(1)._share(0) == {}


@pytest.mark.parametrize(
    ("there", "devices", "engine"),
    [
        (True, ["auto", "cpu"], "pool"),
        (True, ["cuda:1"], "pool"),
        (True, ["cpu", "cpu"], "local"),
        (False, ["auto"], "local"),
    ],
)
def test_processes_stay_where_runs_compute_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, there: bool, devices: list[str], engine: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert usual(devices) == engine


def test_what_an_engine_remarks_is_told_once(tmp_path: Path) -> None:
    class Listening(Silent):
        told: list[str] = []

        def note(self, text: str) -> None:
            self.told.append(text)

    engine = ByHand(1)
    engine.remark = "slow today"
    carry_out(runs(tmp_path, "ab"), tmp_path, engine, Listening())
    assert Listening.told == ["slow today"]


# -- with real runs --------------------------------------------------------------------------------------


@pytest.fixture
def grid(pico: Callable[[str], Path], sentiment: Any, tmp_path: Path) -> Path:
    file = tmp_path / "sweep.yaml"
    settings = {"model": str(pico("bert")), "max_steps": 8, "batch_size": 8, "max_length": 24, "evaluations": 2}
    file.write_text(
        yaml.safe_dump(
            {"methods": ["smp"], "sparsities": [0.5, 0.9], "tasks": [str(sentiment.csv)], "settings": settings}
        )
    )
    return file


def make(grid: Path, sparsity: float, **more: Any) -> Path:
    content = yaml.safe_load(grid.read_text())
    (task,) = content["tasks"]
    return prune(task, "smp", sparsity, output=grid.parent / "results", **(content["settings"] | more)).path


def test_what_is_finished_is_known_by_its_settings(
    grid: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    made = make(grid, 0.5)
    # Half-made: killed before its result was written.
    half = make(grid, 0.9)
    (half / "result.json").unlink()
    make(grid, 0.9, seed=1)
    half_run = {run.job.settings.run.sparsity: run for run in api.plan_sweep(grid, output=tmp_path / "results")}
    assert (half_run[0.5].state, half_run[0.5].before, half_run[0.5].path) == ("finished", True, made)
    assert (half_run[0.9].state, half_run[0.9].path) == ("waiting", half)
    assert half_run[0.9].steps == 8
    # A finished run whose files are damaged is neither skipped nor overwritten.
    (made / "mask.safetensors").write_bytes(b"")
    damaged, _ = api.plan_sweep(grid, output=tmp_path / "results")
    assert (damaged.state, damaged.exit_code) == ("failed", 2)
    assert "mask.safetensors" in str(damaged.error) and str(made) in str(damaged.error)


def test_the_estimate_is_of_measured_steps(grid: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    _, nothing = api.estimate_sweep(grid, output=tmp_path / "results")
    assert list(nothing.seconds.values()) == [None, None] and nothing.total is None and nothing.unknown == 2
    assert not (tmp_path / "results").exists()

    result = json.loads((make(grid, 0.5) / "result.json").read_text())
    # As if a step had taken 2 s and all the rest 5 s.
    result["training"]["seconds_per_step"], result["run"]["seconds"] = 2.0, 2.0 * 8 + 5.0
    (tmp_path / "results" / result["run"]["id"] / "result.json").write_text(json.dumps(result))
    longer = {"max_steps": 100}
    runs, found = api.estimate_sweep(grid, output=tmp_path / "results", settings=longer, workers=2)
    assert found.seconds == {run.job.id: 205.0 for run in runs}
    assert found.total == 205.0 and found.sources == [f"finished runs in {tmp_path / 'results'}"]
    # Another batch size is another step.
    _, other = api.estimate_sweep(grid, output=tmp_path / "results", settings={"batch_size": 4})
    assert other.total is None


def test_calibration_makes_a_few_steps_and_leaves_nothing(
    grid: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    made: list[int] = []
    from smpcli.training import run as running

    def count(settings: Any, *args: Any) -> RunDir:
        made.append(settings.run.max_steps)
        return once(settings, *args)

    once = running.run
    monkeypatch.setattr(running, "run", count)
    _, found = api.estimate_sweep(grid, output=tmp_path / "results", calibrate=True)
    # Both sparsities take the same steps: one calibration.
    assert made == [estimating.WARM_UP + estimating.MEASURED]
    assert found.total is not None and 0 < found.total < 60 and "calibration" in found.sources[0]
    assert not (tmp_path / "results").exists()
