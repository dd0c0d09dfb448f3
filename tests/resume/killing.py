"""Kill runs with SIGKILL, resume them, and compare what they leave with an uninterrupted run's, byte by byte.

    python tests/resume/killing.py --kills 20

kills each of these methods' runs 20 times: in turn in a training step, in an evaluation, while a checkpoint is
written, while the result is written, and at any time of the clock; every third resumed run is killed once more. At
least one kill of each kind must have hit. A child is forked for each run, from a
process that has imported everything and trained nothing, so that a kill costs no start of Python.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

METHODS = ("smp", "movement", "soft-movement", "magnitude", "l0", "snip-momentum", "platon", "obert", "dense")
MOMENTS = ("a step", "an evaluation", "a checkpoint", "the result", "any time")
STEPS = 24
# What differs between two runs that are the same.
PASSING = ("started", "seconds", "seconds_per_step", "command")


class Silent:
    def phase(self, name: str) -> None: ...
    def step(self, step: Any) -> None: ...


class Moments:
    """Counts the moments of a run, and ends the process at the one that was chosen."""

    def __init__(self, moment: str = "", number: int = -1) -> None:
        self.moment, self.number = moment, number
        self.counts = dict.fromkeys(MOMENTS[:-1], 0)

    def pass_by(self, moment: str, last_words: Callable[[], object] = lambda: None) -> None:
        self.counts[moment] += 1
        if (moment, self.counts[moment]) == (self.moment, self.number):
            last_words()
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Count forward passes in steps and evaluations, what a step does after it, and the moments of writing.

        A step: before its forward pass, before and after the optimiser's update. Writing:
        half a file, fsync, rename, and what follows.
        """
        import safetensors.torch
        import torch

        from smpcli.modeling.heads import TaskModel

        forward, save, fsync, replace, unlink = (
            TaskModel.forward, safetensors.torch.save_file, os.fsync, os.replace, os.unlink,
        )  # fmt: skip
        trained = 0

        def watched_forward(model: TaskModel, **inputs: Any) -> Any:
            nonlocal trained
            trained += model.training
            if trained:
                self.pass_by("a step" if model.training else "an evaluation")
            return forward(model, **inputs)

        def watched_update(optimizer: Any, *args: Any, **more: Any) -> Any:
            self.pass_by("a step")
            found = update(optimizer, *args, **more)
            self.pass_by("a step")
            return found

        def where(path: Any) -> str:
            return "a checkpoint" if "/checkpoint" in str(path) else "the result"

        def watched_save(tensors: Any, path: Any, *more: Any) -> None:
            self.pass_by(where(path), lambda: Path(path).write_bytes(b"half of it"))
            save(tensors, path, *more)

        def watched_fsync(handle: int) -> None:
            self.pass_by(where(Path(f"/proc/self/fd/{handle}").readlink()))
            fsync(handle)

        def watched_replace(source: Any, target: Any, **more: Any) -> None:
            self.pass_by(where(target))
            replace(source, target, **more)
            self.pass_by(where(target))

        def watched_unlink(path: Any, **more: Any) -> None:
            self.pass_by(where(path))
            unlink(path, **more)

        update = torch.optim.AdamW.step
        torch.optim.AdamW.step = watched_update  # type: ignore[assignment,method-assign]
        TaskModel.forward = watched_forward  # type: ignore[assignment,method-assign]
        safetensors.torch.save_file = watched_save  # type: ignore[assignment]
        os.fsync, os.replace, os.unlink = watched_fsync, watched_replace, watched_unlink  # type: ignore[assignment]


def settings_of(method: str, task: Path, model: Path) -> Any:
    from smpcli.settings import resolve

    flags = {"method": method, "task": str(task), "model": str(model), "max_steps": STEPS, "batch_size": 16}
    flags |= {"evaluations": 4, "checkpoint_every": 3, "seed": 5, "device": "cpu"}
    return resolve(flags=flags)


def in_child(action: Callable[[], object], kill_after: float | None = None) -> int:
    """Run in a fork; the wait status. kill_after: seconds after which the child is killed."""
    child = os.fork()
    if not child:
        code = 1
        try:
            action()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def left_by(output: Path) -> dict[str, Any]:
    """Every file below the output folder; of result.json what says how the run went, not when."""
    found: dict[str, Any] = {}
    for path in sorted(output.rglob("*")):
        if path.is_file() and path.name != "result.json":
            found[str(path.relative_to(output))] = path.read_bytes()
    for path in output.glob("*/result.json"):
        result = json.loads(path.read_text())
        result["run"] = {key: value for key, value in result["run"].items() if key not in PASSING}
        result["training"] = {key: value for key, value in result["training"].items() if key not in PASSING}
        found[str(path.relative_to(output))] = result
    return found


