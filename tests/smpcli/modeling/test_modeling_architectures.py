"""Every architecture that docs/models.md names: prune, evaluate anew, export, and reload with transformers alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from smpcli import evaluate, export, prune
from smpcli.errors import UserError
from smpcli.evaluation.recompute import Reopened, reopen
from smpcli.export import hf as hf_export
from smpcli.export.verify import Verified
from smpcli.modeling.backbone import load_pretrained
from smpcli.modeling.layers import TransposedLinear, find_prunable

H, I = 32, 48  # noqa: E741
# By hand: the number of weights in the linear layers of one block, and how many blocks have weights of their own.
BERT = 4 * H * H + 2 * H * I
PRUNABLE = {
    "bert-mlm": 2 * BERT,
    "roberta": 3 * BERT,
    "distilbert": 2 * BERT,
    "electra": 2 * BERT,
    "mpnet": 2 * BERT,
    # Three layers share one block.
    "albert": BERT,
    # v2 has a key and a query for relative positions beside those of the content.
    "deberta-v2": 2 * (BERT + 2 * H * H),
    "deberta-v3": 2 * BERT,
    # One matrix for query, key and value, one for both halves of the gated MLP.
    "modernbert": 2 * (3 * H * H + H * H + 2 * H * I + H * I),
    "gpt2": 2 * BERT,
    # One head of two for keys and for values; three matrices in the MLP.
    "llama": 2 * (2 * H * H + 2 * H * H // 2 + 3 * H * I),
}
DECODERS = ("gpt2", "llama")
CASES = [(name, "words") for name in PRUNABLE] + [(name, "prototype") for name in ("modernbert", "albert", *DECODERS)]
IDS = [f"{name}-{head}" for name, head in CASES]

# A stranger's process: transformers, the folder, and what docs/models.md says about where the answer is read.
RELOAD = """
import json, sys, torch, transformers
from safetensors.torch import load_file, save_file
assert "smpcli" not in sys.modules
for job in json.loads(sys.argv[1]):
    model = getattr(transformers, job["class"]).from_pretrained(job["folder"]).eval()
    inputs = load_file(job["inputs"])
    with torch.no_grad():
        logits = model(**inputs).logits
    if job["words"]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(job["folder"])
        ids = tokenizer.convert_tokens_to_ids(list(model.config.smp_label_words.values()))
        last = inputs["attention_mask"].sum(1) - 1
        rows = torch.arange(len(last))
        logits = logits[rows, last if job["decoder"] else 0 * last][:, ids]
    save_file({"logits": logits.contiguous()}, job["out"])
