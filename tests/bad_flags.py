"""Wrong invocations of sweep, reproduce, inspect, doctor, bench, predict, eval --mask, compare and export.

Each is (line, *what the message says). The files that they name are made by `make`.
"""

from __future__ import annotations

import json
from pathlib import Path

GOOD = "sweep {bad}/sweep-good.yaml"
OWN = "prune --task {csv} --model {bert}"
MASK = "eval --task {bad}/sweep-worded.yaml --model {mlm} --mask"

CASES: list[tuple[str, ...]] = [
    # -- sweep
    ("sweep {bad}/none.yaml", "there is no file", "none.yaml"),
    ("sweep nosuch", "unknown sweep 'nosuch'", "`smp sweep`"),
    ("sweep quik", "did you mean 'quick'?"),
    ("sweep {csv}", "unknown sweep", ".yaml"),
    ("sweep {bad}/broken.yaml", "broken YAML", "line 3"),
    ("sweep {bad}/bomb.yaml", "broken YAML", "aliases"),
    ("sweep {bad}/deep.yaml", "broken YAML", "nested deeper"),
    ("sweep {bad}/list.yaml", "key: value"),
    ("sweep {bad}/sweep-key.yaml", "unknown key", "'sparsity'", "did you mean 'sparsities'?"),
    ("sweep {bad}/sweep-nomethods.yaml", "methods", "missing"),
    ("sweep {bad}/sweep-method.yaml", "unknown method 'smpp'", "did you mean 'smp'?"),
    ("sweep {bad}/sweep-task.yaml", "unknown task 'zebra'", "`smp tasks`"),
    ("sweep {bad}/sweep-sparsity.yaml", "sparsities.1", "less than 1"),
    ("sweep {bad}/sweep-seed.yaml", "seeds.0", "integer"),
    ("sweep {bad}/sweep-setting.yaml", "unknown setting 'max_stepz'", "did you mean 'max_steps'?"),
    ("sweep {bad}/sweep-axis.yaml", "'seed' has a place of its own", "seeds"),
    ("sweep {bad}/sweep-empty.yaml", "'max_steps'", "empty list"),
    ("sweep {bad}/sweep-recipe.yaml", "unknown recipe 'nosuch'"),
    (f"{GOOD} --set sede=1", "unknown setting 'sede'", "did you mean 'seed'?"),
    (f"{GOOD} --set method=smp", "'method' has a place of its own"),
    (f"{GOOD} --set seed", "--set takes key=value"),
    (f"{GOOD} --engine slurm", "unknown engine 'slurm'", "local, pool, ray"),
    (f"{GOOD} --workers 0", "--workers must be at least 1"),
    (f"{GOOD} --workers two", "--workers", "sweep --help"),
    (f"{GOOD} --calibrate", "--calibrate is for --dry-run"),
    (f"{GOOD} --address x", "--address", "--engine ray"),
    (f"{GOOD} --output {{csv}}", "can't write", "is a file", "--output"),
    (f"{GOOD} {{bad}}/sweep-good.yaml", "extra argument", "sweep --help"),
    (f"{GOOD} --resume", "--resume", "sweep --help"),
    (f"{GOOD} --device gpu", "'device'", "not 'gpu'"),
    ("sweep --set seed=1", "no sweep", "`smp sweep`"),
    ("sweep --dry-run", "no sweep", "`smp sweep`"),
    ("sweep ~nobody-of-this-name/x.yaml", "there is no file", "~nobody-of-this-name"),
    # -- reproduce
    ("reproduce mnli-kd-20", "unknown table of the paper 'mnli-kd-20'", "did you mean 'mnli-kd-", "`smp reproduce`"),
    ("reproduce mnli --seeds one", "--seeds", "commas", "not 'one'"),
    ("reproduce mnli --seeds 1,-1", "--seeds", "from 0 up"),
    ("reproduce mnli --seeds 3000000000", "'seed'", "must be below"),
    ("reproduce mnli --max-steps 0", "'max_steps'", "must be at least 1"),
    ("reproduce mnli --workers 0", "--workers must be at least 1"),
    ("reproduce mnli --calibrate", "--calibrate is for --dry-run"),
    ("reproduce mnli --model {bad}/none", "none"),
    ("reproduce mnli --output {csv}", "can't write", "is a file", "--output"),
    ("reproduce --max-steps 5", "no table", "`smp reproduce`"),
    # -- inspect and doctor
    ("inspect", "Missing argument", "inspect --help"),
    ("inspect {bad}/none", "is not there"),
    ("inspect {csv}", "is not a run", "a file"),
    ("inspect {results}", "is not a run but holds", "name one"),
    ("inspect {run} {bad}/none", "is not there"),
    ("inspect {run} {run} {run}", "extra argument", "inspect --help"),
    ("inspect {run} --plot {bad}/x.xlsx", "--plot", ".png, .svg, .pdf"),
    ("inspect {run} --plot {csv}/x.png", "can't write", "--plot"),
    ("inspect {run} --format hf", "--format", "inspect --help"),
    ("inspect {bad}/runs/nomask", "is damaged", "mask.safetensors is missing"),
    ("inspect {bad}/runs/unfinished", "is unfinished"),
    ("inspect {bad}/runs/strangemask", "damaged mask file"),
    ("inspect {bad}/runs/link", "a link that leads out"),
    ("doctor now", "extra argument", "doctor --help"),
    ("doctor --fix", "--fix", "doctor --help"),
    # -- bench
    ("bench", "Missing command", "bench --help"),
    ("bench trane", "Did you mean 'train'", "bench --help"),
    ("bench train smpp", "did you mean 'smp'?"),
    ("bench train smp --batch-size 0", "--batch-size", "train --help"),
    ("bench train smp --length 0", "--length", "train --help"),
    ("bench train smp --sparsity 1", "--sparsity", "train --help"),
    ("bench train smp --rounds 0", "--rounds", "train --help"),
    ("bench train smp --rounds many", "--rounds", "train --help"),
    ("bench train smp --threads 0", "--threads", "train --help"),
    ("bench train smp --precision fp8", "'precision'", "not 'fp8'"),
    ("bench train smp --device gpu", "'device'", "not 'gpu'"),
    ("bench train smp --shape bert-bse", "unknown shape 'bert-bse'", "did you mean 'bert-base'?"),
    ("bench train smp --shape bert-base --model minilm", "--shape", "leave out --model"),
    ("bench infer", "Missing argument", "infer --help"),
    ("bench infer {bad}/none", "not an export that can be timed"),
    ("bench infer {csv}", "not an export that can be timed"),
    ("bench infer {bad}/exports/sparsity", "damaged export", "must be finite numbers"),
    ("bench infer {bad}/exports/metrics", "damaged export", "must be finite numbers"),
    ("bench infer {run} --batches 0", "--batches takes whole numbers", "'0'"),
    ("bench infer {run} --batches a,b", "--batches takes whole numbers", "'a,b'"),
    ("bench infer {run} --lengths 1,", "--lengths takes whole numbers", "'1,'"),
    ("bench infer {run} --lengths -3", "--lengths takes whole numbers", "'-3'"),
    ("bench infer {run} --repeats 0", "--repeats", "infer --help"),
    ("bench infer {run} --threads -1", "--threads", "infer --help"),
    ("bench infer {run} --batch 1", "--batch", "infer --help"),
    # -- predict, and exports that are damaged
    ("predict", "nothing to predict with", "--mask"),
    ("predict {bad}/none text", "there is no run or export"),
    ("predict {csv} text", "neither a run's folder nor an export", "`smp export RUN`"),
    ("predict {results} text", "neither a run's folder nor an export"),
    ("predict {bad}/runs/unfinished text", "is unfinished"),
    ("predict {bad}/runs/nomask text", "mask.safetensors is missing"),
    ("predict {run} text --file {csv}", "--file", "not both"),
    ("predict {run} --file {bad}/none.txt", "can't read", "none.txt"),
    ("predict {run} --file {bad}", "can't read", "directory"),
    ("predict {run} --file {bad}/latin.csv", "line 2", "isn't UTF-8"),
    ("predict --mask {bad}/none.smpmask text", "there is no run or export"),
    ("predict --mask {csv} text", "neither a run's folder nor an export"),
    ("predict --mask {bad}/old.smpmask text", "has version 1 and this smp reads 2", "export it again with"),
    ("predict --mask {bad}/trillion.smpmask text", "damaged mask file", "doesn't fit its 9000 bytes"),
    ("predict {run} text --model ./none", "there is no model folder"),
    ("predict {run} text --format hf", "--format", "predict --help"),
    ("predict {bad}/exports/empty text", "neither a run's folder nor an export"),
    ("predict {bad}/exports/json text", "neither a run's folder nor an export"),
    ("predict {bad}/exports/large text", "neither a run's folder nor an export"),
    ("predict {bad}/exports/version text", "has version 0 and this smp reads 1", "export it again"),
    ("predict {bad}/exports/newer text", "has version 9 and this smp reads 1", "upgrade smp"),
    ("predict {bad}/exports/labels text", "damaged export", "labels don't fit"),
    ("predict {bad}/exports/tensors text", "damaged export", "don't fit each other"),
    ("predict {bad}/exports/onnx text", "damaged export", "onnxruntime can't load it"),
    # -- a mask alone
    (f"{MASK} {{bad}}/none.npy", "there is no mask file"),
    (f"{MASK} {{csv}}", "is not a whole .npy file"),
    (f"{MASK} {{bad}}/cut.npy", "is not a whole .npy file"),
    (f"{MASK} {{bad}}/short.npy", "holds 5 bytes of mask", "--model"),
    (f"{MASK} {{bad}}/floats.npy", "is not a vector of uint8"),
    (f"{MASK} {{bad}}/pickle.npy", "--mask takes a mask as SMP's authors release it"),
    ("eval --mask {bad}/short.npy --task {csv} --model {bert}", "names no label words"),
    ("eval --mask {bad}/short.npy", "--mask needs a --task"),
    ("eval --mask {bad}/short.npy --task zebra", "unknown task 'zebra'"),
    ("eval {run} --mask {bad}/short.npy", "one of the two"),
    ("eval {run} --task sst2", "go with --mask"),
    ("eval {run} --model {bert}", "go with --mask"),
    # -- compare
    ("compare {results} --task zebra", "unknown task 'zebra'"),
    ("compare {results} --method zebra", "unknown method 'zebra'"),
    ("compare {results} --where seed", "--where takes key=value"),
    ("compare {results} --where nosuch=1", "unknown setting or result 'nosuch'"),
    ("compare {results} --metric f2", "no run here has the metric 'f2'"),
    ("compare {results} --format xml", "--format", "compare --help"),
    ("compare {results} --json --format csv", "--json and --format csv are mutually exclusive"),
    ("compare {results} --sort ", "unknown column ''"),
    ("compare {results} --plot {bad}/x.xlsx", "--plot", ".png, .svg, .pdf"),
    ("compare {results} --plot {csv}/x.png", "can't write", "--plot"),
    ("compare {results} --html {csv}/x.html", "can't write", "--html"),
    ("compare {results} --html {bad}", "can't write", "--html"),
    ("compare {csv}/x", "is not there"),
    # -- export
    ("export {run} --precision int8", "--precision int8 is for --format onnx"),
    ("export {run} --precision fp8", "unknown precision 'fp8'"),
    ("export {run} --format onnx --precision bf16", "--precision bf16 is for --format compact"),
    ("export {run} --format hf --drop-rows-below 3", "--drop-rows-below is for --format compact"),
    ("export {run} --format compact --drop-rows-below -1", "--drop-rows-below", "export --help"),
    ("export {run} --format compact --drop-rows-below few", "--drop-rows-below", "export --help"),
    ("export {run} {run}", "extra argument", "export --help"),
    ("export {bad}/exports/empty", "is not a run"),
    # -- newer settings, and what goes with them
    (f"{OWN} --teacher {{run}}", "--teacher", "prune --help"),
    (f"{OWN} --set teacher_weight=0.5", "needs a teacher", "--set teacher=FOLDER"),
    (f"{OWN} --set teacher=./none", "none"),
    (f"{OWN} --set teacher=~nobody-of-this-name/x", "there is no model folder ~nobody-of-this-name/x"),
    ("prune --task {csv} --model ~nobody-of-this-name", "there is no model folder ~nobody-of-this-name"),
    # What can be no id of the hub's, either.
    ("prune --task {csv} --model results/a…", "there is no model folder results/a…"),
    (f"{OWN} --set teacher=results/a…", "there is no model folder results/a…"),
    ("prune --task sst2 --model {bert} --data-dir ~nobody-of-this-name", "no folder", "~nobody-of-this-name"),
    ("prune --task ~nobody-of-this-name/x.csv", "there is no file", "~nobody-of-this-name/x.csv"),
    (f"{OWN} --set teacher={{run}} --set teacher_kl=sideways", "'teacher_kl'", "not 'sideways'"),
    (f"{OWN} --set teacher={{run}} --set teacher_temperature=0", "'teacher_temperature'", "above 0"),
    (f"{OWN} --set stride=8", "'stride' is for span tasks"),
    (f"{OWN} --set structure=0.01", "structure=0.01 has no room"),
    (f"{OWN} --set data_workers=-1", "'data_workers' must be at least 0"),
    (f"{OWN} --set data_workers=many", "'data_workers'", "not 'many'"),
    (f"{OWN} --set bucket_window=0", "'bucket_window' must be at least 1"),
    (f"{OWN} --set micro_batches=half", "'micro_batches'", "not 'half'"),
    (f"{OWN} --track nosuch", "unknown tracker 'nosuch'"),
    (f"{OWN} --set gradient_checkpointing=perhaps", "'gradient_checkpointing'", "not 'perhaps'"),
    ("recipes --path", "--path", "recipes --help"),
    ("methods ../smp", "unknown method '../smp'"),
    ("tasks --json extra", "extra argument", "tasks --help"),
    ("completion bash", "No such command 'completion'", "--help"),
]  # fmt: skip


