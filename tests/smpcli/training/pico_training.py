"""A BERT of a few numbers, ready to be trained by any method, and batches for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertConfig

from pruners.base import Pruner
from pruners.gmp import GMP
from pruners.l0 import L0
from pruners.magnitude import Magnitude
from pruners.masking import attach
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import stack_layers
from pruners.movement import Movement
from pruners.obert import Obert
from pruners.platon import Platon
from pruners.random_masks import Random
from pruners.smp import SMP, SMPSettings
from pruners.snip_momentum import SnipMomentum
from pruners.soft_movement import SoftMovement
from smpcli.modeling.attention import confirm_whole_mask
from smpcli.modeling.heads import TaskModel
from smpcli.modeling.layers import masked_layers
from smpcli.training.loop import Training
from smpcli.training.objective import task_objective
from smpcli.training.optimizer import make_optimizer, trained_weights

STEPS = 8
METHODS: dict[str, Callable[[], Pruner]] = {
    "smp": lambda: SMP(SMPSettings(init="magnitude")),
    "smp without structure": lambda: SMP(SMPSettings(init="magnitude", structure=1.0)),
    "movement": lambda: Movement(Movement.Settings(init="magnitude", penalty=10.0, factored=True)),
    "soft-movement": lambda: SoftMovement(SoftMovement.Settings(init="magnitude")),
    "magnitude": Magnitude,
    "gmp": GMP,
    "random": Random,
    "snip-momentum": SnipMomentum,
    "obert": lambda: Obert(Obert.Settings(mask_every=2)),
    "platon": lambda: Platon(Platon.Settings(mask_every=2)),
    "l0": lambda: L0(L0.Settings(init="magnitude")),
}


def training(pruner: Pruner, stacked: bool, layers: int = 2, precision: str = "fp32") -> Training:
    """A BERT of so many blocks without dropout, ready to be trained at 80 % for STEPS steps."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    backbone = AutoModelForSequenceClassification.from_config(config)
    model = TaskModel(backbone, "prototype", {"classifier.weight", "classifier.bias"})
    masked: list[MaskedLayer] = masked_layers(backbone, config) if pruner.prunes else []
    attach(pruner, masked, {})
    for layer in masked:
        # As a trial finds of BERT; without narrow steps, so that both compute the same.
        layer.narrows = False
    if stacked:
        assert confirm_whole_mask(model, lambda: model.eval()(**batch()[0][0]))
        stack_layers(masked)
    weights = trained_weights(pruner, model, masked)
    made = Training(
        model,
        pruner,
        masked,
        weights,
        make_optimizer(pruner, weights, masked),
        task_objective("classification"),
        Accelerator(cpu=True),
        steps=STEPS,
        final_density=0.2,
        precision=precision,
    )
    model.train()
    return made


def batch(seed: int = 0, parts: int = 1, length: int = 9) -> list[tuple[dict[str, Tensor], Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (parts, 6, length), generator=draw)
    lengths = torch.randint(2, length + 1, (parts, 6, 1), generator=draw)
    return [
        ({"input_ids": one * mask, "attention_mask": mask.long()}, torch.arange(6) % 2)
        for one, mask in zip(ids, torch.arange(length) < lengths, strict=True)
    ]
