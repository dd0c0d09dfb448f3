"""A trial decides what is computed narrowly; expected is what each architecture's code does with fewer heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unusual import unusual

from pruners.masking import refresh
from pruners.masks.layer import MaskedLayer
from pruners.masks.trial import confirm_narrow
from pruners.methods import METHODS
from smpcli.modeling.layers import masked_layers

IDS = torch.tensor([[2, 7, 9, 11, 8, 3], [2, 8, 3, 0, 0, 0]])
FEED_FORWARD = ("intermediate.dense", "output.dense")
# They reshape queries, keys and values to all heads, or to the hidden size.
FIXED = ["roformer", "rembert", "big_bird", "mra", "yoso", "megatron-bert", "canine"]


def compute_with(model: Any) -> Callable[[], Tensor]:
    return lambda: model(input_ids=IDS, attention_mask=(IDS != 0).long())[0].detach()


def loaded(model: Any) -> tuple[Any, list[MaskedLayer]]:
    model.eval().requires_grad_(False)
    return model, masked_layers(model, model.config)


def narrowing(layers: list[MaskedLayer]) -> dict[str, bool]:
    """For attention and the feed-forward parts, whether all of their matrices narrow; they must agree."""
    found: dict[str, set[bool]] = {"attention": set(), "feed-forward": set()}
    for layer in layers:
        inner = layer.kind in (*FEED_FORWARD, "ffn.lin1", "ffn.lin2")
        found["feed-forward" if inner else "attention"].add(layer.narrows)
    assert all(len(values) == 1 for values in found.values())
    return {part: values.pop() for part, values in found.items()}


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra"])
def test_models_that_take_their_width_from_the_matrices_narrow_all(pico: Any, name: str) -> None:
    import transformers as hf

    model, layers = loaded(hf.AutoModel.from_pretrained(pico(name)))
    confirm_narrow(layers, compute_with(model))
    assert narrowing(layers) == {"attention": True, "feed-forward": True}


@pytest.mark.parametrize("name", ["mpnet", "deberta-v3"])
def test_models_that_count_their_heads_narrow_neurons_alone(pico: Any, name: str) -> None:
    import transformers as hf

    model, layers = loaded(hf.AutoModel.from_pretrained(pico(name)))
    confirm_narrow(layers, compute_with(model))
    assert narrowing(layers) == {"attention": False, "feed-forward": True}


@pytest.mark.parametrize("name", FIXED)
def test_models_of_a_fixed_width_narrow_neurons_alone_and_compute_the_same(name: str) -> None:
    model, layers = loaded(unusual(name, 70))
    confirm_narrow(layers, compute_with(model))
    assert narrowing(layers) == {"attention": False, "feed-forward": True}
    method: Any = METHODS.load("smp")
    pruner = method(method.Settings(structure=0.3, allocation="L"))
    draw = torch.Generator().manual_seed(1)
    for layer in layers:
        layer.learn_scores(torch.randn(layer.weight.shape, generator=draw), factored=False)
    outputs = []
    for narrow in (False, True):
        pruner.begin(layers, 0.2)
        refresh(pruner, layers, pruner.density(1.0, 0.2), narrow=narrow)
        outputs.append(compute_with(model)())
    # The two inner matrices did become narrower.
    assert sum(layer.effective.shape != layer.weight.shape for layer in layers) == 4
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


class Block(nn.Module):
    """Attention with heads of two, and a feed-forward part, of BERT's names. dealt: heads share out what is there.

    shown: beside its result, the first head's values are added to the outputs.
    """

    def __init__(self, dealt: bool) -> None:
        super().__init__()
        self.dealt = dealt
        names = ("query", "key", "value")
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(8, 8) for name in names}),
                "output": nn.ModuleDict({"dense": nn.Linear(8, 8)}),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(8, 12)})
        self.output = nn.ModuleDict({"dense": nn.Linear(12, 8)})

    def forward(self, x: Tensor) -> Tensor:
        def heads(name: str) -> Tensor:
            y: Tensor = self.attention["self"][name](x)  # type: ignore[index]
            shape = (4, -1) if self.dealt else (-1, 2)
            return y.view(*y.shape[:2], *shape).transpose(1, 2)

        mixed = (heads("query") @ heads("key").mT).softmax(-1) @ heads("value")
        x = x + self.attention["output"]["dense"](mixed.transpose(1, 2).flatten(2))  # type: ignore[index]
        return x + self.output["dense"](self.intermediate["dense"](x).tanh())  # type: ignore[no-any-return]


@pytest.mark.parametrize("dealt", [False, True])
def test_what_computes_something_else_in_silence_does_not_narrow(dealt: bool) -> None:
    torch.manual_seed(0)
    blocks = nn.ModuleList([Block(dealt), Block(dealt)]).requires_grad_(False)
    layers = [
        MaskedLayer(f"layer.{index}.{kind}", kind, module, heads=4)
        for index, block in enumerate(blocks)
        for kind, module in block.named_modules()
        if isinstance(module, nn.Linear)
    ]
    x = torch.randn(2, 5, 8)

    def compute() -> Tensor:
        y = x
        for block in blocks:
            y = block(y)
        return y

    # With half of the heads, dealing them out raises no error: each head has one dimension of two.
    for layer in layers[:4]:
        layer.part = torch.arange(4), 1 if layer.kind == "attention.output.dense" else 0
        layer.set_mask(layer.mask, narrow=True)
    assert compute().isfinite().all()
    for layer in layers[:4]:
        layer.part = None
        layer.set_mask(layer.mask)
    confirm_narrow(layers, compute)
    assert narrowing(layers) == {"attention": not dealt, "feed-forward": True}


def test_a_trial_leaves_nothing_behind(pico: Any) -> None:
    import transformers as hf

    model, layers = loaded(hf.AutoModel.from_pretrained(pico("bert")))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()

    def compute() -> Tensor:
        torch.rand(3)  # some architectures draw in evaluation mode, too
        return compute_with(model)()

    confirm_narrow(layers, compute)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for layer in layers:
        assert layer.narrows
        assert layer.part is None and bool(layer.mask.all())
        # W itself, not a copy of it.
        assert layer.effective.data_ptr() == layer.weight.data_ptr()
        assert not layer.module._forward_hooks


def test_without_a_trial_nothing_narrows(make_layers: Callable[..., list[MaskedLayer]]) -> None:
    layers = make_layers([(4, 4), (8, 4), (4, 8)], ["self_attn.qkv", "mlp.up", "mlp.down"])
    assert not any(layer.narrows for layer in layers)

    def compute() -> Tensor:
        raise AssertionError("unknown blocks need no trial")

    confirm_narrow(layers, compute)
    assert not any(layer.narrows for layer in layers)
