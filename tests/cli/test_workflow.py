"""From `smp prune` to an exported model, through the command line as a person uses it."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
import pty
import re
import shutil
import statistics
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commandline import PRUNABLE, SHORT, Smp, listing, make_run, packed_masks, printed, result_of, run_process
from safetensors.numpy import load_file

import smpcli
from smpcli.errors import UserError

MATRICES = re.compile(
    r"encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)"
    r"\.weight$"
)


# -- prune ---------------------------------------------------------------------------------------------------


def test_a_run_in_a_process_of_its_own(real_smp: Smp, on_pico: list[str], finished: Path, tmp_path: Path) -> None:
    """stdout says what came out, stderr how it went; the mask is, to the byte, that of another process."""
    done = real_smp("prune", "--method", "smp", "--sparsity", "0.9", *on_pico, cwd=tmp_path).ok()

    (run,) = (tmp_path / "results").iterdir()
    result = result_of(run)
    lines = done.out.splitlines()
    assert lines[-1] == f"results/{run.name}"
    assert f"accuracy {result['metrics']['accuracy']:.4f}" in lines[0]
    assert f"{PRUNABLE // 10:,} of {PRUNABLE:,} prunable weights remain" in lines[1]

    first, *talk = done.err.splitlines()
    # One thread is what OMP_NUM_THREADS leaves; the precision is the hardware's choice, and recorded.
    precision = yaml.safe_load((run / "settings.yaml").read_text())["precision"]
    assert first.startswith(f"device {result['environment']['device']}")
    assert first.endswith(f", precision {precision} (auto), 1 thread")
    assert [line for line in talk if line.endswith(" …")] == ["data …", "model …", "training …", "saving …"]
    assert any(
        re.fullmatch(r"needs up to [\d.]+ MB of disk while it runs; [\d.]+ [kMG]B are free", line) for line in talk
    )
    taken = next(line for line in talk if line.startswith("sentiment.csv: "))
    train = result["data"]["labels"]["train"]
    counts = ", ".join(f"{name} ({train[name]})" for name in sorted(train, key=train.__getitem__, reverse=True))
    assert taken == f"sentiment.csv: text 'text' -> label 'label', 2 classes: {counts}"
    steps = [line for line in talk if line.startswith("step ")]
    assert steps and all(
        re.fullmatch(r"step \d/6  density \d\.\d{3}  loss \d+\.\d{3}(  \w+ \d\.\d{4})*  ETA \d+:\d\d", line)
        for line in steps
    )
    assert "accuracy" in steps[-1] and "step 6/6  density 0.100" in steps[-1]
    assert "\x1b" not in done.err + done.out and "\r" not in done.err

    assert sorted(path.name for path in run.iterdir()) == [
        "head.safetensors",
        "mask.safetensors",
        "metrics.jsonl",
        "predictions.jsonl",
        "result.json",
        "settings.yaml",
    ]
    assert (run / "mask.safetensors").read_bytes() == (finished / "mask.safetensors").read_bytes()
    assert result["metrics"] == result_of(finished)["metrics"]


@pytest.mark.parametrize("method", ["smp", "movement", "soft-movement", "magnitude"])
@pytest.mark.parametrize("sparsity", ["0.5", "0.97"])
def test_what_remains_is_exact(smp: Smp, on_pico: list[str], tmp_path: Path, method: str, sparsity: str) -> None:
    result = smp("prune", "--method", method, "--sparsity", sparsity, *on_pico, "--output", tmp_path, "--json").json
    kept = {"0.5": PRUNABLE // 2, "0.97": PRUNABLE * 3 // 100}[sparsity]
    assert result["weights"]["kept"] == kept
    assert result["weights"]["prunable"] == PRUNABLE
    assert result["run"]["remaining"] == kept / PRUNABLE
    (run,) = tmp_path.iterdir()
    assert sum(int(mask.sum()) for mask in packed_masks(run / "mask.safetensors").values()) == kept
    assert result == result_of(run)


def test_a_live_bar_on_a_terminal(on_pico: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    """Phase, step, density, loss, metric and ETA fit into the 80 columns of a usual terminal; no plain lines."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "smpcli", "prune", "--method", "smp", *on_pico],
        cwd=tmp_path,
        env=environment | {"TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.stdout is not None
    with process.stdout:
        out = process.stdout.read().decode()
    assert process.wait(timeout=60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "\x1b[" in seen.decode() and "━" in text
    frames = [line for line in re.split(r"[\r\n]+", text) if "step" in line]
    assert re.search(r"step 6/6 .*density 0\.100 .*loss \d+\.\d+ .*accuracy \d\.\d+ .*ETA \d+:\d\d", frames[-1])
    # Nothing is cut to make room.
    assert not [frame for frame in frames if "…" in frame]
    assert "training" in text and "training …" not in text
    assert out.splitlines()[-1].startswith("results/")


def test_quiet_prints_the_path_and_nothing_else(real_smp: Smp, on_pico: list[str], tmp_path: Path) -> None:
    done = real_smp("finetune", *on_pico, "--quiet", cwd=tmp_path).ok()
    (run,) = (tmp_path / "results").iterdir()
    assert done.out == f"results/{run.name}\n"
    assert done.err == ""


def test_the_same_command_again_is_refused(smp: Smp, on_pico: list[str], tmp_path: Path) -> None:
    command = ["prune", "--method", "smp", "--sparsity", "0.8", *on_pico, "--output", str(tmp_path)]
    smp(*command).ok()
    (run,) = tmp_path.iterdir()
    mask = (run / "mask.safetensors").read_bytes()
    before = listing(tmp_path)

    again = smp(*command)
    assert again.code == 2
    assert "--overwrite" in again.err and "--output" in again.err
    assert listing(tmp_path) == before

    smp(*command, "--overwrite").ok()
    assert listing(tmp_path) != before
    assert [path.name for path in tmp_path.iterdir()] == [run.name]
    assert (run / "mask.safetensors").read_bytes() == mask
    # Another seed is another run beside it.
    smp(*command, "--seed", "1").ok()
    assert len(list(tmp_path.iterdir())) == 2


def test_settings_of_a_run_are_a_recipe_that_repeats_it(smp: Smp, finished: Path, tmp_path: Path) -> None:
    smp("prune", "--recipe", finished / "settings.yaml", "--output", tmp_path).ok()
    (again,) = tmp_path.iterdir()
    assert again.name == finished.name
    for name in ("mask.safetensors", "head.safetensors", "predictions.jsonl", "settings.yaml"):
        assert (again / name).read_bytes() == (finished / name).read_bytes()


def test_finetune_is_the_dense_run(smp: Smp, on_pico: list[str], dense: Path, tmp_path: Path) -> None:
    result = smp("prune", "--method", "dense", *on_pico, "--output", tmp_path, "--json").json
    assert result["run"]["id"] == dense.name
    assert result["metrics"] == result_of(dense)["metrics"]
    assert result["run"]["method"] == "dense" and result["run"]["sparsity"] == 0
    assert result["weights"]["kept"] == result["weights"]["prunable"] == PRUNABLE
    assert result["weights"]["trained"] == result["weights"]["total"]
    assert not (tmp_path / dense.name / "mask.safetensors").exists()


def test_files_given_from_where_one_stands_are_found_from_elsewhere(
    smp: Smp, pico: Callable[[str], Path], sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(sentiment.csv, tmp_path / "mine.csv")
    shutil.copytree(pico("bert"), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    smp("prune", "--task", "mine.csv", "--model", "./model", *SHORT).ok()
    (run,) = (tmp_path / "results").iterdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert smp("eval", f"../results/{run.name}", "--json").json["agrees"]


def test_a_data_folder_by_flag_or_variable(
    smp: Smp,
    pico: Callable[[str], Path],
    sentiment: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: None,
) -> None:
    """The original files' layout, read instead of the hub; `eval` finds them where they are now."""
    folder = tmp_path / "glue" / "SST-2"
    folder.mkdir(parents=True)
    rows = [f"{text}\t{int(label == 'positive')}\n" for text, label in sentiment.rows]
    (folder / "train.tsv").write_text("sentence\tlabel\n" + "".join(rows[:200]), encoding="utf-8")
    (folder / "dev.tsv").write_text("sentence\tlabel\n" + "".join(rows[200:]), encoding="utf-8")
    command = ["prune", "--task", "sst2", "--model", str(pico("bert")), *SHORT, "--json"]
    by_flag = smp(*command, "--data-dir", folder.parent, "--output", tmp_path / "flag").json
    assert by_flag["data"]["train"] == 200 and by_flag["data"]["dev"] == {"dev": len(rows) - 200}

    monkeypatch.setenv("SMP_DATA_DIR", str(folder.parent))
    by_variable = smp(*command, "--output", tmp_path / "variable").json
    assert by_variable["data"] == by_flag["data"] and by_variable["metrics"] == by_flag["metrics"]
    monkeypatch.delenv("SMP_DATA_DIR")

    folder.parent.rename(tmp_path / "moved")
    (run,) = (tmp_path / "flag").iterdir()
    refused = smp("eval", run)
    assert refused.code == 2 and "--data-dir" in refused.err
    assert smp("eval", run, "--data-dir", tmp_path / "moved", "--json").json["agrees"]


def test_an_interrupted_run_is_unfinished_and_can_be_repeated(
    smp: Smp, on_pico: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    command = ["prune", "--method", "smp", *on_pico, "--output", str(tmp_path)]
    with monkeypatch.context() as patched:
        patched.setattr("smpcli.training.result.make_result", interrupt)
        done = smp(*command, "--quiet")
    assert done.code == 130 and done.out == ""
    assert done.err.startswith("error: interrupted") and done.err.count("\n") == 1

    done = smp("compare", tmp_path, "--json")
    compared = json.loads(done.out)
    assert done.code == 2 and compared["rows"] == []
    (problem,) = compared["problems"]
    assert "unfinished" in problem["reason"]
    smp(*command).ok()
    assert len(smp("compare", tmp_path, "--json").json["rows"]) == 1


# -- dry run -------------------------------------------------------------------------------------------------


def test_a_dry_run_foretells_the_run(
    smp: Smp, on_pico: list[str], finished: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run, command in ((finished, ["prune", "--method", "smp", "--sparsity", "0.9"]), (dense, ["finetune"])):
        plan = smp(*command, *on_pico, "--dry-run", "--json").json
        result = result_of(run)
        assert plan["steps"] == result["training"]["steps"] == 6
        assert plan["compute"]["device"] == result["environment"]["device"]
        assert plan["compute"]["threads"] == result["environment"]["threads"]
        assert plan["compute"]["precision"] == yaml.safe_load((run / "settings.yaml").read_text())["precision"]
        assert plan["train_examples"] == result["data"]["train"]
        assert plan["dev_examples"] == result["data"]["dev"]["dev"]
        weights = result["weights"]
        assert plan["total_weights"] == weights["total"]
        assert plan["prunable_weights"] == weights["prunable"]
        assert plan["kept_weights"] == weights["kept"]
        assert plan["trained_weights"] == weights["trained"]
        assert plan["memory_bytes"] > 4 * weights["total"]
        done = yaml.safe_load((run / "settings.yaml").read_text(encoding="utf-8"))
        assert {key: value for key, value in plan["settings"].items() if key != "precision"} == {
            key: value for key, value in done.items() if key != "precision"
        }
    assert listing(tmp_path) == []


def test_a_dry_run_of_the_embedded_model_needs_no_network(
    smp: Smp, no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MiniLM: 6 blocks, 384 wide, 1536 inside; movies: 9,039 sentences, 4 epochs, batches of 64."""
    monkeypatch.chdir(tmp_path)
    done = smp("prune", "--method", "smp", "--task", "movies", "--sparsity", "0.9", "--dry-run").ok()
    figures = dict(re.findall(r"^ *(\w+ (?:weights|examples|bytes)|steps) {2,}(.*?) *$", done.out, re.MULTILINE))
    prunable = 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    assert figures["prunable weights"] == f"{prunable:,}"
    assert figures["kept weights"] == f"{prunable // 10:,}"
    assert figures["trained weights"] == "0"
    assert figures["steps"] == f"{4 * -(-9039 // 64):,}"
    assert re.fullmatch(r"about [\d,]+ MiB", figures["memory bytes"])
    assert re.search(r"^ *compute +device \S+.*, precision (bf16|fp32) \(auto\), \d+ thr", done.out, re.MULTILINE)
    assert re.search(r"^ *init +activation *$", done.out, re.MULTILINE)
    assert done.err == ""
    assert listing(tmp_path) == []


# Comes before anything else in a process: whatever reaches for the network ends it.
CUT_OFF = """
import os, socket
def refuse(*args, **named):
    os.write(2, f"reached for {args[-2:]}".encode())
    os._exit(77)
socket.socket.connect = socket.getaddrinfo = refuse
"""


def test_a_dry_run_of_what_is_on_the_hub_downloads_nothing(real_smp: Smp, tmp_path: Path) -> None:
    (tmp_path / "cut_off").mkdir()
    (tmp_path / "cut_off" / "sitecustomize.py").write_text(CUT_OFF, encoding="utf-8")
    (tmp_path / "here").mkdir()
    # Told to be offline, the hub's client wouldn't even try.
    env = {"HF_HUB_OFFLINE": "0", "PYTHONPATH": str(tmp_path / "cut_off")}
    command = ["prune", "--task", "sst2", "--model", "nobody/no-such-model", "--dry-run"]
    plan = real_smp(*command, "--json", cwd=tmp_path / "here", env=env).json
    assert plan["train_examples"] == 67_349 and plan["dev_examples"] == 872
    assert plan["steps"] == 2 * -(-67_349 // 64)
    assert plan["prunable_weights"] is None and plan["memory_bytes"] is None
    text = real_smp(*command, cwd=tmp_path / "here").ok().out
    assert re.search(r"prunable weights +not known before the download", text)
    assert listing(tmp_path / "here") == []


def test_what_wins_where_settings_are_given_more_than_once(smp: Smp, sentiment: Any, tmp_path: Path) -> None:
    task = tmp_path / "own.yaml"
    own = yaml.safe_load(sentiment.words.read_text(encoding="utf-8"))
    own["source"] = {"file": str(sentiment.csv)}
    own["defaults"] = {"batch_size": 4, "epochs": 3}
    task.write_text(yaml.safe_dump(own), encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("batch_size: 5\nseed: 5\nmax_steps: 50\n", encoding="utf-8")

    def settings(*more: str) -> Any:
        return smp("prune", "--task", task, *more, "--dry-run", "--json").json["settings"]

    assert settings()["batch_size"] == 4
    assert settings("--recipe", str(recipe))["batch_size"] == 5
    assert settings("--recipe", str(recipe), "--set", "batch_size=6")["batch_size"] == 6
    assert settings("--recipe", str(recipe), "--set", "batch_size=6", "--batch-size", "7")["batch_size"] == 7
    assert settings("--batch-size", "7", "--set", "batch-size=6")["batch_size"] == 7
    # A length by steps and one by epochs exclude each other: the one that was said last stands alone.
    lengths = {key: settings()[key] for key in ("epochs", "max_steps")}
    assert lengths == {"epochs": 3, "max_steps": None}
    by_recipe = settings("--recipe", str(recipe))
    assert (by_recipe["epochs"], by_recipe["max_steps"], by_recipe["seed"]) == (None, 50, 5)
    by_flag = settings("--recipe", str(recipe), "--epochs", "2")
    assert (by_flag["epochs"], by_flag["max_steps"]) == (2, None)


# -- eval, compare -------------------------------------------------------------------------------------------


def test_eval_in_a_new_process_agrees_to_the_last_digit(real_smp: Smp, finished: Path) -> None:
    done = real_smp("eval", finished).ok()
    recorded = result_of(finished)["metrics"]
    assert done.out == "".join(f"{name} {value!r}\n" for name, value in recorded.items())
    predicted = {json.loads(line)["prediction"] for line in (finished / "predictions.jsonl").read_text().splitlines()}
    *warnings, agrees = done.err.splitlines()
    assert agrees == "agrees with result.json to the last digit"
    assert len(warnings) == (len(predicted) == 1) and all("predicts one class only" in line for line in warnings)


def test_eval_of_every_kind_of_run(smp: Smp, worded: Path, dense: Path) -> None:
    for run in (worded, dense):
        found = smp("eval", run, "--json").json
        assert found["agrees"] is True
        assert found["metrics"] == found["recorded"] == result_of(run)["metrics"]


def test_eval_that_disagrees_says_so(smp: Smp, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    result = result_of(run)
    result["metrics"]["accuracy"] = 0.123
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    done = smp("eval", run)
    assert done.code != 0
    *_, line = done.err.splitlines()
    assert line.startswith("error: ") and "0.123" in line and str(run) in line
    assert smp("eval", run, "--json").code == done.code


def test_compare(smp: Smp, on_pico: list[str], finished: Path, dense: Path, worded: Path, tmp_path: Path) -> None:
    """Seeds together, other models and heads apart, what is unfinished named; the CSV says the same as the JSON."""
    folder = tmp_path / "results"
    for run in (finished, dense, worded):
        shutil.copytree(run, folder / run.name)
    other_seed = make_run(
        "prune", "--method", "smp", "--sparsity", "0.9", *on_pico, "--seed", "1", "--output", folder
    )
    (folder / "stopped").mkdir()
    (folder / "stopped" / "settings.yaml").write_text("method: smp\n", encoding="utf-8")

    found = smp("compare", folder, "--json").json
    (problem,) = found["problems"]
    assert problem["path"].endswith("stopped") and "unfinished" in problem["reason"]
    rows = {(row["head"], row["method"]): row for row in found["rows"]}
    assert sorted(rows) == [("prototype", "dense"), ("prototype", "smp"), ("words", "smp")]
    values = [result_of(finished)["metrics"]["accuracy"], result_of(other_seed)["metrics"]["accuracy"]]
    row = rows["prototype", "smp"]
    assert row["seeds"] == [0, 1] and row["n"] == 2
    assert row["mean"] == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert row["std"] == pytest.approx(statistics.stdev(values), abs=1e-12)
    baseline = result_of(dense)["metrics"]["accuracy"]
    assert row["difference"] == pytest.approx(statistics.fmean(values) - baseline, abs=1e-12)
    assert row["trained"] == 0 and rows["prototype", "dense"]["trained"] > PRUNABLE
    assert rows["words", "smp"]["difference"] is None

    with (folder / "comparison.csv").open(encoding="utf-8", newline="") as file:
        written = {(line["head"], line["method"]): line for line in csv.DictReader(file)}
    assert written.keys() == rows.keys()
    for key, line in written.items():
        for name in ("sparsity", "remaining", "mean", "task_bytes", "seconds"):
            assert float(line[name]) == rows[key][name]

    target = tmp_path / "elsewhere.csv"
    shown = smp("compare", folder, "--csv", target).ok()
    assert target.read_bytes() == (folder / "comparison.csv").read_bytes()
    assert str(target) in shown.err
    for text in ("method", "sparsity", "remaining", "seeds", "dense", "smp", "stopped", "unfinished", "90 %"):
        assert text in shown.out
    assert smp("compare", folder, "--quiet").ok().err == ""


# -- export --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exports(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `smp export --json` says of the finished run's stock folder and of its mask, both where exports go.

    Paths are made absolute; tests only read them.
    """
    folder = tmp_path_factory.mktemp("exported")
    made = {}
    for kind, suffix in (("hf", "-hf"), ("mask", ".smpmask")):
        with contextlib.chdir(folder):
            made[kind] = json.loads(printed("export", finished, "--format", kind, "--json"))
        assert made[kind]["path"] == f"exports/{finished.name}{suffix}" and made[kind]["format"] == kind
        made[kind]["path"] = str(folder / made[kind]["path"])
    return made


# Without smp: the base model with the run's own head and masks put in place by hand, and the exported folder.
FOREIGN = """
import json, sys
sys.modules["smpcli"] = sys.modules["pruners"] = None  # importing either raises ImportError
import numpy as np, torch, transformers
from safetensors import safe_open
from safetensors.torch import load_file
found = {}
for name, task in json.loads(sys.argv[1]).items():
    kind = getattr(transformers, task["class"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(task["export"])
    inputs = tokenizer(task["texts"], padding=True, truncation=True, max_length=24, return_tensors="pt")
    exported = kind.from_pretrained(task["export"]).eval()
    base = kind.from_pretrained(task["base"]).eval()
    parameters = dict(base.named_parameters())
    with torch.no_grad():
        for key, tensor in (load_file(task["head"]) if task["head"] else {}).items():
            parameters[key].copy_(tensor)
        with safe_open(task["mask"], framework="numpy") as file:
            for key, shape in json.loads(file.metadata()["smp"])["shapes"].items():
                bits = np.unpackbits(file.get_tensor(key))[: int(np.prod(shape))].reshape(shape)
                parameters[key + ".weight"].mul_(torch.from_numpy(bits.copy()))
        logits, wanted = exported(**inputs).logits, base(**inputs).logits
    if task["words"]:
        ids = tokenizer.convert_tokens_to_ids(task["words"])
        logits, wanted = logits[:, 0, ids], wanted[:, 0, ids]
    found[name] = {
        "difference": float((logits - wanted).abs().max()),
        "spread": float(wanted.std()),
        "predictions": logits.argmax(1).tolist(),
        "labels": exported.config.id2label if not task["words"] else {},
    }
print(json.dumps(found))
"""


def test_the_hf_export_is_a_stock_model(
    smp: Smp,
    finished: Path,
    exports: dict[str, Any],
    worded: Path,
    pico: Callable[[str], Path],
    sentiment: Any,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    tasks = {}
    stock = smp("export", worded, "--format", "hf", "--output", tmp_path / "stock", "--json").json
    assert stock["path"] == str(tmp_path / "stock") and stock["format"] == "hf"
    texts = [text for text, _ in sentiment.rows[:40]]
    for run, model, made in ((finished, "bert", exports["hf"]), (worded, "bert-mlm", stock)):
        folder = Path(made["path"])
        assert made["max_difference"] <= 1e-5
        assert made["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
        head = run / "head.safetensors"
        tasks[model] = {
            "class": "AutoModelForMaskedLM" if model == "bert-mlm" else "AutoModelForSequenceClassification",
            "export": str(folder),
            "base": str(pico(model)),
            "head": str(head) if head.exists() else None,
            "mask": str(run / "mask.safetensors"),
            "words": ["terrible", "great"] if model == "bert-mlm" else None,
            "texts": texts,
        }
        # Counted anew from the weights that a stranger gets.
        weights = load_file(folder / "model.safetensors")
        matrices = [tensor for name, tensor in weights.items() if MATRICES.search(name)]
        assert sum(tensor.size for tensor in matrices) == PRUNABLE
        assert sum(np.count_nonzero(tensor) for tensor in matrices) == PRUNABLE // 10

    done = run_process([sys.executable, "-c", FOREIGN, json.dumps(tasks)], tmp_path, environment).ok()
    found = json.loads(done.out)
    for model in tasks:
        assert found[model]["difference"] <= 1e-5
        assert found[model]["spread"] > 1e-3
    assert found["bert"]["labels"] == {"0": "negative", "1": "positive"}


def test_the_export_of_trained_weights_predicts_as_the_run_did(
    smp: Smp, on_pico: list[str], pico: Callable[[str], Path], sentiment: Any, tmp_path: Path
) -> None:
    """A method that trains weights: the folder holds them, the mask format refuses."""
    import transformers

    run = make_run("prune", "--method", "movement", "--sparsity", "0.5", *on_pico, "--output", tmp_path / "results")
    refused = smp("export", run, "--format", "mask", "--output", tmp_path / "m.smpmask")
    assert refused.code == 2 and "--format hf" in refused.err and not (tmp_path / "m.smpmask").exists()
    talk = smp("export", run, "--output", tmp_path / "hf").ok()
    assert talk.out == f"{tmp_path / 'hf'}\n"
    assert "largest logit difference" in talk.err

    weights = load_file(tmp_path / "hf" / "model.safetensors")
    assert sum(np.count_nonzero(tensor) for name, tensor in weights.items() if MATRICES.search(name)) == PRUNABLE // 2
    base = load_file(pico("bert") / "model.safetensors")
    assert not np.array_equal(
        weights["bert.encoder.layer.0.output.dense.bias"], base["encoder.layer.0.output.dense.bias"]
    )

    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    from smpcli.tasks.data import load_data
    from smpcli.tasks.task import find_task

    dev = load_data(find_task(str(sentiment.csv)), None).dev["dev"]
    inputs = tokenizer(dev.texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
    assert model(**inputs).logits.argmax(1).tolist() == [row["prediction"] for row in rows]


def test_the_mask_export_is_one_small_file(finished: Path, exports: dict[str, Any]) -> None:
    made = exports["mask"]
    file = Path(made["path"])
    assert made["max_difference"] <= 1e-5
    assert made["bytes"] == file.stat().st_size
    assert sorted(path.name for path in file.parent.iterdir()) == [f"{finished.name}-hf", file.name]
    # Less than one bit a weight, the head, and what describes them.
    head = load_file(finished / "head.safetensors")
    assert made["bytes"] < PRUNABLE / 8 + sum(tensor.nbytes for tensor in head.values()) + 4096
    masks, expected = packed_masks(file), packed_masks(finished / "mask.safetensors")
    assert masks.keys() == expected.keys()
    assert all(np.array_equal(masks[name], expected[name]) for name in expected)
    stored = load_file(file)
    assert stored.keys() == masks.keys() | head.keys()
    assert all(np.array_equal(stored[name], head[name]) for name in head)


@pytest.mark.parametrize("kind", ["hf", "mask"])
def test_an_export_is_replaced_when_asked_and_nothing_else_ever(
    smp: Smp, finished: Path, exports: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    made = Path(exports[kind]["path"])
    shutil.copytree(made.parent, "exports")
    before = listing(tmp_path)
    refused = smp("export", finished, "--format", kind)
    assert refused.code == 2 and "--overwrite" in refused.err and listing(tmp_path) == before
    assert smp("export", finished, "--format", kind, "--overwrite", "--quiet").ok().out == f"exports/{made.name}\n"
    assert [name for name, *_ in listing(tmp_path)] == [name for name, *_ in before]
    assert listing(tmp_path) != before

    # --overwrite replaces an export, not whatever is there.
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work", encoding="utf-8")
    before = listing(tmp_path)
    for place in ("thesis", "run", "."):
        done = smp("export", finished, "--format", kind, "--output", place, "--overwrite")
        assert done.code == 2, f"--output {place}: exit code {done.code}"
        assert done.err.startswith("error: ") and done.err.count("\n") == 1 and "--output" in done.err
        assert listing(tmp_path) == before


# -- machine-readable, and from Python -----------------------------------------------------------------------


def test_listings_as_json_and_as_text(smp: Smp) -> None:
    for command, name in (("methods", "smp"), ("tasks", "sst2"), ("recipes", "smp-paper")):
        assert name in [entry["name"] for entry in smp(command, "--json").json]
        text = smp(command).ok()
        assert re.search(rf"^ *{name} ", text.out, re.MULTILINE) and text.err == ""
    about = smp("methods", "smp", "--json").json
    assert "2210.06210" in about["paper"]
    settings = {entry["name"]: entry for entry in [*about["settings"], *about["common_settings"]]}
    assert {"init", "factored", "penalty", "sparsity", "seed", "epochs"} <= settings.keys()
    assert all(entry["help"] for entry in settings.values())
    shown = smp("methods", "smp").ok().out
    assert "2210.06210" in shown and all(name in shown for name in settings)


def test_the_same_from_python(
    on_pico: list[str],
    finished: Path,
    pico: Callable[[str], Path],
    sentiment: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Names as on the command line; objects come back and nothing is printed."""
    from smpcli import compare, evaluate, export, finetune, plan, prune

    named: dict[str, Any] = {"model": pico("bert"), "max_steps": 6, "batch_size": 8}
    named |= {"max_length": 24, "evaluations": 2}
    capfd.readouterr()
    planned = plan(sentiment.csv, "smp", 0.9, **named)
    assert (planned.steps, planned.prunable_weights) == (6, PRUNABLE)
    run = prune(task=str(sentiment.csv), method="smp", sparsity=0.9, output=tmp_path, **named)
    assert run.path == tmp_path / finished.name
    assert run.result.metrics == result_of(finished)["metrics"]
    assert run.result.weights.kept == PRUNABLE // 10
    assert finetune(task=str(sentiment.csv), output=tmp_path, **named).result.run.method == "dense"
    assert evaluate(run.path).agrees
    frame = compare(tmp_path).to_frame()
    assert sorted(frame["method"]) == ["dense", "smp"]
    made = export(run.path, "mask", output=tmp_path / "task.smpmask")
    assert made.path.is_file() and made.max_difference <= 1e-5
    with pytest.raises(UserError, match="did you mean 'smp'"):
        prune(task="movies", method="smpp")
    assert not any(capfd.readouterr())
    assert {"prune", "compare"} <= set(smpcli.__all__)


FRESH = """
import sys
from pathlib import Path
from smpcli import compare, evaluate, export, prune
import smpcli
run = prune(sys.argv[1], model=sys.argv[2], max_steps=2, max_length=24, output="results")
assert evaluate(run.path).agrees
for name in ("one", "two"):
    smpcli.export(run.path, "mask", output=name)
assert Path("one").read_bytes() == Path("two").read_bytes()
assert len(compare("results").rows) == 1
"""


def test_from_python_nothing_is_printed(
    pico: Callable[[str], Path], sentiment: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    """In a process that `main` has not set up, as in a notebook; and each function can be called twice."""
    done = run_process([sys.executable, "-c", FRESH, sentiment.csv, pico("bert")], tmp_path, environment).ok()
    assert (done.out, done.err) == ("", "")


HEAVY = {"torch", "transformers", "datasets", "pandas", "numpy", "accelerate", "sklearn", "scipy", "safetensors"}
# typer's rich help takes a Markdown parser and a formatter of tracebacks, and no command needs those.
RICH_HELP = {"markdown_it", "pygments", "rich.markdown", "rich.traceback", "typer.rich_utils"}
# What reads settings and YAML; what lists things, and shows them as tables.
SETTINGS = {"smpcli.settings", "smpcli.yaml_text", "smpcli.tasks", "yaml", "ruamel", "filelock"}
SHOWN = {"rich", "smpcli.catalogue"}
# typer takes pydantic for a command's options, even where none is given.
OPTIONS = {"pydantic", "importlib.metadata"}


def needless(command: list[str]) -> set[str]:
    """What a command has no business to import, by names of modules."""
    if command == ["--help"]:
        return HEAVY | RICH_HELP | SETTINGS | SHOWN | OPTIONS
    if "--help" in command:
        return HEAVY | RICH_HELP | SETTINGS | SHOWN
    return HEAVY | RICH_HELP | (SETTINGS if "methods" in command else set())


LIGHT = [
    ["--help"],
    ["--version"],
    ["prune", "--help"],
    ["export", "--help"],
    ["compare", "--help"],
    ["inspect", "--help"],
    ["methods"],
    ["methods", "--json"],
    ["tasks"],
    ["recipes"],
    ["prune", "--method", "smpp", "--task", "movies"],
    ["prune", "--task", "movies", "--sparsity", "2"],
]
IMPORTS = """
import sys
from smpcli.main import main
sys.argv = ["smp", *sys.argv[1:]]
try:
    main()
finally:
    sys.stdout.flush()
    print("\\n", *sorted(sys.modules))
"""


@pytest.mark.parametrize("command", LIGHT, ids=" ".join)
def test_what_only_lists_or_refuses_imports_nothing_heavy(
    command: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    done = run_process([sys.executable, "-c", IMPORTS, *command], tmp_path, environment)
    imported = set(done.out.splitlines()[-1].split())
    assert "smpcli.main" in imported and "typer" in imported
    assert needless(command) & imported == set()
    # Without a run to show, even the tables' library has no business in an error.
    assert done.code == (2 if command[-1] in ("movies", "2") else 0)
