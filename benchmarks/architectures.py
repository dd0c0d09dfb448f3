"""Which architectures of the installed transformers work: each one, tiny, through prune, eval, predict, exports.

    python benchmarks/architectures.py                    # every text architecture; some minutes on one core
    python benchmarks/architectures.py bert roformer      # these alone
    python benchmarks/architectures.py --markdown         # what docs/models.md holds

Of each model type in transformers' mappings for sequence classification, masked and causal language models: a
configuration with small numbers, random weights, a tokenizer of some words; three steps of `smp prune` with the
default method, once with label words and once with prototypes, as far as there is a class for them; then `smp eval`,
`smp predict` and `smp export` to hf, compact and onnx. Each type has a forked process of its own and a time limit,
and so has what an export is verified with (else importing the libraries would take most of the time).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch

from smpcli import UserError, api
from smpcli.errors import one_line

GOOD, BAD = "good great fine lovely superb warm".split(), "bad terrible dull boring awful cold".split()
NEUTRAL = "the a this film movie story plot actor scene and of with in it was is its for an who some cast".split()
WORDS = [*GOOD, *BAD, *NEUTRAL, "."]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Room for every byte, of which byte-level tokenizers make their words.
VOCABULARY = 600
SEED, STEPS, ROWS = 3, 3, 48
OK = "ok"
HEADS = ("words", "prototype")
PARTS = ("prune", "eval", "predict", "hf", "compact", "onnx")

# Sizes by the names that configurations give them; the first rule whose words are all in the name counts.
WIDTH, LAYERS, ATTENTION_HEADS, INNER, POSITIONS = 32, 2, 4, 48, 64
RULES: list[tuple[tuple[str, ...], int]] = [
    (("vocab_size",), VOCABULARY),
    (("vocab_size_per_layer_input",), VOCABULARY),
    (("token_id",), -1),
    (("_index",), -1),
    (("num_experts_per_tok",), 2),
    (("experts_per_tok",), 2),
    (("topk",), 1),
    (("top_k",), 2),
    (("n_group",), 1),
    (("shared_experts",), 1),
    (("first_k_dense",), 1),
    (("expert_intermediate",), 16),
    (("expert_ffn",), 16),
    (("moe_intermediate",), 16),
    (("experts",), 4),
    (("qk_head_dim",), 2 * WIDTH // ATTENTION_HEADS),
    (("head_dim",), WIDTH // ATTENTION_HEADS),
    (("head_size",), WIDTH // ATTENTION_HEADS),
    (("d_kv",), WIDTH // ATTENTION_HEADS),
    (("kv_heads",), 2),
    (("key_value_heads",), 2),
    (("query_groups",), 2),
    (("num_attention_heads",), ATTENTION_HEADS),
    (("attention_heads",), ATTENTION_HEADS),
    (("n_heads",), ATTENTION_HEADS),
    (("n_head",), ATTENTION_HEADS),
    (("num_heads",), ATTENTION_HEADS),
    (("hidden_layers",), LAYERS),
    (("n_layer",), LAYERS),
    (("num_layers",), LAYERS),
    (("decoder_layers",), LAYERS),
    (("encoder_layers",), LAYERS),
    (("layers_block",), LAYERS),
    (("kv_lora_rank",), 8),
    (("q_lora_rank",), 16),
    (("rope_head",), 8),
    (("nope_head",), 8),
    (("v_head",), 8),
    (("intermediate",), INNER),
    (("ffn",), INNER),
    (("n_inner",), INNER),
    (("d_inner",), INNER),
    (("interval",), 2),
    (("d_ff",), INNER),
    (("hidden_dim",), INNER),
    (("max_position", "embeddings"), POSITIONS),
    (("n_positions",), POSITIONS),
    (("n_ctx",), POSITIONS),
    (("max_seq_len",), POSITIONS),
    (("embedding_size",), WIDTH),
    (("hidden_size_per_layer_input",), 8),
    (("hidden_size",), WIDTH),
    (("d_model",), WIDTH),
    (("d_embed",), WIDTH),
    (("n_embd",), WIDTH),
    (("emb_dim",), WIDTH),
    (("dim_model",), WIDTH),
    (("sliding_window",), 8),
    (("lru_width",), WIDTH),
]
# What no rule can know: sizes that depend on each other.
SPECIFIC: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": WIDTH},
    "flaubert": {"emb_dim": WIDTH},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "local"],
        "attention_head_size": 8,
        "local_attn_chunk_length": 16,
        "is_decoder": False,
    },
    "canine": {"downsampling_rate": 4, "local_transformer_stride": 16, "num_hash_buckets": 64, "type_vocab_size": 2},
    "funnel": {"block_sizes": [1, 1], "d_model": WIDTH, "n_head": 4, "d_head": 8, "d_inner": INNER},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "longformer": {"attention_window": 8},
    "nystromformer": {"segment_means_seq_len": POSITIONS, "num_landmarks": POSITIONS},
    "zamba2": {"n_mamba_heads": 8, "mamba_headdim": 8},
    "big_bird": {"block_size": 4},
    "perceiver": {"num_latents": 8, "d_latents": WIDTH, "num_self_attends_per_block": LAYERS},
    "convbert": {"embedding_size": WIDTH},
    "mpt": {"d_model": WIDTH, "expansion_ratio": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8},
    "ctrl": {"dff": INNER},
    "xlm": {"emb_dim": WIDTH},
    "opt": {"word_embed_proj_dim": WIDTH},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "yoso": {"num_hash": 8},
    "lilt": {"hidden_size": 48},
    "squeezebert": {"embedding_size": WIDTH, "intermediate_groups": 4},
    "esm": {
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
        "mask_token_id": 4,
        "token_dropout": False,
        "position_embedding_type": "absolute",
    },
    "esmc": {"num_key_value_heads": ATTENTION_HEADS},
    "dots3_note": {"num_key_value_heads": ATTENTION_HEADS},
    "dots3_note_text": {"num_key_value_heads": ATTENTION_HEADS},
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "mamba2": {"num_heads": 8},
    "zaya": {"num_experts_per_tok": 1},
    "neomme": {"head_dim": 16},
    "minicpm3": {"head_dim": 8, "num_key_value_heads": ATTENTION_HEADS},
    "youtu": {"head_dim": 8, "num_key_value_heads": ATTENTION_HEADS},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 16},
    "roc_bert": {"shape_vocab_size": 80, "pronunciation_vocab_size": 80, "shape_embed_dim": 16},
    "layoutlmv2": {"coordinate_size": 4, "shape_size": 4},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "markuplm": {"xpath_unit_hidden_size": 8},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="model types, default: all")
    parser.add_argument("--seconds", type=int, default=120, help="time limit of each type")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/models.md instead of lines")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    api._quietly()
    # In this process, so that the forked ones have every library already.
    examine("bert")
    found: dict[str, dict[str, Any]] = {}
    for name in options.types or sorted(model_types()):
        found[name] = apart(lambda name=name: examine(name), options.seconds)  # type: ignore[misc]
        if not options.markdown:
            print(*lines(name, found[name]), sep="\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    print(markdown(found) if options.markdown else summary(found))


def model_types() -> set[str]:
    return {name for mapping in _mappings() for name in mapping._model_mapping}


def _mappings() -> tuple[Any, Any, Any]:
    """Sequence classification, masked and causal language models."""
    from transformers.models.auto import modeling_auto as auto

    return (
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        auto.MODEL_FOR_MASKED_LM_MAPPING,
        auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    )


def apart(action: Callable[[], dict[str, Any]], seconds: int) -> dict[str, Any]:
    """What `action` returns, computed in a forked process; {"failed": …} where that dies or takes too long."""
    with tempfile.TemporaryDirectory(prefix="smp-architectures-") as folder:
        file = Path(folder) / "found.json"
        child = os.fork()
        if not child:
            code = 1
            with suppress(BaseException):
                os.setpgid(0, 0)
                tempfile.tempdir = folder
                with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                    found = action()
                file.write_text(json.dumps(found))
                code = 0
            os._exit(code)
        ends = time.monotonic() + seconds
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > ends:
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return {"failed": f"no end within {seconds} s"}
            time.sleep(0.02)
        return json.loads(file.read_text()) if file.exists() else {"failed": "the process died"}


def examine(name: str) -> dict[str, Any]:
    """{"model": ok} or why it can't be made; else for each head what each part of the way said."""
    folder = Path(tempfile.mkdtemp())
    try:
        config = make_config(name)
        save_model(config, folder / "model")
    except Exception as error:  # our numbers don't fit: nothing that smp could be blamed for
        return {"model": one_line(f"{type(error).__name__}: {error} {_place(error)}", 300)}
    _verify_in_forks()
    write_task(folder)
    sequence, masked, causal = _mappings()
    heads = [
        head
        for head, there in (
            ("words", type(config) in masked or type(config) in causal),
            ("prototype", type(config) in sequence),
        )
        if there
    ]
    return {"model": OK, **{head: walk(folder, head) for head in heads}}


