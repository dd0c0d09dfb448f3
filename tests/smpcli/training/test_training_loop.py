"""The loop against plain training loops written out from the paper."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from pruners.base import Pruner
from pruners.dense import Dense
from pruners.masking import attach
from pruners.masks.layer import MaskedLayer
from pruners.masks.trial import confirm_narrow
from pruners.movement import Movement
from pruners.scored import ScoredSettings
from pruners.smp import SMP, SMPSettings
from smpcli.encoding.batches import LengthBuckets, encode, training_loader
from smpcli.evaluation.evaluate import Evaluation
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.heads import TaskModel
from smpcli.modeling.layers import masked_layers
from smpcli.tasks.data import Examples
from smpcli.training.loop import Summary, Training, train
from smpcli.training.objective import task_objective
from smpcli.training.optimizer import make_optimizer, trained_weights
from smpcli.training.progress import Step, TrainingDiverged

SPARSITY, STEPS = 0.8, 6
NOTHING = Evaluation({"accuracy": 0.5}, {})


class Run:
    """A pico BERT in double precision without dropout, its batches, and the loop over them."""

    def __init__(self, pico: Any, sentiment: Any, pruner: Pruner) -> None:
        torch.manual_seed(0)
        self.pruner = pruner
        backbone = AutoModelForSequenceClassification.from_pretrained(
            pico("bert"), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        ).double()
        self.model = TaskModel(backbone, "prototype", {"classifier.weight", "classifier.bias"})
        rows = sentiment.rows[:40]
        examples = Examples([text for text, _ in rows], None, [int(label == "positive") for _, label in rows])
        self.encoded = encode(load_tokenizer(str(pico("bert"))), examples, 40)
        self.layers: list[MaskedLayer] = masked_layers(backbone, backbone.config) if pruner.prunes else []
        attach(pruner, self.layers, {})
        self.weights = trained_weights(pruner, self.model, self.layers)

    def batches(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        loader = training_loader(self.encoded, LengthBuckets(self.encoded.lengths, 16, 0, 50))
        while True:
            for (batch,) in loader:
                yield batch

    def train(self, steps: int = STEPS, final_density: float = 1 - SPARSITY, **options: Any) -> Summary:
        """`options`: of the loop, and in place of what `Training` is made of."""
        accelerator = options.pop("accelerator", None) or Accelerator(cpu=True)
        parts: dict[str, Any] = {"objective": task_objective("classification"), "max_grad_norm": 1.0}
        parts["precision"] = "fp32"
        parts = {name: options.pop(name, part) for name, part in parts.items()}
        training = Training(
            self.model,
            self.pruner,
            self.layers,
            self.weights,
            make_optimizer(self.pruner, self.weights, self.layers),
            accelerator=accelerator,
            steps=steps,
            final_density=final_density,
            **parts,
        )
        batches = options.pop("batches", None)
        if batches is None:
            batches = training_loader(self.encoded, LengthBuckets(self.encoded.lengths, 16, 0, 50))
        return train(training, batches, **{"evaluate": lambda: NOTHING, **options})


def highest(scores: Tensor, k: int) -> Tensor:
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().sort(descending=True, stable=True).indices[:k]] = True
    return mask.view_as(scores)


class PassedOn(torch.autograd.Function):
    """M forward; backward the gradient goes to the scores unchanged."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, mask: Tensor) -> Tensor:
        return mask.to(score)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def smp_by_the_book(run: Run, penalty: float, factored: bool, trains_weights: bool) -> dict[str, dict[str, Tensor]]:
    """SMP-L (or movement) as the method section says it, one graph a step: y = x (W M(S))^T + b, loss + lambda R.

    Returns the final parts of each matrix: scores (S + r + c), weight.
    """
    backbone = run.model.backbone
    fixed = {name: parameter.detach().clone() for name, parameter in backbone.named_parameters()}
    names = [f"{layer.name}.weight" for layer in run.layers]
    shapes = {name: fixed[name].shape for name in names}
    w = {name: fixed.pop(name).requires_grad_(trains_weights) for name in names}
    s = {f"{layer.name}.weight": layer.score().clone().requires_grad_() for layer in run.layers}
    r = {name: torch.zeros(shapes[name][0], 1, dtype=torch.float64, requires_grad=factored) for name in names}
    c = {name: torch.zeros(1, shapes[name][1], dtype=torch.float64, requires_grad=factored) for name in names}
    scores = [part for group in (s, r, c) for part in group.values() if part.requires_grad]
    weights = [*w.values(), *(tensor.requires_grad_() for tensor in fixed.values())] if trains_weights else []
    settings = run.pruner.settings
    optimizer = torch.optim.AdamW(
        [
            {"params": scores, "lr": settings.scores_lr, "weight_decay": 0.0},
            {"params": [x for x in weights if x.ndim > 1], "lr": settings.weights_lr, "weight_decay": 0.01},
            {"params": [x for x in weights if x.ndim == 1], "lr": settings.weights_lr, "weight_decay": 0.0},
        ],
        betas=(settings.beta1, settings.beta2),
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    for step, (inputs, labels) in zip(range(STEPS), run.batches(), strict=False):
        t = step / STEPS
        density = (1 - SPARSITY) + SPARSITY * (1 - min(1, t / settings.ramp_end)) ** 3
        kept = math.floor(round(density, 12) * sum(x.numel() for x in w.values()))
        matrices = {}
        for name, count in zip(names, allotted(kept, [w[name].numel() for name in names]), strict=True):
            score = s[name] + r[name] + c[name]
            matrices[name] = w[name] * PassedOn.apply(score, highest(score.detach(), count))  # type: ignore[no-untyped-call]
        logits = functional_call(backbone, {**fixed, **matrices}, kwargs=inputs).logits
        regulariser = torch.stack([torch.sigmoid(s[name] + r[name] + c[name]).mean() for name in names]).mean()
        loss = cross_entropy(logits.float(), labels) + penalty * (1 - (1 - t) ** 3) * regulariser
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*weights, *scores], 1.0)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (STEPS - step) / STEPS
        optimizer.step()
    return {name: {"scores": (s[name] + r[name] + c[name]).detach(), "weight": w[name].detach()} for name in names}