def make(bad: Path, csv: Path, bert: Path, words: Path) -> None:
    """words: a task YAML that names label words."""
    import numpy as np
    import torch

    from smpcli.runs.maskfile import write_described

    good = f"methods: [smp]\ntasks: [{{task: {csv}, model: {bert}}}]\nsettings: {{max_steps: 2}}\n"
    for name, text in {
        "good": good,
        "key": good + "sparsity: [0.5]\n",
        "nomethods": "tasks: [sst2]\n",
        "method": good.replace("[smp]", "[smpp]"),
        "task": "methods: [smp]\ntasks: [zebra]\n",
        "sparsity": good + "sparsities: [0.5, 90]\n",
        "seed": good + "seeds: [one]\n",
        "setting": good.replace("max_steps", "max_stepz"),
        "axis": good.replace("max_steps: 2", "seed: 2"),
        "empty": good.replace("max_steps: 2", "max_steps: []"),
        "recipe": good + "recipe: nosuch\n",
        "worded": words.read_text(encoding="utf-8").replace("file: ", f"file: {csv.parent}/"),
    }.items():
        (bad / f"sweep-{name}.yaml").write_text(text, encoding="utf-8")
    np.save(bad / "floats.npy", np.zeros(5))
    np.save(bad / "short.npy", np.zeros(5, np.uint8))
    np.save(bad / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    (bad / "cut.npy").write_bytes((bad / "short.npy").read_bytes()[:60])
    for name, version, size, shape in (("old", 1, 2, [3, 3]), ("trillion", 2, 9000, [10**6, 10**6])):
        about = {"format": "smp-task", "version": version, "shapes": {"a": shape}}
        write_described(bad / f"{name}.smpmask", {"a": torch.zeros(size, dtype=torch.uint8)}, about)
    _make_exports(bad / "exports")


def _make_exports(folder: Path) -> None:
    about = {
        "format": "compact", "version": 1, "task": "sst2", "kind": "classification", "labels": ["no", "yes"],
        "pairs": False, "max_length": 64, "stride": None, "head": "prototype", "words": None, "word_ids": None,
        "mask_id": None, "decoder": False, "model": "minilm", "base_digest": "0", "method": "smp",
        "sparsity": 0.9, "remaining": 0.1, "metric": "accuracy", "metrics": {"accuracy": 0.5},
    }  # fmt: skip
    details = {"architecture": {"blocks": [], "activation": "gelu", "epsilon": 1, "head_activation": "tanh"}}
    for name, text in {
        "json": "{",
        "large": " " * 2**20 + json.dumps(about),
        "version": json.dumps(about | {"version": 0}),
        "newer": json.dumps(about | {"version": 9}),
        "labels": json.dumps(about | {"labels": ["no", "no"]}),
        "tensors": json.dumps(about),
        "sparsity": json.dumps(about),
        "metrics": json.dumps(about),
        "onnx": json.dumps(about | {"format": "onnx"}),
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "smp.json").write_text(text, encoding="utf-8")
    (folder / "empty").mkdir()
    for name, more in (
        ("tensors", {}),
        ("sparsity", {"sparsity": "high"}),
        ("metrics", {"metrics": {"accuracy": "x"}}),
    ):
        (folder / name / "compact.json").write_text(json.dumps(details | more), encoding="utf-8")
    (folder / "tensors" / "model.safetensors").write_bytes(b"\xff" * 20)
    (folder / "onnx" / "model.onnx").write_bytes(b"no graph")