def walk(folder: Path, head: str) -> dict[str, str]:
    """What each part of the way said with one head; where pruning is refused or fails nothing follows."""
    found: dict[str, str] = {}
    run: Any = None

    def prune() -> None:
        nonlocal run
        run = api.prune(
            str(folder / "task.yaml"),
            "smp",
            0.8,
            model=str(folder / "model"),
            head=head,
            max_steps=STEPS,
            batch_size=8,
            evaluations=1,
            precision="fp32",
            output=folder / head,
            device="cpu",
        )

    found["prune"] = _said(prune)
    if found["prune"] != OK:
        return found

    def evaluate() -> None:
        if not api.evaluate(run.path).agrees:
            raise RuntimeError("eval doesn't agree with result.json")

    def predict() -> None:
        list(api.predict(run.path, texts=["a good film", "the plot was dull and the cast boring ."]))

    found["eval"], found["predict"] = _said(evaluate), _said(predict)
    for format in PARTS[3:]:
        found[format] = _said(lambda format=format: api.export(run.path, format, output=folder / f"{head}-{format}"))  # type: ignore[misc]
    return found


def _said(action: Callable[[], object]) -> str:
    try:
        action()
    except UserError as error:
        return f"refused: {error}"
    except Exception as error:  # a fault of ours, which this script looks for
        return one_line(f"failed: {type(error).__name__}: {error} {_place(error)}", 400)
    return OK


