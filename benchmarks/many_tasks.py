"""Memory and switching time of several tasks over one base model against as many fine-tuned copies.

    OMP_NUM_THREADS=1 python benchmarks/many_tasks.py [a.smpmask b.smpmask …] --output many_tasks.json

Without mask files, it makes five with random masks, over the embedded model or (--model bert-base) over a random
model of BERT-base's size. Each side runs in a process of its own, answers one text with every task, and then switches
`--rounds` times. Memory is the process's own ("anonymous": nothing else can use it) and pages of files, which the
system may drop and processes share; the libraries' is taken off. Copies are all in memory, so switching among them
costs nothing; what a new one costs is loading it.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from smpcli import console
from smpcli.modeling.backbone import model_path

TEXT = "A film of rare charm, and a story that stays with you."


def memory() -> dict[str, float]:
    """MiB of this process that are its own, and that are pages of files, each page counted once."""
    status = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    found = dict(re.findall(r"^Pss_(Anon|File):\s+(\d+) kB", status, re.MULTILINE))
    return {"anonymous": int(found["Anon"]) / 1024, "file": int(found["File"]) / 1024}


def touch(model: Any) -> None:
    """Use every weight, as many texts would."""
    for parameter in model.parameters():
        parameter.sum()


def side(kind: str, paths: list[Path], rounds: int) -> dict[str, Any]:
    """Load everything, use every task once, measure."""
    from smpcli import load
    from smpcli.export.many import SharedBase

    # The libraries, and what they keep from their first use.
    first = load(paths[0])
    first.predict([TEXT])
    tokenizer = first.tokenizer
    del first
    gc.collect()
    before, started = memory(), time.perf_counter()
    times: list[float] = []
    cpu_times: list[float] = []
    if kind == "masks":
        base = SharedBase(paths)
        loading = time.perf_counter() - started
        for index in range(len(paths)):
            base.use(index).predict([TEXT])
        touch(base.model)
        for number in range(rounds * len(paths)):
            started, computing = time.perf_counter(), time.process_time()
            base.use(number % len(paths))
            times.append(time.perf_counter() - started)
            cpu_times.append(time.process_time() - computing)
    else:
        models = []
        for path in paths:
            began, computing = time.perf_counter(), time.process_time()
            models.append(load(path))
            times.append(time.perf_counter() - began)
            cpu_times.append(time.process_time() - computing)
            # One is enough for all of them.
            models[-1].tokenizer = tokenizer
        loading = time.perf_counter() - started
        for model in models:
            model.predict([TEXT])
            touch(model)
    gc.collect()
    after = memory()
    return {
        "anonymous_mib": after["anonymous"] - before["anonymous"],
        "file_mib": after["file"] - before["file"],
        "loading_s": loading,
        "times_ms": [1000 * value for value in times],
        "cpu_times_ms": [1000 * value for value in cpu_times],
    }


def make_masks(model: str, density: float, count: int, folder: Path) -> list[Path]:
    """Mask files of random masks over a base model."""
    import torch

    from smpcli.export.about import About
    from smpcli.export.mask import FORMAT, VERSION
    from smpcli.modeling.backbone import load_tokenizer
    from smpcli.modeling.build import rebuild
    from smpcli.modeling.layers import find_prunable
    from smpcli.runs.maskfile import compress, write_described

    base = rebuild(model, load_tokenizer(model), "classification", "prototype", ["no", "yes"])
    matrices, digest = find_prunable(base.backbone, base.config), base.base_digest()
    paths = []
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        masks = {m.name: torch.rand(m.module.weight.shape, generator=generator) < density for m in matrices}
        payloads, shapes, codes = compress(masks)
        about = About(
            format=FORMAT, version=VERSION, task=f"task{index}", kind="classification", labels=["no", "yes"],
            pairs=False, max_length=128, stride=None, head="prototype", words=None, word_ids=None, mask_id=None,
            decoder=False, model=model, base_digest=digest, method="smp", sparsity=1 - density, remaining=density,
            metric="accuracy", metrics={},
        )  # fmt: skip
        paths.append(folder / f"task{index}.smpmask")
        head = {name: tensor.clone() for name, tensor in base.own_parameters().items()}
        write_described(paths[-1], {**payloads, **head}, {**about.model_dump(), "shapes": shapes, "codes": codes})
    return paths


def make_bert_base(folder: Path) -> str:
    """A random model of BERT-base's size, with the embedded model's tokenizer."""
    import torch
    import transformers

    from smpcli.modeling.backbone import load_tokenizer

    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig()).save_pretrained(folder)
    load_tokenizer("minilm").save_pretrained(folder)
    return str(folder)


def save_copies(masks: list[Path], folder: Path) -> list[Path]:
    """Each task as a model of its own, as large as a fine-tuned copy."""
    from smpcli.export.about import FILE
    from smpcli.export.mask import load, read

    copies = []
    for index, path in enumerate(masks):
        copies.append(folder / f"copy{index}")
        ready = load(path)
        model: Any = ready.model
        model.backbone.save_pretrained(copies[-1])
        ready.tokenizer.save_pretrained(copies[-1])
        about = read(path).about.model_copy(update={"format": "hf", "version": 1})
        (copies[-1] / FILE).write_text(about.model_dump_json(), encoding="utf-8")
    return copies


def in_process(kind: str, paths: list[Path], rounds: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", kind, "--rounds", str(rounds), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    found["disk_mib"] = (
        sum(file.stat().st_size for path in paths for file in ([path] if path.is_file() else path.iterdir())) / 2**20
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("masks", nargs="*", type=Path)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--side", choices=["masks", "copies"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    console.quieten_libraries()
    if options.side:
        print(json.dumps(side(options.side, options.masks, options.rounds)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder, masks = Path(name), options.masks
        if not masks:
            # A base of its own, so that no other process shares its pages.
            if options.model == "bert-base":
                model = make_bert_base(folder / "base")
            else:
                model = str(shutil.copytree(model_path(options.model), folder / "base"))
            masks = make_masks(model, options.density, options.tasks, folder)
        results = {"masks": in_process("masks", masks, options.rounds)}
        results["copies"] = in_process("copies", save_copies(masks, folder), options.rounds)
    print(f"{len(masks)} tasks as      own memory  pages of files     on disk   loading")
    for kind, found in results.items():
        sizes = f"{found['anonymous_mib']:9.0f} MiB {found['file_mib']:11.0f} MiB {found['disk_mib']:7.1f} MiB"
        times = found["times_ms"]
        note = "a switch" if kind == "masks" else "loading one more"
        print(f"{kind:14} {sizes} {found['loading_s']:7.2f} s")
        cpu = f"CPU time {statistics.median(found['cpu_times_ms']):.1f} ms"
        spread = f"{statistics.median(times):.1f} ms ({min(times):.1f} to {max(times):.1f})"
        print(f"{'':14} {note}: median {spread}, {cpu}")
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
