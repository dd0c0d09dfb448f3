"""What every registered method must hold to, whoever wrote it: real runs of a pico BERT on generated sentences.

A method that is installed as a plugin is taken up by itself.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.numpy import load_file
from torch import Tensor

from pruners import masking
from pruners.base import Pruner, PrunerSettings
from pruners.masks.layer import MaskedLayer
from pruners.methods import METHODS
from smpcli import UserError, evaluate, plan, prune
from smpcli.catalogue import describe_method
from smpcli.evaluation.recompute import reopen
from smpcli.training import loop, session

NAMES = sorted(name for name, owners in METHODS.entries().items() if len(owners) == 1)
PRUNING = [name for name in NAMES if METHODS.load(name).prunes]
SPARSITIES = [0.0, 0.12345, 1 / 3, 0.5, 0.9, 0.97]
# 2 blocks of 4 attention matrices 32 x 32 and 2 of 32 x 48.
PRUNABLE = 2 * (4 * 32 * 32 + 2 * 32 * 48)
STEPS = 8


@dataclass
class Record:
    """A finished run, and what was to be seen while it went on."""

    path: Path = Path()
    session: Any = None
    #: The model's state and the scores after set-up, before the first step.
    before: dict[str, Tensor] = field(default_factory=dict)
    first_scores: dict[str, Tensor] = field(default_factory=dict)
    steps: list[loop.Step] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    #: (density, weights that the masks keep) after each refresh.
    refreshes: list[tuple[float, int]] = field(default_factory=list)

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def step(self, step: loop.Step) -> None:
        self.steps.append(step)

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "result.json").read_text(encoding="utf-8"))
        return found

    @property
    def pruner(self) -> Pruner:
        found: Pruner = self.session.pruner
        return found

    @property
    def state(self) -> dict[str, Tensor]:
        """The model in memory, as training left it."""
        found: dict[str, Tensor] = self.session.model.backbone.state_dict()
        return found

    @property
    def chosen(self) -> list[int]:
        """Steps that choose masks, and the end."""
        steps: int = self.result["training"]["steps"]
        return [*range(0, steps, getattr(self.pruner.settings, "mask_every", 1)), steps]

    @property
    def masks(self) -> dict[str, Tensor]:
        return {f"{layer.name}.weight": layer.mask for layer in self.session.layers}


Run = Callable[..., Record]


@pytest.fixture(scope="module")
def run(pico: Any, sentiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """run("smp", 0.9, seed=1) -> the record of that run; the same call gives the same record, `again` a fresh one."""
    made: dict[tuple[str, float, int, bool], Record] = {}

    def carry_out(method: str, sparsity: float = 0.5, seed: int = 0, again: bool = False) -> Record:
        if not METHODS.load(method).prunes:
            sparsity = 0.0
        key = (method, sparsity, seed, again)
        if key in made:
            return made[key]
        record = Record()
        prepare, refresh = session.prepare, masking.refresh

        def watched_prepare(*args: Any) -> Any:
            record.session = prepare(*args)
            record.before = {name: tensor.clone() for name, tensor in record.state.items()}
            record.first_scores = {
                layer.name: layer.scores.detach().clone()
                for layer in record.session.layers
                if layer.scores is not None
            }
            return record.session

        def watched_refresh(
            pruner: Pruner, layers: Sequence[MaskedLayer], density: float, *dtype: Any, **how: Any
        ) -> None:
            refresh(pruner, layers, density, *dtype, **how)
            record.refreshes.append((density, sum(int(layer.mask.sum()) for layer in layers)))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session, "prepare", watched_prepare)
            patch.setattr(loop, "refresh", watched_refresh)
            record.path = prune(
                str(sentiment.csv),
                method,
                sparsity,
                model=str(pico("bert")),
                seed=seed,
                max_steps=STEPS,
                batch_size=16,
                evaluations=2,
                output=tmp_path_factory.mktemp("contract"),
                progress=record,
            ).path
        made[key] = record
        return record

    return carry_out


def steps_of(method: str) -> int:
    """How many steps a run takes of the STEPS that were asked for: none where there is nothing to train."""
    pruner = METHODS.load(method)
    return STEPS if pruner.trains_scores or pruner.trains_weights else 0


def int_of_density(sparsity: float) -> int:
    """int(density * prunable) in exact arithmetic on the decimal that a person typed."""
    return math.floor((1 - Fraction(repr(round(sparsity, 12)))) * PRUNABLE)


# -- density ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("method", PRUNING)
def test_exactly_the_asked_number_of_weights_is_kept(run: Run, method: str, sparsity: float) -> None:
    record = run(method, sparsity)
    expected = int_of_density(sparsity)
    assert record.result["weights"]["kept"] == expected
    assert record.result["weights"]["prunable"] == PRUNABLE
    assert record.result["run"]["sparsity"] == sparsity
    assert record.result["run"]["remaining"] == expected / PRUNABLE
    # Recounted from the bits of the file, and from the numbers in the model.
    packed = load_file(record.path / "mask.safetensors")
    assert sum(int(np.unpackbits(bits).sum()) for bits in packed.values()) == expected
    matrices = [record.state[name] for name in record.masks]
    assert len(matrices) == 12
    assert sum(int(torch.count_nonzero(matrix)) for matrix in matrices) == expected


@pytest.mark.parametrize("sparsity", [0.5, 0.97])
@pytest.mark.parametrize("method", PRUNING)
def test_each_step_has_the_density_of_the_schedule(run: Run, method: str, sparsity: float) -> None:
    record, steps = run(method, sparsity), steps_of(method)
    # A refresh in each step, or every few, and one at the end, whose density is the one asked for.
    assert len(record.refreshes) == len(record.chosen)
    density, kept = record.refreshes[-1]
    assert (density, kept) == (1 - sparsity, int_of_density(sparsity))
    for number, (density, kept) in zip(record.chosen, record.refreshes, strict=True):
        assert density == record.pruner.density(number / steps if steps else 1.0, 1 - sparsity)
        assert kept == math.floor(round(density, 12) * PRUNABLE)
    if type(record.pruner).density is Pruner.density:
        settings = record.pruner.settings
        for number, (density, _) in zip(record.chosen, record.refreshes, strict=True):
            progress, start = number / steps if steps else 1.0, settings.ramp_start
            t = max(0.0, min(1.0, (progress - start) / (settings.ramp_end - start)))
            falling = {"cubic": 1 - sparsity + sparsity * (1 - t) ** 3, "exp": (1 - sparsity) ** t}
            assert density == pytest.approx(falling[settings.schedule])


@pytest.mark.parametrize("method", NAMES)
def test_progress_tells_each_step_and_the_end(run: Run, method: str) -> None:
    record, steps = run(method), steps_of(method)
    assert record.phases == ["data", "model", "training", "saving", "done"]
    assert [step.step for step in record.steps] == [*range(1, steps + 1), steps]
    assert {step.steps for step in record.steps} == {steps}
    # Where nothing is trained, there is no loss.
    assert all(
        step.loss > 0 and math.isfinite(step.loss) if steps else math.isnan(step.loss) for step in record.steps
    )
    chosen = {number: density for number, (density, _) in zip(record.chosen, record.refreshes, strict=False)}
    # Between two choices the density is that of the last.
    last = [max((number for number in chosen if number <= step), default=-1) for step in range(steps + 1)]
    assert [step.density for step in record.steps] == [chosen.get(number, 1.0) for number in last]
    # Two evaluations were asked for: half way and at the end.
    evaluated = [4, 8] if steps else [0]
    assert [step.step for step in record.steps if step.metrics] == evaluated
    history = record.result["training"]["metric_history"]
    assert [step for step, _ in history] == evaluated
    assert history[-1][1] == record.steps[-1].metrics["accuracy"] == record.result["metrics"]["accuracy"]


# -- what is trained -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", NAMES)
def test_only_what_the_method_says_is_trained(run: Run, method: str) -> None:
    record = run(method)
    assert record.before.keys() == record.state.keys()
    assert not METHODS.load(method).prunes or len(record.masks) == 12
    for name, after in record.state.items():
        before, mask = record.before[name], record.masks.get(name)
        if not record.pruner.trains_weights:
            # Bit for bit: embeddings, norms, biases and head as they were, kept weights as they were.
            assert torch.equal(after, before if mask is None else before * mask), name
        elif after.is_floating_point():
            changed = after != before if mask is None else (after != before)[mask]
            assert changed.any(), name


@pytest.mark.parametrize("method", NAMES)
def test_the_base_model_is_the_checkpoint_before_the_first_step(run: Run, pico: Any, method: str) -> None:
    record = run(method)
    for name, value in load_file(pico("bert") / "model.safetensors").items():
        assert np.array_equal(record.before[f"bert.{name}"].numpy(), value), name


@pytest.mark.parametrize("method", NAMES)
def test_scores_are_learned_where_the_method_says_so(run: Run, method: str) -> None:
    record = run(method)
    for layer in record.session.layers:
        assert (layer.scores is not None) == record.pruner.trains_scores
        if layer.scores is not None:
            assert torch.isfinite(layer.scores).all()
            assert not torch.equal(layer.scores, record.first_scores[layer.name])


@pytest.mark.parametrize("method", PRUNING)
def test_pruned_weights_are_exactly_zero_and_kept_ones_are_w(run: Run, method: str) -> None:
    record = run(method, 0.9)
    for layer in record.session.layers:
        effective = record.state[f"{layer.name}.weight"]
        assert (effective[~layer.mask] == 0).all()
        assert torch.equal(effective[layer.mask], layer.weight.detach()[layer.mask])


@pytest.mark.parametrize("method", NAMES)
def test_trained_weights_are_counted(run: Run, method: str) -> None:
    record = run(method)
    total = sum(parameter.numel() for parameter in record.session.model.parameters())
    assert record.result["weights"]["total"] == total
    assert record.result["weights"]["trained"] == (total if record.pruner.trains_weights else 0)


# -- the same again --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", NAMES)
def test_the_same_seed_gives_the_same_bytes(run: Run, method: str) -> None:
    one, two = run(method), run(method, again=True)
    names = sorted(path.name for path in one.path.glob("*.safetensors"))
    assert ("mask.safetensors" in names) == one.pruner.prunes
    for name in [*names, "metrics.jsonl", "predictions.jsonl"]:
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes(), name
    assert one.result["run"]["id"] == two.result["run"]["id"]


@pytest.mark.parametrize("method", NAMES)
def test_another_seed_gives_another_result(run: Run, method: str) -> None:
    one, two = run(method), run(method, seed=1)
    name = "mask.safetensors" if one.pruner.prunes else "weights.safetensors"
    # Without training, nothing need depend on chance.
    assert (one.path / name).read_bytes() != (two.path / name).read_bytes() or not steps_of(method)
    assert one.result["run"]["id"] != two.result["run"]["id"]


@pytest.mark.parametrize("method", NAMES)
def test_the_run_can_be_evaluated_anew_from_its_folder(run: Run, method: str) -> None:
    record = run(method, 0.9)
    again = evaluate(record.path)
    assert again.agrees
    assert again.metrics == record.result["metrics"]
    reopened = reopen(record.path).model.backbone.state_dict()
    assert reopened.keys() == record.state.keys()
    for name, tensor in record.state.items():
        assert torch.equal(reopened[name], tensor), name


# -- what is written -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", NAMES)
def test_result_json_is_complete(run: Run, sentiment: Any, pico: Any, method: str) -> None:
    record = run(method, 0.9)
    result = record.result
    keys = {
        "run": "id method task model sparsity remaining seed settings_digest command started seconds",
        "weights": "total prunable kept trained",
        "method": "report",
        "data": "digest origin train dev",
        "model": "name digest head",
        "training": "steps batch_size seconds_per_step metric_history",
        "environment": "smp python torch transformers platform device threads",
    }
    assert set(result) == {*keys, "schema", "metric", "metrics", "task_bytes", "files", "warnings"}
    for block, names in keys.items():
        assert set(names.split()) <= set(result[block]), block
    assert result["schema"] == 1
    assert result["run"]["method"] == method
    assert result["run"]["task"] == "sentiment"
    assert result["run"]["model"] == result["model"]["name"] == str(pico("bert"))
    assert result["run"]["id"] == record.path.name
    assert result["model"]["head"] == "prototype"
    assert result["data"]["train"] + result["data"]["dev"]["dev"] == len(sentiment.rows)
    assert (result["training"]["steps"], result["training"]["batch_size"]) == (steps_of(method), 16)
    assert (result["training"]["seconds_per_step"] > 0) == (steps_of(method) > 0)
    assert all(isinstance(value, float) for value in result["method"]["report"].values())


@pytest.mark.parametrize("method", NAMES)
def test_files_are_there_and_counted(run: Run, method: str) -> None:
    record = run(method, 0.9)
    expected = {"settings.yaml", "metrics.jsonl", "predictions.jsonl", "head.safetensors", "result.json"}
    if record.pruner.prunes:
        expected.add("mask.safetensors")
    if record.pruner.trains_weights:
        expected.add("weights.safetensors")
    assert {path.name for path in record.path.iterdir()} == expected
    sizes = {path.name: path.stat().st_size for path in record.path.iterdir() if path.name != "result.json"}
    assert record.result["files"] == sizes
    # Head and weights as they are; the mask as the mask format holds it, between its entropy and its packed bits.
    mask_bytes = record.result["task_bytes"] - sizes["head.safetensors"] - sizes.get("weights.safetensors", 0)
    packed = sum(mask.numel() // 8 for mask in record.masks.values()) if record.pruner.prunes else 0
    assert 0.4 * packed <= mask_bytes <= packed


@pytest.mark.parametrize("method", NAMES)
def test_accuracy_is_that_of_the_predictions_that_were_written(run: Run, method: str) -> None:
    record = run(method)
    rows = [json.loads(line) for line in (record.path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == record.result["data"]["dev"]["dev"]
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert record.result["metrics"]["accuracy"] == right / len(rows)


# -- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", NAMES)
def test_every_setting_has_a_help_text_and_a_default_that_is_valid(method: str, sentiment: Any) -> None:
    settings = METHODS.load(method).Settings
    assert issubclass(settings, PrunerSettings) and dataclasses.is_dataclass(settings)
    defaults = dataclasses.asdict(settings())
    for spec in dataclasses.fields(settings):
        assert len(spec.metadata["help"]) > 10, spec.name
    assert TypeAdapter(settings).validate_python(defaults) == settings()
    # Given one by one, as --set gives them.
    resolved = plan(str(sentiment.csv), method, model="minilm", max_steps=1, **defaults).settings
    assert defaults.items() <= resolved.items()


@pytest.mark.parametrize("method", NAMES)
def test_no_setting_takes_the_name_of_a_run_s_own(method: str) -> None:
    shown = describe_method(method)
    own = {spec["name"] for spec in shown["settings"]}
    assert own.isdisjoint(spec["name"] for spec in shown["common_settings"])


@pytest.mark.parametrize("method", NAMES)
def test_a_method_says_what_it_is(method: str) -> None:
    pruner = METHODS.load(method)
    summary = (inspect.getdoc(pruner) or "").split("\n")[0]
    assert pruner.__doc__ and summary.endswith(".")
    assert pruner.title
    assert pruner.trains_scores or pruner.trains_weights or pruner.prunes


@pytest.mark.parametrize("method", [name for name in NAMES if name not in PRUNING])
def test_a_method_that_does_not_prune_refuses_a_sparsity(method: str, sentiment: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="doesn't prune"):
        prune(str(sentiment.csv), method, 0.5, output=tmp_path)