def _place(error: Exception) -> str:
    frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    return f"({' '.join(frames[-4:])})"


# -- what a run is made of ------------------------------------------------------------------------------


def make_config(name: str) -> Any:
    """A configuration of this type with small numbers."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[name]
    return kind(**{**small(kind), **SPECIFIC.get(name, {})})


def small(kind: Any) -> dict[str, Any]:
    """The numbers of a configuration class that a rule makes small, with those of the configurations inside it."""
    default = kind()
    found: dict[str, Any] = {}
    for key, value in vars(default).items():
        if type(value) is int and (size := _size(key)) is not None:
            found[key] = _token(key) if size < 0 else size
        elif value is None and key in ("head_dim", "num_key_value_heads"):
            found[key] = _size(key)
        elif isinstance(value, list) and value and key in ("layer_types", "layers_block_type"):
            # Two blocks, of different kinds where there are any.
            kinds = list(dict.fromkeys(value))
            found[key] = [kinds[0], kinds[min(1, len(kinds) - 1)]]
        elif key in getattr(default, "sub_configs", {}) and hasattr(value, "to_dict"):
            found[key] = small(type(value))
    return found


def _size(key: str) -> int | None:
    return next((size for words, size in RULES if all(word in key for word in words)), None)


def _token(key: str) -> int:
    ids = {"pad": 0, "unk": 1, "bos": 2, "cls": 2, "eos": 3, "sep": 3, "mask": 4}
    return next((value for word, value in ids.items() if word in key), 1)


def save_model(config: Any, folder: Path) -> None:
    """Random weights of the class that has a language-model head, where there is one, and the tokenizer."""
    sequence, masked, causal = _mappings()
    mapping = next(found for found in (masked, causal, sequence) if type(config) in found)
    made = mapping[type(config)]
    kind = made[0] if isinstance(made, tuple) else made
    torch.manual_seed(SEED)
    model = kind(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                # Wide enough that a random model passes on what it reads.
                parameter.normal_(0, 0.15)
            else:
                # Fresh biases and norms are 0 and 1: a mix-up of theirs would go unseen.
                parameter += 0.05 * torch.randn_like(parameter)
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
    model.save_pretrained(folder)
    make_tokenizer(decoder=type(config) in causal and type(config) not in masked).save_pretrained(folder)


def make_tokenizer(decoder: bool) -> Any:
    """WordPiece over some words; for a decoder byte-level BPE that puts nothing around a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if decoder:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, min_frequency=1, special_tokens=SPECIAL, show_progress=False
        )
        tokenizer.train_from_iterator([f" {word}" for word in WORDS for _ in range(2)], trainer)
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]"
        )
    ids = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "PAD", "CLS", "SEP", "MASK")}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)