class Experiment:
    def __init__(self, method: str, task: Path, model: Path, folder: Path, draw: random.Random) -> None:
        self.method, self.folder, self.draw = method, folder, draw
        self.settings = settings_of(method, task, model)
        self.killed = dict.fromkeys(MOMENTS, 0)
        self.outlived = 0
        counts = folder / "counts.json"
        started = time.monotonic()
        assert in_child(lambda: self._run(folder / "whole", Moments(), counts)) == 0
        self.seconds = time.monotonic() - started
        self.counts: dict[str, int] = json.loads(counts.read_text())
        self.whole = left_by(folder / "whole")

    def _run(self, output: Path, moments: Moments, counts: Path | None = None) -> None:
        from smpcli.training.run import run

        moments.watch()
        run(self.settings, output, Silent(), resume=True)
        if counts:
            counts.write_text(json.dumps(moments.counts))

    def once(self, number: int) -> str | None:
        """Kill, resume, compare; None, or what is wrong."""
        moment = MOMENTS[number % len(MOMENTS)]
        output = self.folder / f"{self.method}-{number}"
        self._kill(output, moment)
        if number % 3 == 2:
            self._kill(output, self.draw.choice(MOMENTS))
        if in_child(lambda: self._run(output, Moments())):
            return f"{self.method}, killed in {moment}: not resumed"
        found = left_by(output)
        if found != self.whole:
            names = sorted(name for name in {*found, *self.whole} if found.get(name) != self.whole.get(name))
            return f"{self.method}, killed in {moment}: {', '.join(names)} differ"
        return None

    def _kill(self, output: Path, moment: str) -> None:
        if moment == "any time":
            status = in_child(lambda: self._run(output, Moments()), self.draw.uniform(0, self.seconds))
        else:
            chosen = Moments(moment, self.draw.randint(1, self.counts[moment]))
            status = in_child(lambda: self._run(output, chosen))
        # A resumed run has fewer moments than a whole one, and may be over before the one that was chosen.
        if status == signal.SIGKILL:
            self.killed[moment] += 1
        else:
            self.outlived += 1


def make_inputs(folder: Path) -> tuple[Path, Path]:
    """A pico BERT and generated sentences, as the test suite has them; made in a child, so that nothing runs here."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

    def make() -> None:
        import conftest
        import torch

        torch.manual_seed(3)
        tokenizer = conftest._wordpiece(True)
        conftest._model("bert", len(tokenizer)).save_pretrained(folder / "bert")
        tokenizer.save_pretrained(folder / "bert")
        draw = random.Random(7)
        rows = [(conftest.sentence(draw, label), label) for label in ("positive", "negative") * 130]
        text = "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows)
        (folder / "sentiment.csv").write_text(text)

    assert in_child(make) == 0
    return folder / "sentiment.csv", folder / "bert"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20, help="of each method")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    from smpcli.console import quieten_libraries

    quieten_libraries()
    # What a run imports that takes longest, so that no child has to.
    import accelerate.utils  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch
    import transformers.models.bert.modeling_bert  # noqa: F401

    import smpcli.training.checkpoint
    import smpcli.training.run
    import smpcli.training.session  # noqa: F401

    torch.set_num_threads(1)
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        task, model = make_inputs(Path(name))
        for method in arguments.methods:
            draw = random.Random(f"{arguments.seed} {method}")
            (Path(name) / method).mkdir()
            experiment = Experiment(method, task, model, Path(name) / method, draw)
            found = [problem for number in range(arguments.kills) if (problem := experiment.once(number))]
            killed = ", ".join(f"{count} in {moment}" for moment, count in experiment.killed.items())
            print(
                f"{method}: killed {killed}; {experiment.outlived} over before; "
                f"{arguments.kills - len(found)} of {arguments.kills} resumed to the same bytes",
                flush=True,
            )
            missed = [moment for moment in MOMENTS[:-1] if not experiment.killed[moment]]
            problems += found + ([f"{method}: never killed in {', '.join(missed)}"] if missed else [])
    print("\n".join(problems))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
