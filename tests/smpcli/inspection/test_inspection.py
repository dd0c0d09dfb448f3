"""What masks say: places, densities, empty parts, what compact saves, overlap, and how masks moved."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from handmade import MakeRun, tensor_file
from rich.console import Console

from smpcli.errors import UserError
from smpcli.inspection.inspect import inspect
from smpcli.inspection.matrices import compact, describe, kinds, places
from smpcli.modeling.layers import attention_heads

BERT = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
        "intermediate.dense", "output.dense"]  # fmt: skip
HIDDEN, INNER, HEADS = 4, 6, 2
SHAPES = dict(zip(BERT, [(HIDDEN, HIDDEN)] * 4 + [(INNER, HIDDEN), (HIDDEN, INNER)], strict=True))


def bert(layers: int = 1) -> dict[str, torch.Tensor]:
    """Masks that keep everything."""
    return {
        f"encoder.layer.{layer}.{kind}": torch.ones(shape, dtype=torch.bool)
        for layer in range(layers)
        for kind, shape in SHAPES.items()
    }


def write(run: Path, masks: dict[str, torch.Tensor]) -> Path:
    """mask.safetensors by hand, and the counts that go with it."""
    packed = {name: np.packbits(mask.numpy().reshape(-1)).tobytes() for name, mask in sorted(masks.items())}
    about = {"format": "smp-mask", "version": 1, "shapes": {name: list(mask.shape) for name, mask in masks.items()}}
    content = tensor_file(
        {name: ("U8", [len(data)], data) for name, data in packed.items()}, {"smp": json.dumps(about)}
    )
    (run / "mask.safetensors").write_bytes(content)
    result = json.loads((run / "result.json").read_text())
    size, kept = (sum(count(mask) for mask in masks.values()) for count in (torch.numel, lambda m: int(m.sum())))
    result["weights"].update(total=size, prunable=size, kept=kept)
    result["run"].update(remaining=kept / size)
    result["files"]["mask.safetensors"] = len(content)
    (run / "result.json").write_text(json.dumps(result))
    return run


@pytest.fixture
def make_run(make_run: MakeRun) -> MakeRun:
    """Runs whose model has two heads."""
    return lambda folder, **changes: make_run(folder, **{"model__heads": HEADS, **changes})


# --- places and order


DISTILBERT = ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"]


@pytest.mark.parametrize(
    ("prefix", "layers", "inside"),
    [
        ("encoder.layer", 1, BERT),
        ("encoder.layer", 12, BERT),
        ("transformer.layer", 6, DISTILBERT),
        ("0.auto_model.encoder.layer", 1, BERT),
        ("0.auto_model.encoder.layer", 12, BERT),
        ("blocks", 2, ["mixer.experts.0.up", "mixer.experts.1.up"]),
    ],
)
def test_layer_and_type_come_from_the_name(prefix: str, layers: int, inside: list[str]) -> None:
    expected = {f"{prefix}.{layer}.{kind}": (layer, kind) for layer in range(layers) for kind in inside}
    assert places(expected) == expected


def test_a_name_without_a_number_is_its_own_type() -> None:
    assert places(["query"]) == {"query": (0, "query")}
    assert places([]) == {}


def test_types_come_in_the_order_of_a_block() -> None:
    names = dict(zip(DISTILBERT, SHAPES.values(), strict=True))
    for shapes in (SHAPES, names):
        masks = {
            f"l.{i}.{kind}": torch.ones(shape, dtype=torch.bool) for i in (0, 1) for kind, shape in shapes.items()
        }
        assert kinds(describe(masks)) == list(shapes)


# --- counts


def test_counts_of_a_matrix() -> None:
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1, 2] = mask[1, 3] = mask[3, 2] = True
    (found,) = describe({"layer.0.output.dense": mask})
    assert (found.layer, found.kind, found.rows, found.columns, found.kept) == (0, "output.dense", 4, 6, 3)
    assert (found.empty_rows, found.empty_columns, found.filled_area) == (2, 4, 2 * 2)


def test_density_by_layer_type_and_in_all(tmp_path: Path, make_run: MakeRun) -> None:
    masks = bert(2)
    masks["encoder.layer.1.output.dense"][:] = False  # 24 of 112 weights of the layer
    masks["encoder.layer.0.attention.self.query"][0] = False  # 4 of 16
    (look,) = inspect(write(make_run(tmp_path / "r"), masks)).looks
    grid = look.density
    assert grid.layers == [0, 1] and grid.kinds == BERT
    assert grid.values == [[0.75, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]
    assert grid.by_layer == [108 / 112, 88 / 112]
    assert grid.by_kind == [28 / 32, 1, 1, 1, 1, 0.5]
    assert grid.whole == 196 / 224


# --- what compact saves: each case by hand, on 4 * 16 + 2 * 24 = 112 weights


@pytest.mark.parametrize(
    ("empty", "left", "heads", "neurons"),
    [
        ({}, 112, 0, 0),
        # A value row: gone there and as a column of the output.
        ({"attention.self.value": ([0], [])}, 112 - 4 - 4, 0, 0),
        ({"attention.output.dense": ([], [0])}, 112 - 4 - 4, 0, 0),
        # Both of head 1: its two query and key rows go too.
        ({"attention.self.value": ([2, 3], [])}, 112 - 4 * 2 * 4, 1, 0),
        ({"attention.self.value": ([2], []), "attention.output.dense": ([], [3])}, 112 - 4 * 2 * 4, 1, 0),
        # A key row takes its query row along; a query row alone becomes the one merged dimension of its head.
        ({"attention.self.key": ([0], [])}, 112 - 4 - 4, 0, 0),
        ({"attention.self.query": ([0], [])}, 112, 0, 0),
        ({"attention.self.query": ([0, 1], [])}, 112 - 4 - 4, 0, 0),
        # Two neurons by their rows, one more by its column.
        ({"intermediate.dense": ([0, 1], []), "output.dense": ([], [1, 5])}, 112 - 3 * (4 + 4), 0, 3),
        # A dimension of the residual stream that "up" doesn't read, and one that "down" doesn't write.
        ({"intermediate.dense": ([], [2])}, 112 - 6, 0, 0),
        ({"output.dense": ([1], [])}, 112 - 6, 0, 0),
        # All three that read must not read it.
        ({"attention.self.query": ([], [1])}, 112, 0, 0),
        ({f"attention.self.{name}": ([], [1]) for name in ("query", "key", "value")}, 112 - 12, 0, 0),
    ],
)  # fmt: skip
def test_what_compact_would_leave(
    empty: dict[str, tuple[list[int], list[int]]], left: int, heads: int, neurons: int
) -> None:
    masks = bert()
    for kind, (rows, columns) in empty.items():
        masks[f"encoder.layer.0.{kind}"][rows] = False
        masks[f"encoder.layer.0.{kind}"][:, columns] = False
    found = compact(masks, HEADS)
    assert found.heads is not None and found.neurons is not None
    assert (found.area, found.compact_area) == (112, left)
    assert (found.heads.gone, found.heads.total) == (heads, HEADS)
    assert (found.neurons.gone, found.neurons.total) == (neurons, INNER)


def test_unknown_blocks_count_their_own_rows_and_columns() -> None:
    masks = {f"b.{i}.mix": torch.eye(4, 6, dtype=torch.bool) for i in (0, 1)}
    found = compact(masks, None)
    assert (found.heads, found.neurons) == (None, None)
    assert (found.area, found.filled_area, found.compact_area) == (48, 32, 32)
    without_heads = compact(bert(), None)
    assert without_heads.heads is None and without_heads.neurons is not None


def test_heads_are_those_that_the_run_recorded_or_else_its_models(
    tmp_path: Path, make_run: MakeRun, pico: Callable[[str], Path]
) -> None:
    base = str(pico("bert"))  # of two heads

    def heads(name: str, **about: Any) -> int | None:
        found = inspect(write(make_run(tmp_path / name, **about), bert())).looks[0].compact.heads
        return found.total if found else None

    # What the run says, where its model is gone and where it says something else; an older run says nothing.
    assert heads("recorded", model__name="gone", model__heads=1) == 1
    assert heads("both", model__name=base, model__heads=4) == 4
    assert heads("older", model__name=base, model__heads=None) == 2
    assert heads("neither", model__name="gone", model__heads=None) is None


def test_a_configuration_that_refuses_one_number_of_heads_gives_none() -> None:
    class Differs:
        @property
        def num_attention_heads(self) -> int:
            raise RuntimeError("blocks differ")

    assert attention_heads(Differs()) == 0
    assert attention_heads(SimpleNamespace(num_attention_heads=12)) == 12
    assert [attention_heads(SimpleNamespace(**about)) for about in ({}, {"num_attention_heads": [2, 4]})] == [0, 0]


# --- overlap


def test_overlap_and_chance_by_hand(tmp_path: Path, make_run: MakeRun) -> None:
    one, other = ({f"b.{i}.query": torch.zeros(4, 5, dtype=torch.bool) for i in (0, 1)} for _ in range(2))
    one["b.0.query"].view(-1)[:8] = True
    other["b.0.query"].view(-1)[5:15] = True  # 3 shared of 15
    one["b.1.query"].view(-1)[:10] = True
    other["b.1.query"].view(-1)[:10] = True
    paths = [write(make_run(tmp_path / name), masks) for name, masks in (("a", one), ("b", other))]
    overlap = inspect(*paths).overlap
    assert overlap is not None
    assert overlap.jaccard.values == [[3 / 15], [1.0]] and overlap.jaccard.whole == 13 / 25
    # Random masks of 8 and 10 of 20 share 4, of 10 and 10 share 5.
    assert overlap.chance.values == [[pytest.approx(4 / 14)], [pytest.approx(5 / 15)]]
    assert overlap.chance.whole == pytest.approx(9 / 29)


def test_random_masks_overlap_as_chance_says(tmp_path: Path, make_run: MakeRun) -> None:
    generator = torch.Generator().manual_seed(0)
    paths = [
        write(make_run(tmp_path / str(share)), {"b.0.query": torch.rand(200, 300, generator=generator) < share})
        for share in (0.1, 0.3)
    ]
    overlap = inspect(*paths).overlap
    assert overlap is not None
    assert overlap.jaccard.whole == pytest.approx(0.03 / 0.37, rel=0.05)
    assert overlap.chance.whole == pytest.approx(overlap.jaccard.whole, rel=0.05)


# --- how it moved


def test_turnover_is_read_where_it_was_recorded(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "r")
    rows = [
        {"step": 5, "density": 0.5, "loss": 1.0},
        {"step": 10, "density": 0.3, "loss": 0.9, "accuracy": 0.7},
        {"step": 20, "density": 0.1, "loss": None, "accuracy": 0.8, "turnover": 0.125},
        {"step": 30, "density": 0.1, "loss": 0.7, "accuracy": 0.9, "turnover": 0.0625},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (look,) = inspect(run).looks
    assert look.moved == [
        {"step": 20, "density": 0.1, "accuracy": 0.8, "turnover": 0.125},
        {"step": 30, "density": 0.1, "accuracy": 0.9, "turnover": 0.0625},
    ]
    text = show(inspect(run))
    assert "12.50" in text and "6.25" in text and "turnover" in text


# --- what is refused


def test_runs_without_a_usable_mask_are_one_line(tmp_path: Path, make_run: MakeRun) -> None:
    dense = make_run(tmp_path / "dense", run__method="dense")
    run = make_run(tmp_path / "smp")
    other = write(make_run(tmp_path / "other"), bert())
    wrong = make_run(tmp_path / "wrong", weights__kept=3, run__remaining=0.15)
    for arguments, message in (
        ((dense,), "has no mask, as method 'dense' prunes nothing"),
        ((run, other), "prune different matrices, such as block.0.query"),
        ((wrong,), "its mask keeps 2 weights"),
        ((tmp_path / "nowhere",), "is not there"),
    ):
        with pytest.raises(UserError) as error:
            inspect(*arguments)
        assert message in str(error.value) and "\n" not in str(error.value)


# --- how it is shown


def show(value: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(value)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_shows_all_of_it(tmp_path: Path, make_run: MakeRun) -> None:
    masks = bert(2)
    masks["encoder.layer.1.attention.self.value"][2:] = False
    masks["encoder.layer.1.output.dense"][:, 0] = False
    run = write(make_run(tmp_path / "r"), masks)
    text = show(inspect(run))
    assert max(map(len, text.splitlines())) <= 80
    (line,) = [line for line in text.splitlines() if line.startswith("layer 1")]
    assert [float(part) for part in line.replace("█", "").split()[2:] if part[0].isdigit()][2] == 50.0
    assert "empty heads: 1 of 4 (25.0%)" in text and "neurons: 1 of 12 (8.3%)" in text
    both = show(inspect(run, run))
    assert "Jaccard 1.0000" in both and "times chance" in both


def test_json_is_plain(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "r")
    value = json.loads(json.dumps(inspect(run, run).to_json(), allow_nan=False))
    assert [entry["path"] for entry in value["runs"]] == [str(run)] * 2
    assert value["runs"][0]["density"]["whole"] == 0.1 and value["overlap"]["jaccard"]["whole"] == 1.0
    assert value["runs"][0]["matrices"][0]["empty_rows"] == 3
    assert inspect(run).to_json()["overlap"] is None


def test_names_from_files_cannot_steer_the_terminal(tmp_path: Path, make_run: MakeRun) -> None:
    masks = {f"b.{i}.[red]k\x1b[2J": torch.ones(2, 3, dtype=torch.bool) for i in (0, 1)}
    text = show(inspect(write(make_run(tmp_path / "r", run__task="t\x1b]0;x\x07"), masks)))
    assert "\x1b" not in text and "\x07" not in text and "[red]k" in text


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_picture(tmp_path: Path, make_run: MakeRun, suffix: str) -> None:
    run = write(make_run(tmp_path / "r"), bert(2))
    (run / "metrics.jsonl").write_text('{"step": 2, "density": 0.1, "accuracy": 0.8, "turnover": 0.125}\n')
    found = inspect(run, run)
    for name in ("one", "two"):
        found.to_plot(tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    with pytest.raises(UserError, match=r"\.png, \.svg, \.pdf"):
        found.to_plot(tmp_path / "one.gif")
