"""Nothing that a stranger hands over is run, believed, or followed out of its folder."""

from __future__ import annotations

import ast
import json
import resource
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from smpcli import UserError, compare, prune
from smpcli.modeling.backbone import load_config, load_tokenizer
from smpcli.runs.maskfile import read_masks, write_masks
from smpcli.runs.rundir import RunDir

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for room in ("smpcli", "pruners") for path in (ROOT / room).rglob("*.py"))
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
#: Calls that may unpickle or run what they read, and the argument that keeps them from it.
GUARDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "from_pretrained": ("trust_remote_code", False),
    "from_config": ("trust_remote_code", False),
}
FORBIDDEN = {
    *("eval", "exec", "compile", "pd.read_pickle", "pandas.read_pickle", "torch.save", "yaml.unsafe_load"),
    *("yaml.load", "yaml.full_load", "yaml.load_all", "yaml.Loader"),
    *("os.system", "torch.hub.load", "shutil.unpack_archive"),
    *("tarfile.extractall", "torch.jit.load"),
}


def calls_of(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def faults_of(source: str) -> list[str]:
    """What in a source could run what it reads."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [f"imports {name}" for name in names if name.split(".")[0] in PICKLES]
    for name, call in calls_of(tree):
        given = {word.arg: word.value for word in call.keywords}
        last = name.rsplit(".", 1)[-1]
        if name in FORBIDDEN or last in ("read_pickle", "extractall", "unsafe_load"):
            found.append(f"calls {name}")
        for guarded, (word, wanted) in GUARDED.items():
            if guarded in (name, last):
                value = given.get(word)
                if not isinstance(value, ast.Constant) or value.value is not wanted:
                    found.append(f"calls {name} without {word}={wanted}")
        if last == "from_pretrained" and "auto_class" in name:
            value = given.get("use_safetensors")
            if not isinstance(value, ast.Constant) or value.value is not True:
                found.append(f"calls {name} without use_safetensors=True")
        if name == "YAML" and getattr(given.get("typ"), "value", None) != "safe":
            found.append("makes a YAML reader that isn't safe")
        if getattr(given.get("trust_remote_code"), "value", None):
            found.append(f"{name} trusts remote code")
        if getattr(given.get("shell"), "value", None):
            found.append(f"{name} through a shell")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_it_reads(path: Path) -> None:
    assert faults_of(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "torch.load(x)", "torch.load(x, weights_only=False)",
        "np.load(x)",
        "AutoModel.from_pretrained(x)", "AutoConfig.from_pretrained(x, trust_remote_code=True)", "eval(x)",
        "auto_class.from_pretrained(x, trust_remote_code=False)", "yaml.load(x, yaml.Loader)", "yaml.unsafe_load(x)",
        "YAML()", "YAML(typ='unsafe')",
        "subprocess.run(x, shell=True)", "archive.extractall()", "pd.read_pickle(x)",
    ],
)  # fmt: skip
def test_the_walk_finds_what_it_looks_for(source: str) -> None:
    assert faults_of(source)


def test_the_check_of_an_export_trusts_nobody_either() -> None:
    """The code that `export` runs in a new process is a text, which the walk above doesn't see."""
    from smpcli.export.hf import _CODE

    loads = [call for name, call in calls_of(ast.parse(_CODE)) if name.endswith("from_pretrained")]
    words = [{word.arg: ast.literal_eval(word.value) for word in load.keywords} for load in loads]
    assert len(words) == 2
    # The model, and its tokenizer.
    assert {"trust_remote_code": False, "use_safetensors": True} in words
    assert {"trust_remote_code": False, "padding_side": "right"} in words


def test_no_recipe_and_no_setting_speaks_of_trust(tmp_path: Path) -> None:
    for recipe in (ROOT / "recipes").rglob("*.yaml"):
        assert "trust" not in recipe.read_text(encoding="utf-8")
    (tmp_path / "r.yaml").write_text("trust_remote_code: true\n")
    with pytest.raises(UserError, match="unknown setting 'trust_remote_code'"):
        prune("movies", recipe=str(tmp_path / "r.yaml"), output=tmp_path)


@pytest.fixture
def code_folder(pico: Callable[[str], Path], tmp_path: Path) -> Path:
    """A model folder that would like its own code run."""
    import shutil

    folder = tmp_path / "code"
    shutil.copytree(pico("bert"), folder)
    for name, key in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        stated = json.loads((folder / name).read_text())
        value = ["own.Own", None] if key == "AutoTokenizer" else "own.Own"
        stated |= {"auto_map": {key: value, "AutoModelForSequenceClassification": "own.Own"}}
        (folder / name).write_text(json.dumps(stated))
    (folder / "own.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'run')!r}).touch()\nOwn = None\n")
    return folder


def test_a_model_folders_code_is_never_run(code_folder: Path, sentiment: Any, tmp_path: Path) -> None:
    """A known model type with code beside it works, by the library's own classes, and exports no mention of it."""
    from smpcli import export

    run = prune(str(sentiment.csv), model=str(code_folder), output=tmp_path / "out", max_steps=2, batch_size=8)
    made = export(run.path, "hf", output=tmp_path / "exported")
    assert not (tmp_path / "run").exists()
    for path in made.path.iterdir():
        assert path.suffix != ".py"
        assert b"auto_map" not in path.read_bytes()


def test_what_a_configuration_counts_is_bounded_before_it_is_built(pico: Any, tmp_path: Path) -> None:
    for key, value in (("num_labels", 10**9), ("num_hidden_layers", 10**12), ("num_attention_heads", 10**18)):
        stated = json.loads((pico("bert") / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**stated, key: value}))
        started = time.process_time()
        with pytest.raises(UserError, match=f"claims {key} = {value}"):
            load_config(str(tmp_path))
        with pytest.raises(UserError, match=f"claims {key} = {value}"):
            load_tokenizer(str(tmp_path))
        assert time.process_time() - started < 5


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "WordPiece"}}', "{" * 1000])
def test_a_damaged_tokenizer_is_one_line(pico: Any, tmp_path: Path, content: str) -> None:
    import shutil

    folder = tmp_path / "m"
    shutil.copytree(pico("bert"), folder)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="can't load the model in") as error:
        load_tokenizer(str(folder))
    assert "\n" not in str(error.value)