"""

Run = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def run(pico: Any, sentiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    made: dict[tuple[str, str], Path] = {}
    folder = tmp_path_factory.mktemp("architectures")

    def get(name: str, head: str) -> Path:
        if (name, head) not in made:
            made[name, head] = prune(
                str(sentiment.words),
                "smp",
                0.8,
                model=str(pico(name)),
                head=head,
                max_steps=6,
                batch_size=16,
                max_length=24,
                evaluations=1,
                output=folder,
            ).path
        return made[name, head]

    return get


@pytest.mark.parametrize(("name", "head"), CASES, ids=IDS)
def test_prune_keeps_what_was_asked_and_eval_agrees(run: Run, name: str, head: str) -> None:
    path = run(name, head)
    result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    assert (result["model"]["head"], result["model"]["heads"]) == (head, 2)
    assert result["weights"]["prunable"] == PRUNABLE[name]
    assert result["weights"]["kept"] == PRUNABLE[name] * 2 // 10
    assert evaluate(path).agrees
    model = reopen(path).model
    matrices = find_prunable(model.backbone, model.config)
    assert sum(int(torch.count_nonzero(matrix.module.weight)) for matrix in matrices) == PRUNABLE[name] * 2 // 10


@pytest.fixture(scope="module")
def reloaded(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Reopened, Any, torch.Tensor]]:
    """By case: the run, its inputs, and the logits that its folder gives in one new process for all of them."""
    scratch = tmp_path_factory.mktemp("reload")
    jobs, runs, batches = [], {}, {}
    with pytest.MonkeyPatch.context() as patch:
        # The export's own check in a process of its own is tested below: here one process serves all.
        unchecked = Verified(metric=0.0, recorded=0.0, metrics={}, difference=0.0, examples=0)
        patch.setattr(hf_export, "verify", lambda folder, run, code: unchecked)
        for (name, head), case in zip(CASES, IDS, strict=True):
            folder = export(run(name, head), "hf", output=scratch / case).path
            runs[case] = reopen(run(name, head))
            batches[case], _ = next(iter(runs[case].dev.values())).collate(range(12))
            save_file(batches[case], scratch / f"{case}-inputs.safetensors")
            words = "CausalLM" if name in DECODERS else "MaskedLM"
            kind = words if head == "words" else "SequenceClassification"
            jobs.append(
                {
                    "class": f"AutoModelFor{kind}",
                    "folder": str(folder),
                    "inputs": str(scratch / f"{case}-inputs.safetensors"),
                    "out": str(scratch / f"{case}-logits.safetensors"),
                    "words": head == "words",
                    "decoder": name in DECODERS,
                }
            )
    done = subprocess.run(
        [sys.executable, "-I", "-c", RELOAD, json.dumps(jobs)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {
        case: (runs[case], batches[case], load_file(scratch / f"{case}-logits.safetensors")["logits"]) for case in IDS
    }


@pytest.mark.parametrize("case", IDS)
def test_the_stock_folder_gives_the_run_s_logits(
    reloaded: dict[str, tuple[Reopened, Any, torch.Tensor]], case: str
) -> None:
    run, inputs, logits = reloaded[case]
    with torch.no_grad():
        expected = run.model(**inputs)
    assert expected.shape == (12, 2)
    # A model that answers the same to everything would pass: it must not.
    assert expected.std(0).min() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "head"), CASES, ids=IDS)
def test_the_mask_file_gives_the_run_s_logits(
    run: Run, export_here: Callable[..., Any], tmp_path: Path, name: str, head: str
) -> None:
    made = export_here(run(name, head), "mask", output=tmp_path / "one.smpmask")
    # The export compares logits itself and refuses more than 1e-5; the same matrices in memory give the same ones.
    assert made.max_difference == 0
    assert made.bytes == made.path.stat().st_size


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_s_own_export_is_verified_in_a_new_process(run: Run, tmp_path: Path, name: str) -> None:
    made = export(run(name, "words"), "hf", output=tmp_path / name)
    assert made.max_difference <= 1e-5 and made.examples > 0
    assert export(run(name, "words"), "mask", output=tmp_path / f"{name}.smpmask").max_difference == 0


# -- GPT-2's Conv1D --------------------------------------------------------------------------------------


def test_conv1d_is_a_linear_layer_with_rows_of_outputs(pico: Any) -> None:
    stock = hf.AutoModelForCausalLM.from_pretrained(pico("gpt2")).eval()
    ours, missing = load_pretrained(hf.AutoModelForCausalLM, str(pico("gpt2")), stock.config)
    assert not missing
    shapes = {matrix.kind: tuple(matrix.module.weight.shape) for matrix in find_prunable(ours, ours.config)}
    # (out, in), where the checkpoint has (in, out).
    assert shapes == {
        "attn.c_attn": (3 * H, H),
        "attn.c_proj": (H, H),
        "mlp.c_fc": (I, H),
        "mlp.c_proj": (H, I),
    }
    for matrix in find_prunable(ours, ours.config):
        assert isinstance(matrix.module, TransposedLinear)
        assert torch.equal(matrix.module.weight, stock.get_submodule(matrix.name).weight.T)
    ids = torch.randint(5, 50, (3, 9))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(ids).logits, stock(ids).logits, rtol=1e-5, atol=1e-5)
    # Every state dict keeps the stock layout, in both directions.
    state = ours.state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in stock.state_dict().items()
    }
    assert all(torch.equal(tensor, state[name]) for name, tensor in stock.state_dict().items())
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    ours.load_state_dict(stock.state_dict())
    assert all(torch.equal(tensor, stock.state_dict()[name]) for name, tensor in ours.state_dict().items())


# -- what can't work -------------------------------------------------------------------------------------


def test_shared_blocks_are_one_matrix_with_one_mask(pico: Any) -> None:
    model = hf.AutoModelForMaskedLM.from_pretrained(pico("albert"))
    names = [matrix.name for matrix in find_prunable(model, model.config)]
    block = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    kinds = ["ffn", "ffn_output"] + [f"attention.{part}" for part in ("query", "key", "value", "dense")]
    assert set(names) == {f"{block}.{kind}" for kind in kinds} and len(names) == 6


def test_a_block_that_is_listed_twice_counts_once() -> None:
    block = torch.nn.Sequential(torch.nn.Linear(3, 3))
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([block, block])})
    found = find_prunable(model, hf.BertConfig(num_hidden_layers=2))
    assert [matrix.name for matrix in found] == ["blocks.0.0"]


SMALL = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}


def _mixtral() -> Any:
    return hf.MixtralForCausalLM(hf.MixtralConfig(num_local_experts=2, num_key_value_heads=2, **SMALL))


def _xlnet() -> Any:
    return hf.XLNetLMHeadModel(hf.XLNetConfig(vocab_size=20, d_model=8, n_layer=2, n_head=2, d_inner=8))


@pytest.mark.parametrize(("make", "name"), [(_mixtral, "mixtral"), (_xlnet, "xlnet")])
def test_weights_that_no_mask_would_reach_are_a_reason_to_refuse(make: Callable[[], Any], name: str) -> None:
    model = make()
    with pytest.raises(
        UserError, match=rf"model type '{name}' can't be pruned: \d\d% of its blocks' weights"
    ) as caught:
        find_prunable(model, model.config)
    assert "--model" in str(caught.value) and len(str(caught.value)) <= 300