def write_task(folder: Path) -> None:
    """Sentences of three to twelve words, two labels, a label word for each."""
    draw = random.Random(SEED)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(("text", "label"))
        for number in range(ROWS):
            kind = (GOOD, BAD)[number % 2]
            words = [*draw.choices(NEUTRAL, k=draw.randint(2, 10)), draw.choice(kind)]
            draw.shuffle(words)
            out.writerow((" ".join(words), ("good", "bad")[number % 2]))
    (folder / "task.yaml").write_text(
        "title: pico sentiment\nkind: classification\ntext: text\nlabel: label\nlabels: [bad, good]\n"
        "words: {bad: terrible, good: great}\nmetrics: [accuracy]\nsource: {file: rows.csv}\n",
        encoding="utf-8",
    )


def _verify_in_forks() -> None:
    """An export's new process becomes a forked one, that has the libraries already."""
    from smpcli.export import hf, reload, verify

    hf.write_card = lambda *_: None  # pictures, the same for all

    def run(path: Path, scratch: Path, code: str | None) -> None:
        def action() -> dict[str, Any]:
            try:
                if code is None:
                    reload.main(path, scratch)
                else:
                    sys.argv = ["-c", str(path), str(scratch)]
                    exec(code, {"__name__": "__main__"})
            except Exception as error:
                return {"failed": one_line(f"{type(error).__name__}: {error} {_place(error)}", 300)}
            return {}

        found = apart(action, 60)
        if found:
            raise RuntimeError(f"the export doesn't load in a new process: {found['failed']}")

    verify._run_process = run


# -- what is printed ------------------------------------------------------------------------------------


def lines(name: str, found: dict[str, Any]) -> list[str]:
    if "failed" in found:
        return [f"{name}: FAILED {found['failed']}"]
    if found["model"] != OK:
        return [f"{name}: no model: {found['model']}"]
    shown = []
    for head in HEADS:
        parts = found.get(head)
        if parts is not None:
            said = "; ".join(f"{part} {text}" for part, text in parts.items() if text != OK)
            shown.append(f"{name}, {head}: {said or 'all ok'}")
    return shown


def summary(found: dict[str, Any]) -> str:
    parts = [text for one in found.values() for head in HEADS for text in one.get(head, {}).values()]
    failed = sum("failed" in one for one in found.values()) + sum(text.startswith("failed") for text in parts)
    unmade = sum(one.get("model", OK) != OK for one in found.values())
    return f"{len(found)} model types, {failed} failures, {unmade} without a model"


# What a refusal's message says, and the row of the table that it belongs to.
REASONS = {
    "is an encoder with a decoder": "an encoder with a decoder",
    "in no linear layer": "more than a tenth of a block's weights is in no linear layer (fused experts, …)",
    "no stack of blocks": "no stack of blocks with linear layers",
    "texts never reach": "some matrices are never reached by a text (cross-attention, another modality, entities)",
    "when it is padded": "padding changes the answer: a label would depend on the texts beside it",
    "it fails on a text": "it fails on a short text, in the small form that was tried",
    "is not a text encoder": "no text model",
    "no gradient": "no gradient reaches its matrices",
    "don't fit its config.json": "the checkpoint is of one half of the model",
}


def markdown(found: dict[str, Any]) -> str:
    """Rows of model types: what works, what is refused and why, what wasn't tried."""
    rows: dict[str, list[str]] = {
        "prune, eval, predict, exports `hf`, `compact` and `onnx`": [],
        "prune, eval, predict, export `hf`": [],
    }
    for name, one in found.items():
        heads = {head: one[head] for head in HEADS if head in one}
        if one.get("model", OK) != OK or "failed" in one:
            kind = "failed" if "failed" in one else "not tried: no small model of it could be made"
            rows.setdefault(kind, []).append(name)
            continue
        by_row: dict[str, list[str]] = {}
        for head, parts in heads.items():
            by_row.setdefault(_row(parts), []).append(head)
        for row, some in by_row.items():
            rows.setdefault(row, []).append(name if len(by_row) == 1 else f"{name} ({', '.join(some)})")
    body = [f"| {row} | {', '.join(names)} |" for row, names in rows.items() if names]
    return "\n".join(["| | model types |", "|---|---|", *body])


def _row(parts: dict[str, str]) -> str:
    if any(text.startswith("failed") for text in parts.values()):
        return "failed"
    if parts["prune"] != OK:
        text = parts["prune"]
        return "refused: " + next((reason for said, reason in REASONS.items() if said in text), text[9:])
    if parts["hf"] != OK:
        return "prune, eval, predict"
    return "prune, eval, predict, " + (
        "exports `hf`, `compact` and `onnx`" if parts["compact"] == parts["onnx"] == OK else "export `hf`"
    )


if __name__ == "__main__":
    main()
