"""Forward and backward of a training step: plain against fused attention, float32 against bfloat16.

    OMP_NUM_THREADS=1 python benchmarks/attention.py

The embedded model with random tokens, the encoder's matrices trained. All variants take turns in one process; printed
are the median milliseconds of a step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import product

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from smpcli.modeling.backbone import model_path


def make_step(attention: str, precision: str, dropout: float, batch: int, length: int) -> Callable[[], None]:
    model = AutoModelForSequenceClassification.from_pretrained(
        model_path("minilm"),
        num_labels=2,
        attn_implementation=attention,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    ).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("encoder.layer" in name and parameter.ndim == 2)
    ids = torch.randint(1000, 20_000, (batch, length))
    labels = torch.randint(0, 2, (batch,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        cross_entropy(logits.float(), labels).backward()
        model.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    variants = list(product(["eager", "sdpa"], ["fp32", "bf16"], [0.0, 0.1]))
    steps = {variant: make_step(*variant, options.batch, options.length) for variant in variants}
    times: dict[tuple[str, str, float], list[float]] = {variant: [] for variant in variants}
    for round_ in range(options.rounds + 2):
        for variant, step in steps.items():
            started = time.perf_counter()
            step()
            if round_ >= 2:
                times[variant].append(time.perf_counter() - started)
    for (attention, precision, dropout), seconds in times.items():
        print(f"{attention:5} {precision} dropout {dropout}: {statistics.median(seconds) * 1e3:6.1f} ms")


if __name__ == "__main__":
    main()
