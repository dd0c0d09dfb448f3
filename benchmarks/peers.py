"""smp beside libraries of the package index that prune, on task movies: same data, steps, batch size and precision.

    python benchmarks/peers.py --steps 5                                  # does each work?
    python benchmarks/peers.py --sparsity 0.9 0.97 --seeds 0 1 2 --json peers.json

Each peer runs in a virtual environment of its own with pinned versions, made in --envs (default: a temporary folder,
some GB with torch for CPUs, more where the index brings CUDA) and used again from there. Its script in peer_scripts/
uses that library's public API on the embedded MiniLM with a fresh classifier, in one training loop that all of them
share. What each saves is then loaded by stock transformers in a new process. Kept weights are counted, not asked for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from itertools import product
from pathlib import Path
from typing import Any

from smpcli import export, prune
from smpcli.modeling.backbone import model_path
from smpcli.tasks.data import load_data
from smpcli.tasks.task import find_task

TASK = "movies"
SCRIPTS = Path(__file__).resolve().parent / "peer_scripts"
STOCK = ["torch==2.13.0", "transformers==5.24.0", "numpy==2.4.6"]
#: Peer -> what is installed.
PEERS = {
    # It imports pkg_resources and six, and asks for neither.
    "neural_compressor": [
        *("neural-compressor==2.6", "setuptools==80.9.0", "six==1.17.0"),
        *("torch==2.13.0", "transformers==4.46.3", "numpy==1.26.4"),
    ],
    # nncf.strip imports torchao, which nncf doesn't ask for.
    "nncf": ["nncf==3.4.0", "torchao==0.18.0", "torch==2.13.0", "transformers==5.24.0"],
    "torch_prune": STOCK,
    "torchao": ["torchao==0.18.0", *STOCK],
}
OURS = ("smp", "magnitude")


def environment(name: str, envs: Path) -> Path:
    """The peer's interpreter; its environment is made where it isn't there yet."""
    folder = envs / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing {', '.join(PEERS[name])} …", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--only-binary", ":all:", *PEERS[name]], check=True)
        (folder / "ready").touch()
    return python


def peer(name: str, job: dict[str, Any], folder: Path, envs: Path) -> dict[str, Any]:
    """One run of a peer in its environment."""
    python = environment(name, envs)
    file = folder / "job.json"
    file.write_text(json.dumps(job | {"output": str(folder)}), encoding="utf-8")
    with (folder / "log").open("w+", encoding="utf-8", errors="replace") as log:
        command = [python, SCRIPTS / f"with_{name}.py", file]
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
            log.seek(0)
            raise SystemExit(f"{name} failed:\n{log.read()[-3000:]}")
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    found["loads"] = {how: reloaded(python, place, job) for how, place in found.pop("exports").items()}
    return found


def ours(method: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same with smp at its defaults: batches of similar lengths, so a step has less padding than a peer's."""
    flags = {"max_steps": job["steps"], "batch_size": job["batch"], "seed": job["seed"]}
    done = prune(TASK, method, job["sparsity"], output=folder, precision="fp32", evaluations=1, **flags)
    place = export(done.path, "hf", output=folder / "export").path
    result = done.result
    return {
        "accuracy": result.metrics["accuracy"],
        "kept": result.weights.kept,
        "prunable": result.weights.prunable,
        "seconds_per_step": result.training.seconds_per_step,
        "loads": {"smp export --format hf": reloaded(Path(sys.executable), str(place), job)},
        "versions": {"smp": result.environment.smp, "torch": result.environment.torch},
    }


def reloaded(python: Path, place: str, job: dict[str, Any]) -> dict[str, Any]:
    command = [python, SCRIPTS / "reload.py", place, job["data"]]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_data(path: Path) -> Path:
    """The task's rows as our loader gives them, for all to read."""
    task = find_task(TASK)
    data = load_data(task, None)
    sets = {"train": data.train, "dev": data.dev["dev"]}
    rows = {name: list(zip(part.texts, part.labels, strict=True)) for name, part in sets.items()}  # type: ignore[union-attr]
    path.write_text(json.dumps(rows | {"max_length": task.max_length}), encoding="utf-8")
    return path


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown, seeds averaged."""
    lines = [
        "| | sparsity | accuracy % | seeds | kept | s a step | what loads: accuracy %, kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["name"], row["sparsity"]) for row in rows):
        group = [row for row in rows if (row["name"], row["sparsity"]) == key]
        values = [100 * row["accuracy"] for row in group]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        kept = " ".join(dict.fromkeys(f"{row['kept'] / row['prunable']:.4%} ({row['kept']:,})" for row in group))
        loads = "; ".join(f"{how}: {loaded(group, how)}" for how in group[0]["loads"])
        step = statistics.median(row["seconds_per_step"] for row in group)
        accuracy = f"{statistics.mean(values):.2f}{spread}"
        lines.append(f"| {key[0]} | {key[1]} | {accuracy} | {len(group)} | {kept} | {step:.3f} | {loads} |")
    return lines


def loaded(group: list[dict[str, Any]], how: str) -> str:
    answers = [row["loads"][how] for row in group]
    if errors := [answer["error"] for answer in answers if "error" in answer]:
        return str(errors[0])[:80]
    same = all(answer["accuracy"] == row["accuracy"] for answer, row in zip(answers, group, strict=True))
    mean = 100 * statistics.mean(answer["accuracy"] for answer in answers)
    return f"{mean:.2f}{' (the same)' if same else ''}, {answers[0]['kept'] / group[0]['prunable']:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--ours", nargs="*", default=list(OURS), help="our methods")
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.9])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--lr", type=float, default=5e-4, help="the peers' peak learning rate")
    parser.add_argument("--envs", type=Path, help="folder of the environments, kept")
    parser.add_argument("--json", type=Path, help="file that gets every run")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        envs = options.envs or Path(temporary) / "envs"
        data = write_data(Path(temporary) / "data.json")
        names = [*options.ours, *options.peers]
        for number, (seed, sparsity, name) in enumerate(product(options.seeds, options.sparsity, names)):
            folder = Path(temporary) / f"run-{number}"
            folder.mkdir()
            job = {"data": str(data), "model": model_path("minilm"), "dropout": 0.0, "lr": options.lr, "seed": seed}
            job |= {"sparsity": sparsity, "steps": options.steps, "batch": options.batch}
            found = ours(name, job, folder) if name in options.ours else peer(name, job, folder, envs)
            rows.append({"name": name, "sparsity": sparsity, "seed": seed, **found})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"{TASK}, {options.steps} steps of {options.batch}, peers' learning rate {options.lr:g}\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