def allotted(kept: int, sizes: list[int]) -> list[int]:
    """The same density everywhere; what rounding down leaves over goes to the largest remainders."""
    shares = [kept * size / sum(sizes) for size in sizes]
    counts = [math.floor(share) for share in shares]
    for index in sorted(range(len(sizes)), key=lambda i: (counts[i] - shares[i], i))[: kept - sum(counts)]:
        counts[index] += 1
    return counts


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (SMP, SMPSettings(init="magnitude", factored=False, structure=1.0, allocation="L")),
        (SMP, SMPSettings(init="magnitude", factored=True, structure=1.0, allocation="L", penalty=40.0)),
        (Movement, ScoredSettings(init="magnitude")),
        (Movement, ScoredSettings(init="magnitude", factored=True, penalty=10.0)),
    ],
    ids=["smp", "smp-factored", "movement", "movement-factored"],
)
def test_the_loop_does_what_the_paper_says(pico: Any, sentiment: Any, kind: type[Pruner], settings: Any) -> None:
    run = Run(pico, sentiment, kind(settings))
    # The default at this sparsity.
    penalty = 400.0 if settings.penalty == "auto" else settings.penalty
    expected = smp_by_the_book(run, penalty, settings.factored, kind.trains_weights)
    started = {layer.name: layer.score().clone() for layer in run.layers}
    run.train()
    for layer in run.layers:
        parts = expected[f"{layer.name}.weight"]
        # Each step moves a score by about its rate, 0.02; both must agree far below that.
        assert (layer.score() - started[layer.name]).abs().max() > 0.02
        torch.testing.assert_close(layer.score(), parts["scores"], rtol=0, atol=2e-4)
        torch.testing.assert_close(layer.weight.detach(), parts["weight"], rtol=0, atol=2e-6)