# -- masks that claim more than they hold


def described(path: Path, shapes: dict[str, list[int]], tensors: dict[str, tuple[str, list[int], int]]) -> Path:
    """A safetensors file made by hand; tensors: name -> (dtype, shape, bytes)."""
    header: dict[str, Any] = {
        "__metadata__": {"smp": json.dumps({"format": "smp-mask", "version": 1, "shapes": shapes})}
    }
    offset = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(min(offset, 10_000)))
    return path


@pytest.mark.parametrize(
    ("shapes", "tensors"),
    [
        ({"a": [10**6, 10**6]}, {"a": ("U8", [125_000_000_000], 125_000_000_000)}),
        ({"a": [10**6, 10**6]}, {"a": ("U8", [1000], 1000)}),
        ({"a": [10**12]}, {"a": ("U8", [1000], 1000)}),
        ({"a": [2**39] * 4}, {"a": ("U8", [1000], 1000)}),
        ({"a": [8, 8]}, {"a": ("I64", [1], 8)}),
        ({"a": [-8, 8]}, {"a": ("U8", [8], 8)}),
        ({"a": [8.0, 8]}, {"a": ("U8", [8], 8)}),
        ({"a": [8, 8] * 9}, {"a": ("U8", [8], 8)}),
        ({"a": [64]}, {"a": ("U8", [8], 8), "b": ("U8", [8], 8)}),
        ({"a": [64], "b": [64]}, {"a": ("U8", [8], 8)}),
    ],
)
def test_a_mask_that_claims_more_than_it_holds(tmp_path: Path, shapes: Any, tensors: Any) -> None:
    path = described(tmp_path / "mask.safetensors", shapes, tensors)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with pytest.raises(UserError, match="damaged mask file"):
        read_masks(path)
    assert time.process_time() - started < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_a_header_as_long_as_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "mask.safetensors"
    path.write_bytes(struct.pack("<Q", 10**12) + b"{" * 10_000)
    with pytest.raises(UserError, match="damaged mask file"):
        read_masks(path)


def test_links_and_names_that_lead_out(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    run = prune(str(sentiment.csv), model=str(pico("bert")), output=tmp_path / "out", max_steps=2, batch_size=8).path
    mask = run / "mask.safetensors"
    outside = tmp_path / "mask"
    mask.rename(outside)
    mask.symlink_to(outside)
    with pytest.raises(UserError, match=r"mask\.safetensors is a link that leads out"):
        RunDir.open(run)
    ((_, reason),) = compare(run).problems
    assert "link" in reason
    mask.unlink()
    outside.rename(run / "elsewhere")
    mask.symlink_to("elsewhere")
    RunDir.open(run)  # within the folder, a link is nobody's loss


def test_a_name_in_a_result_is_that_of_a_runs_file(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    run = prune(str(sentiment.csv), model=str(pico("bert")), output=tmp_path / "out", max_steps=2, batch_size=8).path
    result = json.loads((run / "result.json").read_text())
    for name in ("/etc/hostname", "../x", "notes.txt"):
        (run / "result.json").write_text(json.dumps({**result, "files": {name: 1}}))
        with pytest.raises(UserError, match=f"lists '{name}', which is not a file of a run"):
            RunDir.open(run)


def test_a_result_or_log_of_any_size_is_not_read(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "run")
    run.write_settings({"seed": 0})
    with (run.path / "result.json").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(UserError, match=r"result\.json has 1,000,000,000 bytes, more than any run writes"):
        RunDir.open(run.path)


def test_weights_of_another_type_are_not_cast(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    from smpcli import evaluate

    run = prune(str(sentiment.csv), model=str(pico("bert")), output=tmp_path / "out", max_steps=2, batch_size=8)
    head = {name: tensor.to(torch.int32) for name, tensor in run.read_tensors("head.safetensors").items()}
    save_file(head, run.path / "head.safetensors")
    result = json.loads((run.path / "result.json").read_text())
    result["files"]["head.safetensors"] = (run.path / "head.safetensors").stat().st_size
    (run.path / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match="doesn't fit the base model"):
        evaluate(run.path)


def test_a_mask_with_a_matrix_too_many_is_refused(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    from smpcli import evaluate

    run = prune(str(sentiment.csv), model=str(pico("bert")), output=tmp_path / "out", max_steps=2, batch_size=8)
    masks = run.read_masks()
    write_masks(run.path / "mask.safetensors", {**masks, "pooler.dense": next(iter(masks.values()))})
    result = json.loads((run.path / "result.json").read_text())
    result["files"]["mask.safetensors"] = (run.path / "mask.safetensors").stat().st_size
    (run.path / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"its mask is of another model, which has a matrix pooler\.dense"):
        evaluate(run.path)