def test_dense_training_is_plain_fine_tuning(pico: Any, sentiment: Any) -> None:
    run = Run(pico, sentiment, Dense(Dense.Settings(weights_lr=1e-3)))
    copy = Run(pico, sentiment, Dense()).model.backbone
    parameters = list(copy.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [x for x in parameters if x.ndim > 1], "weight_decay": 0.01},
            {"params": [x for x in parameters if x.ndim == 1], "weight_decay": 0.0},
        ]
    )
    losses = []
    for step, (inputs, labels) in zip(range(STEPS), run.batches(), strict=False):
        loss = cross_entropy(copy(**inputs).logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (STEPS - step) / STEPS
        optimizer.step()
        losses.append(loss.item())
    steps: list[Step] = []
    summary = run.train(on_step=steps.append)
    for (name, found), wanted in zip(run.model.backbone.named_parameters(), parameters, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5, msg=name)
    assert [step.loss for step in steps[:-1]] == pytest.approx(losses, abs=1e-5)
    assert summary.loss == pytest.approx(losses[-1], abs=1e-5)
    assert {step.density for step in steps} == {1.0}


def test_evaluation_when_it_is_due_and_at_the_end(pico: Any, sentiment: Any) -> None:
    run = Run(pico, sentiment, SMP(SMPSettings(init="zero")))
    calls: list[float] = []

    def evaluate() -> Evaluation:
        kept = sum(int(layer.mask.sum()) for layer in run.layers) / sum(layer.mask.numel() for layer in run.layers)
        calls.append(kept)
        return Evaluation({"accuracy": len(calls) / 10}, {"dev": [len(calls)]})

    steps: list[Step] = []
    summary = run.train(evaluate=evaluate, evaluate_after={2, 5}, on_step=steps.append)
    assert summary.history == [(2, {"accuracy": 0.1}), (5, {"accuracy": 0.2}), (6, {"accuracy": 0.3})]
    assert summary.evaluation == Evaluation({"accuracy": 0.3}, {"dev": [3]})
    assert [step.step for step in steps if step.metrics] == [2, 5, 6]
    # The last evaluation is that of the finished model.
    assert calls[-1] == pytest.approx(1 - SPARSITY, abs=1e-3)


def test_a_single_step_ends_on_the_density_asked_for(pico: Any, sentiment: Any) -> None:
    run = Run(pico, sentiment, SMP(SMPSettings(init="magnitude")))
    steps: list[Step] = []
    run.train(steps=1, on_step=steps.append)
    assert [(step.step, step.density) for step in steps] == [(1, 1.0), (1, 1 - SPARSITY)]
    prunable = sum(layer.mask.numel() for layer in run.layers)
    assert sum(int(layer.mask.sum()) for layer in run.layers) == math.floor(0.2 * prunable)


def test_epochs_are_repeated_until_the_steps_are_done(pico: Any, sentiment: Any) -> None:
    run = Run(pico, sentiment, SMP(SMPSettings(init="zero")))
    seen: list[list[int]] = []
    forward = run.model.forward

    def watched(**inputs: Tensor) -> Tensor:
        seen.append(inputs["input_ids"].tolist())
        return forward(**inputs)

    run.model.forward = watched  # type: ignore[method-assign]
    run.train(steps=8)
    # 40 examples in batches of 16: three batches an epoch.
    expected = [inputs["input_ids"].tolist() for (inputs, _), _ in zip(run.batches(), range(8), strict=False)]
    assert seen == expected


@pytest.mark.parametrize("pruner", [SMP(SMPSettings(init="zero")), Movement(Movement.Settings(init="zero")), Dense()])
def test_micro_batches_add_up_to_the_batch(pico: Any, sentiment: Any, pruner: Pruner) -> None:
    trained, losses = [], []
    # At last what a GPU makes of three: parts that are joined to one again.
    for parts, together in ((1, 0), (3, 0), (3, 10**6)):
        run = Run(pico, sentiment, pruner)
        # Batches of 16, 16 and 8: with three micro-batches 6, 6, 4 and 6, 2, so that means of means would be wrong.
        order = LengthBuckets(run.encoded.lengths, 16, 0, 1, parts)
        sizes = [
            [len(labels) for _, labels in batch] for batch in training_loader(run.encoded, order, together=together)
        ]
        whole = parts == 1 or together
        assert sorted(sizes) == ([[8], [16], [16]] if whole else [[6, 2], [6, 6, 4], [6, 6, 4]])
        order = LengthBuckets(run.encoded.lengths, 16, 0, 1, parts)
        losses.append(run.train(batches=training_loader(run.encoded, order, together=together)).loss)
        scores = [part for layer in run.layers for part in layer.score_parameters()]
        trained.append([tensor.detach().clone() for tensor in (*run.weights, *scores)])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    # Logits are rounded to single precision, and AdamW's first steps divide by gradients near nothing.
    for one, *others in zip(*trained, strict=True):
        for other in others:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_every_step_is_in_training_mode(pico: Any, sentiment: Any) -> None:
    run = Run(pico, sentiment, SMP(SMPSettings(init="zero")))
    # As `from_pretrained` leaves a model: no dropout.
    run.model.eval()
    modes: list[bool] = []
    run.model.register_forward_pre_hook(
        lambda module, args: modes.append(all(part.training for part in module.modules()))
    )
    run.train(steps=3)
    assert modes == [True] * 3


def test_a_loss_that_is_no_number_stops_the_run(pico: Any, sentiment: Any) -> None:
    run = Run(pico, sentiment, Dense())
    with torch.no_grad():
        run.model.backbone.classifier.weight[0, 0] = math.nan
    with pytest.raises(TrainingDiverged, match="step 1: the loss is nan"):
        run.train()


def test_losses_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    by_hand = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert task_objective("classification")({}, logits, torch.tensor([0, 0])).item() == pytest.approx(
        by_hand, rel=1e-6
    )
    assert task_objective("regression")({}, torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 5.0])).item() == 2.5


def test_masked_weights_in_half_precision_change_nothing(
    pico: Any, sentiment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast would convert W' in every forward pass; held in bfloat16 it is the same number, so are all scores."""
    from smpcli.training import loop

    def trained() -> tuple[Run, Summary]:
        run = Run(pico, sentiment, SMP(SMPSettings(init="magnitude")))
        run.model.float()
        for layer in run.layers:
            layer.weight = layer.weight.float()
            layer.scores, layer.row, layer.column = (
                torch.nn.Parameter(part.detach().float()) for part in layer.score_parameters()
            )
        return run, run.train(precision="bf16")

    plain_refresh = loop.refresh
    held: set[torch.dtype] = set()

    def watched(pruner: Any, layers: Any, density: float, dtype: torch.dtype | None = None, **how: Any) -> None:
        plain_refresh(pruner, layers, density, dtype, **how)
        held.update(layer.effective.dtype for layer in layers)

    monkeypatch.setattr(loop, "refresh", watched)
    half, _ = trained()
    # In bfloat16 while training, and in float32 at the end.
    assert held == {torch.bfloat16, torch.float32}
    monkeypatch.setattr(
        loop, "refresh", lambda pruner, layers, density, dtype=None, **how: plain_refresh(pruner, layers, density)
    )
    full, _ = trained()
    for ours, theirs in zip(half.layers, full.layers, strict=True):
        assert torch.equal(ours.score(), theirs.score())
        assert torch.equal(ours.mask, theirs.mask)
        assert ours.effective.dtype == torch.float32


def test_steps_without_the_fallen_channels_end_on_the_same_scores(
    pico: Any, sentiment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smpcli.training import loop

    def trained() -> Run:
        run = Run(pico, sentiment, SMP(SMPSettings(init="magnitude", structure=0.3)))
        inputs, _ = run.encoded.collate([0, 1])
        run.model.eval()
        confirm_narrow(run.layers, lambda: run.model(**inputs))
        run.train()
        return run

    plain_refresh = loop.refresh
    widths: list[int] = []

    def watched(pruner: Any, layers: Any, density: float, *dtype: Any, **how: Any) -> None:
        plain_refresh(pruner, layers, density, *dtype, **how)
        widths.append(sum(layer.effective.numel() for layer in layers))

    monkeypatch.setattr(loop, "refresh", watched)
    narrow = trained()
    # All of the model at first, less of it after the ramp, and all of it for evaluation at the end.
    assert widths[0] == widths[-1] == sum(layer.weight.numel() for layer in narrow.layers)
    assert max(widths[-3:-1]) < widths[0] * 2 / 3
    monkeypatch.setattr(loop, "refresh", lambda *given, narrow=False: plain_refresh(*given))
    whole = trained()
    for ours, theirs in zip(narrow.layers, whole.layers, strict=True):
        torch.testing.assert_close(ours.score(), theirs.score(), rtol=0, atol=1e-6)
        assert torch.equal(ours.mask, theirs.mask)
        assert torch.equal(ours.effective, theirs.effective)
        assert torch.equal(ours.module.bias, theirs.module.bias)  # type: ignore[arg-type]
