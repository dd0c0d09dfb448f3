"""Bad input: exit code 2, one line on stderr that names a way out, no traceback, nothing written."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bad_flags
import pyarrow as pa
import pytest
from commandline import SHORT, Done, Smp, listing, make_run, result_of, run_in_process
from pyarrow import parquet

from smpcli.runs.maskfile import read_masks, write_masks

# What a run says of its progress before it finds that something is wrong.
PROGRESS = ("data …", "model …")


@dataclass(frozen=True)
class Case:
    """`line`: a command, {name} standing for a path of `places`; `says`: telling parts of the message."""

    line: str
    says: tuple[str, ...]

    @property
    def id(self) -> str:
        line = self.line.replace("{run}", "RUN").replace("/", "|")
        return line if len(line) < 120 else f"{line[:80]}…{line[-30:]}"


def case(line: str, *says: str) -> Case:
    return Case(line, says)


CSV, BERT, MLM = "--task {csv}", "--model {bert}", "--model {mlm}"
OWN = f"{CSV} {BERT}"

CASES = [
    # -- names that aren't there, with the one that was meant
    case(f"prune {OWN} --method smpp", "unknown method 'smpp'", "did you mean 'smp'?", "`smp methods`"),
    case(f"prune {OWN} --method softmovement", "did you mean 'soft-movement'?"),
    case(
        f"prune {OWN} --method zebra",
        "known: dense, gmp, l0, magnitude, magnitude-one-shot, movement, ",
    ),
    case(f"prune {OWN} --method SMP", "did you mean 'smp'?"),
    case(f"prune --task sst-2 {BERT}", "unknown task 'sst-2'", "did you mean 'sst2'?", "`smp tasks`"),
    case(
        f"prune --task zebra {BERT}",
        "known: cola, mnli, movies, mrpc, qnli, qqp, rte, squad, sst2, stsb, wnli",
        "csv",
    ),
    case(f"prune {BERT}", "--task", "`smp tasks`"),
    case(f"prune {OWN} --recipe smp-papr", "unknown recipe", "did you mean 'smp-paper'?", "`smp recipes`"),
    case(f"prune {OWN} --recipe {{bad}}", "`smp recipes`", ".yaml"),
    case(
        f"prune {OWN} --set sparsty=0.5", "unknown setting 'sparsty'", "did you mean 'sparsity'?", "`smp methods smp`"
    ),
    case(
        f"prune {OWN} --method magnitude --set factored=true", "unknown setting 'factored'", "`smp methods magnitude`"
    ),
    case(f"prune {OWN} --sparcity 0.9", "--sparcity", "--sparsity", "--help"),
    case(f"prun {OWN}", "prun", "Did you mean 'prune'", "--help"),
    case(f"finetune {OWN} --sparsity 0.5", "--sparsity", "finetune --help"),
    case("methods smpp", "did you mean 'smp'?"),
    case("export {run} --format tflite", "unknown format 'tflite'", "hf, mask", "`smp export --help`"),
    case("export {run} --format maks", "did you mean 'mask'?"),
    # -- sparsity
    *(
        case(f"prune {OWN} --sparsity {value}", "'sparsity' must be at least 0 and below 1", value)
        for value in ("1", "1.0", "-0.1", "90", "nan", "inf", "-inf")
    ),
    case(f"prune {OWN} --set sparsity=1.5", "'sparsity' must be at least 0 and below 1", "1.5"),
    case(f"prune {OWN} --recipe {{bad}}/dense.yaml", "'sparsity' must be at least 0 and below 1", "2"),
    case(f"prune {OWN} --sparsity 90%", "--sparsity", "--help"),
    case(f"prune {OWN} --sparsity", "--sparsity", "--help"),
    case(f"prune {OWN} --method dense --sparsity 0.5", "'dense' doesn't prune", "--sparsity", "--method"),
    # -- other values
    case(f"prune {OWN} --seed -1", "'seed'", "-1"),
    case(f"prune {OWN} --seed 4294967296", "'seed'", "4294967296"),
    case(f"prune {OWN} --seed one", "--seed", "--help"),
    case(f"prune {OWN} --max-steps 0", "'max_steps'", "not 0"),
    case(f"prune {OWN} --epochs 0", "'epochs'", "not 0"),
    case(f"prune {OWN} --epochs nan", "'epochs'", "nan"),
    case(f"prune {OWN} --epochs 1 --max-steps 5", "--epochs and --max-steps", "one of them"),
    case(f"prune {OWN} --batch-size 0", "'batch_size'", "not 0"),
    case(f"prune {OWN} --set max_length=1", "'max_length'", "not 1"),
    case(f"prune {OWN} --set evaluations=0", "'evaluations'", "not 0"),
    case(f"prune {OWN} --set seed", "--set takes key=value", "'seed'"),
    case(f"prune {OWN} --set =1", "--set takes key=value"),
    case(f"prune {OWN} --set seed=[1", "--set seed", "[1"),
    case(f"prune {OWN} --set seed=[1]", "'seed'", "[1]"),
    case(f"prune {OWN} --set init=zeros", "'init'", "'zero'", "'activation'", "not 'zeros'"),
    case(f"prune {OWN} --set factored=perhaps", "'factored'", "not 'perhaps'"),
    case(f"prune {OWN} --set penalty=-1", "'penalty' must be at least 0", "-1"),
    case(f"prune {OWN} --set penalty=much", "'penalty'", "not 'much'"),
    *(
        case(f"prune {OWN} --set {name}={value}", name, value.strip(".-"))
        for name in ("penalty", "scores_lr", "head_scale", "max_grad_norm")
        for value in (".nan", ".inf")
    ),
    case(f"prune {OWN} --set ramp_end=1.5", "'ramp_end' must be at most 1"),
    case(f"prune {OWN} --set ramp_start=0.9", "'ramp_start' must be at most ramp_end (0.6), not 0.9"),
    case(f"prune {OWN} --set head=word", "'head'", "'words'", "not 'word'"),
    case(f"prune {OWN} --set dropout=1", "'dropout'", "not 1"),
    case(f"prune {OWN} --device gpu", "device", "cuda", "not 'gpu'"),
    case(f"prune {OWN} --device cuda:99", "cuda:99", "--device auto or cpu"),
    case(f"prune {OWN} --device cuda:99 --dry-run", "cuda:99", "--device auto or cpu"),
    # -- recipes
    case(f"prune {OWN} --recipe {{bad}}/none.yaml", "none.yaml"),
    case(f"prune {OWN} --recipe {{bad}}/broken.yaml", "broken YAML", "broken.yaml, line 3"),
    case(f"prune {OWN} --recipe {{bad}}/tab.yaml", "broken YAML", "tab.yaml, line 2"),
    case(f"prune {OWN} --recipe {{bad}}/list.yaml", "list.yaml", "key: value"),
    case(f"prune {OWN} --recipe {{bad}}/latin.yaml", "latin.yaml", "UTF-8"),
    case(f"prune {OWN} --recipe {{bad}}/typo.yaml", "unknown setting 'sede'", "did you mean 'seed'?", "typo.yaml"),
    case(f"prune {OWN} --recipe {{bad}}/value.yaml", "recipe", "value.yaml: setting 'seed'", "not 'many'"),
    case(f"prune {OWN} --recipe {{bad}}/penalty.yaml", "penalty.yaml: setting 'penalty' must be at least 0, not -1"),
    case(f"prune {OWN} --recipe {{bad}}/init.yaml", "init.yaml: setting 'init'", "'zero'", "not 'zeros'"),
    case(f"prune {OWN} --recipe {{bad}}/alias.yaml", "broken YAML", "alias.yaml, line 2", "aliases"),
    case(f"prune {OWN} --recipe {{bad}}/bomb.yaml", "broken YAML", "bomb.yaml, line 2", "aliases"),
    case(f"prune {OWN} --recipe {{bad}}/deep.yaml", "broken YAML", "deep.yaml, line 1", "nested deeper"),
    case(f"prune {OWN} --recipe {{bad}}/long.yaml", "broken YAML", "long.yaml", "longer than"),
    case(f"prune {OWN} --recipe {{bad}}/digits.yaml", "broken YAML", "digits.yaml"),
    case(f"prune {OWN} --recipe {{bad}}/big.yaml", "broken YAML", "big.yaml", "64 bits"),
    case(f"prune {OWN} --recipe {{bad}}/date.yaml", "broken YAML", "date.yaml"),
    case(f"prune {OWN} --recipe {{bad}}/tag.yaml", "broken YAML", "tag.yaml, line 1", "could not determine"),
    case(f"prune {OWN} --recipe {{bad}}/nul.yaml", "broken YAML", "nul.yaml"),
    case(f"prune {OWN} --recipe {{bad}}/empty.yaml", "empty.yaml", "key: value"),
    case(f"prune {OWN} --recipe {{bad}}/text.yaml", "text.yaml", "key: value"),
    case(f"prune {OWN} --recipe {{bad}}/keys.yaml", "keys.yaml", "the key 1 is not a name"),
    case(f"prune {OWN} --recipe {{bad}}/twomethods.yaml", "twomethods.yaml", "method"),
    case(f"prune {OWN} --recipe {{csv}}", "end in .yaml"),
    case(f"prune {OWN} --recipe ", "unknown recipe ''", "`smp recipes`"),
    case(f"prune {OWN} --recipe", "--recipe", "--help"),
    # -- values that say nothing
    case(f"prune {OWN} --set seed=", "--set seed=: no value"),
    case(f"prune {OWN} --set dropout=null", "--set dropout=null: no value"),
    case(f"prune {OWN} --set init=~", "no value"),
    case(f"prune {OWN} --set =", "--set takes key=value"),
    case(f"prune {OWN} --set", "--set", "--help"),
    case(f"prune {OWN} --set seed=*all", "--set seed", "*all"),
    case(f"prune {OWN} --set seed=!!python/name:os.system", "--set seed"),
    case(f"prune {OWN} --set seed={'[' * 500}", "--set seed", "…"),
    case(f"prune {OWN} --set seed={'9' * 5000}", "--set seed", "…"),
    case(f"prune {OWN} --set {'x' * 400}=1", "unknown setting", "…"),
    case("prune --task  --model {bert}", "no task", "`smp tasks`"),
    case(f"prune {OWN} --method ", "unknown method ''", "`smp methods`"),
    # -- checkpoints
    case(f"prune {OWN} --set checkpoint_every=often", "'checkpoint_every'", "steps", "minutes", "'often'"),
    case(f"prune {OWN} --set checkpoint_every=-1", "'checkpoint_every'", "-1"),
    case(f"prune {OWN} --set checkpoint_every=5h", "'checkpoint_every'", "5h"),
    case(f"prune {OWN} --set checkpoint_every=.nan", "'checkpoint_every'", "nan"),
    case(f"prune {OWN} --resume --overwrite", "--resume", "--overwrite", "mutually exclusive"),
    case(f"prune {OWN} --resume --dry-run", "--resume", "--dry-run", "mutually exclusive"),
    case(f"finetune {OWN} --resume --overwrite", "--resume", "--overwrite", "mutually exclusive"),
    # -- more values, wrong types among them
    case(f"prune {OWN} --seed 1.5", "--seed", "--help"),
    case(f"prune {OWN} --seed 99999999999999999999", "'seed'", "below 2147483648"),
    case(f"prune {OWN} --epochs many", "--epochs", "--help"),
    case(f"prune {OWN} --epochs -1", "'epochs'", "above 0"),
    case(f"prune {OWN} --epochs 1e9", "'epochs'", "at most 10000"),
    case(f"prune {OWN} --max-steps 1.5", "--max-steps", "--help"),
    case(f"prune {OWN} --max-steps -5", "'max_steps'", "at least 1"),
    case(f"prune {OWN} --batch-size 1000000", "'batch_size'", "at most 65536"),
    case(f"prune {OWN} --set head_scale=wide", "'head_scale'", "'wide'"),
    case(f"prune {OWN} --set max_length=2000000", "'max_length'", "at most 1000000"),
    case(f"prune {OWN} --set max_length=long", "'max_length'", "'long'"),
    case(f"prune {OWN} --set head_scale=0", "'head_scale'", "above 0"),
    case(f"prune {OWN} --set max_grad_norm=-1", "'max_grad_norm'", "above 0"),
    case(f"prune {OWN} --set dropout=-0.1", "'dropout'", "at least 0"),
    case(f"prune {OWN} --set precision=fp8", "'precision'", "'bf16'", "not 'fp8'"),
    case(f"prune {OWN} --set device=tpu", "'device'", "cuda", "not 'tpu'"),
    case(f"prune {OWN} --device cuda:x", "'device'", "'cuda:x'"),
    case(f"prune {OWN} --set schedule=square", "'schedule'", "'cubic'", "not 'square'"),
    case(f"prune {OWN} --set warmup=2", "'warmup' must be at most 1"),
    case(f"prune {OWN} --set weights_lr=-1", "'weights_lr' must be at least 0"),
    case(f"prune {OWN} --set structure=fast", "'structure' must be a valid number or 'auto', not 'fast'"),
    case(f"prune {OWN} --set ramp_end=x --set structure=y", "'ramp_end' must be a valid number", "(and 1 more)"),
    case(f"prune {OWN} --set weight_decay=-1", "'weight_decay' must be at least 0"),
    case(f"prune {OWN} --set ramp_start=-0.5", "'ramp_start' must be at least 0"),
    case(f"prune {OWN} --set init_scale=-1", "'init_scale' must be at least 0"),
    case(f"prune {OWN} --set allocation=X", "'allocation'", "not 'X'"),
    case(f"prune {OWN} --set head={{{{}}}}", "'head'"),
    case(f"prune {OWN} --set evaluations=[]", "'evaluations'"),
    case(f"prune {OWN} --method magnitude --set penalty=1", "unknown setting 'penalty'", "`smp methods magnitude`"),
    case(f"finetune {OWN} --set scores_lr=1", "unknown setting 'scores_lr'", "`smp methods dense`"),
    case(f"finetune {OWN} --set sparsity=0.5", "'dense' doesn't prune"),
    case(f"finetune {OWN} --method smp", "--method", "finetune --help"),
    case("finetune --task sst3 --model {bert}", "unknown task 'sst3'"),
    case(f"finetune {OWN} --seed -1", "'seed'", "at least 0"),
    case(f"finetune {OWN} --output {{csv}}", "can't write", "--output"),
    # -- names that no system takes for a path
    case(f"prune --task {'x' * 300} {BERT}", "unknown task"),
    case(f"prune --task {'x' * 300}.csv {BERT}", "there is no file"),
    case(f"prune {CSV} --model {'x' * 300}/y/z", "there is no model folder"),
    case(f"prune {OWN} --recipe {'x' * 300}.yaml", "x.yaml"),
    case(f"prune {OWN} --output {'x' * 300}", "can't write", "too long", "--output"),
    case(f"prune --task sst2 {BERT} --data-dir {'x' * 300}", "no folder", "--data-dir"),
    case(f"eval {'x' * 300}", "is unreadable", "too long"),
    case(f"compare {'x' * 300}", "can't read", "too long"),
    case(f"export {{run}} --output {'x' * 300}/y", "can't"),
    # -- words too many, too few, and unknown
    case("", "--help"),
    case(f"prune {OWN} twice", "twice", "--help"),
    case("tasks sst2", "sst2", "tasks --help"),
    case("recipes quick", "quick", "recipes --help"),
    case("methods smp dense", "dense", "methods --help"),
    case("methods --all", "--all", "methods --help"),
    case("tasks --jsn", "--jsn", "--json"),
    case("eval {run} {run}", "eval --help"),
    case("eval {run} --format hf", "--format", "eval --help"),
    case("export {run} --format", "--format", "--help"),
    case("export {run} --format ", "unknown format ''"),
    case("compare --csv {bad}/none.csv", "Missing argument", "compare --help"),
    case("compare {bad}/none {results}", "is not there"),
    case("compare {results} --sort mean2", "unknown column 'mean2'", "did you mean 'mean'?"),
    case("-x", "-x", "--help"),
    case("--verson", "--version", "--help"),
    # -- a file of one's own
    case(f"prune --task {{bad}}/none.csv {BERT}", "there is no file", "none.csv"),
    case(f"prune --task {{bad}}/empty.csv {BERT}", "empty.csv is empty"),
    case(f"prune --task {{bad}}/header.csv {BERT}", "header.csv", "no rows"),
    case(f"prune --task {{bad}}/nolabel.csv {BERT}", "no label column", "'text', 'mark'", "label_column="),
    case(f"prune --task {{bad}}/notext.csv {BERT}", "no text column", "'words', 'label'", "text_column="),
    case(f"prune --task {{bad}}/semicolon.csv {BERT}", "separated by ';'", "commas"),
    case(f"prune --task {{bad}}/gap.csv {BERT}", "gap.csv, line 3", "no label"),
    case(f"prune --task {{bad}}/blank.csv {BERT}", "blank.csv, line 3", "no text"),
    case(f"prune --task {{bad}}/ragged.csv {BERT}", "ragged.csv, line 3", "1 column found, 2 expected"),
    case(f"prune --task {{bad}}/oneclass.csv {BERT}", "every row has the label 'good'", "one class only"),
    case(f"prune --task {{bad}}/latin.csv {BERT}", "isn't UTF-8", "line 2", "save it as UTF-8"),
    case(f"prune --task {{bad}}/utf16.csv {BERT}", "UTF-16", "save it as UTF-8"),
    case(f"prune --task {{bad}}/two.csv {BERT}", "too few different texts", "dev_file"),
    case(f"prune --task {{bad}}/broken.jsonl {BERT}", "broken.jsonl, line 2", "broken JSON"),
    case(f"prune --task {{bad}}/broken.parquet {BERT}", "broken.parquet", "parquet"),
    case(f"prune --task {{bad}}/sheet.xlsx {BERT}", "sheet.xlsx", "save the sheet as CSV"),
    case(f"prune --task {{bad}} {BERT}", "is a folder", "--data-dir"),
    case(f"prune {OWN} --set label_column=mark", "unknown column 'mark'", "label, text"),
    case(f"prune --task movies {BERT} --set text_column=body", "'movies' has its own columns"),
    case(f"prune {OWN} --set dev_file={{csv}}", "is the training file too"),
    case(f"prune {OWN} --set dev_file={{bad}}/none.csv", "there is no file", "none.csv"),
    case(f"prune {OWN} --set dev_file={{bad}}/strange.csv", "unknown label 'so-so'", "'negative', 'positive'"),
    case(f"prune --task {{bad}}/four.csv {BERT} --dev-file {{bad}}/copy.csv", "dev copy.csv", "trained on, too"),
    case(f"prune --task {{bad}}/twins.csv {BERT} --dry-run", r"'so\x20\x20so' and 'so so'", "in white space only"),
    case(f"prune --task {{bad}}/spellings.csv {BERT} --dry-run", "'Text', 'text'", "--set text_column="),
    case(f"prune --task {{bad}}/missing.csv {BERT} --dry-run", "missing.csv, line 4", "'nan'", "task file"),
    # -- a task of one's own
    case(f"prune --task {{bad}}/broken.yaml {BERT}", "broken YAML", "line 3"),
    case(f"prune --task {{bad}}/task-key.yaml {BERT}", "unknown key", "did you mean 'labels'?"),
    case(f"prune --task {{bad}}/task-words.yaml {MLM}", "'extraordinary'", "not one token", "head=prototype"),
    case(f"prune --task {{bad}}/task-unknown.yaml {MLM}", "'unseen'", "not one token", "head=prototype"),
    case(
        f"prune --task {{bad}}/task-words.yaml {MLM} --dry-run", "'extraordinary'", "not one token", "head=prototype"
    ),
    case(f"prune {CSV} {MLM} --set head=words", "names no label word", "words", "head=prototype"),
    case(f"prune {OWN} --set head=words", "label words", "head=prototype"),
    case(f"prune --task {{bad}}/task-out.yaml {BERT}", "task-out.yaml: source.train_file", "leads out of"),
    case(f"prune --task {{bad}}/task-hub.yaml {BERT}", "task-hub.yaml: source.hub", "owner/name"),
    case(f"prune --task {{bad}}/task-default.yaml {BERT}", "task task-default: setting 'head_scale'", "not 0"),
    case(f"prune --task {{bad}}/task-alias.yaml {BERT}", "broken YAML", "aliases"),
    case(f"prune --task {{bad}}/bomb.parquet {BERT}", "bomb.parquet", "unpacks to more than"),
    case(f"prune --task {{bad}}/columns.csv {BERT}", "columns.csv", "5,000 columns"),
    case(f"prune --task {{bad}}/columns.jsonl {BERT}", "columns.jsonl", "5,000 columns"),
    case(f"prune --task {{bad}}/deep.jsonl {BERT}", "deep.jsonl, line 1", "broken JSON"),
    # -- a folder of data
    case(f"prune --task sst2 {BERT} --data-dir {{bad}}/none", "no folder", "--data-dir", "SST-2/train.tsv"),
    case(f"prune --task sst2 {BERT} --data-dir {{bad}}", "no sub-folder SST-2", "--data-dir"),
    case(f"prune --task sst2 {BERT} --data-dir {{csv}}", "is a file", "--data-dir"),
    case(f"prune --task sst2 {BERT} --data-dir {{data}}/SST-2", "the folder above"),
    case(f"prune --task sst2 {BERT} --data-dir {{data}}", "SST-2/train.tsv, line 3", "unknown label '2'"),
    case(f"prune --task rte {BERT} --data-dir {{data}}", "RTE has no dev.tsv"),
    # -- models
    case(f"prune {CSV} --model ./none", "there is no model folder", "--model"),
    case(f"prune {CSV} --model {{csv}}", "--model takes a folder"),
    case(f"prune {CSV} --model {{bad}}", "config.json", "--model"),
    case(f"prune {CSV} --model nobody/none", "can't load 'nobody/none'", "--model minilm"),
    case(f"prune {CSV} --model {{bad}}/config", "config", "JSON"),
    case(f"prune {CSV} --model {{bad}}/type", "frobnicate"),
    case(f"prune {CSV} --model {{bad}}/noweights", "model.safetensors"),
    case(f"prune {CSV} --model {{bad}}/cut", "can't load the model", "cut"),
    case(f"prune {CSV} --model {{bad}}/notokenizer", "tokenizer"),
    case(f"prune {CSV} --model {{bad}}/othershape", "othershape", "weights"),
    case(f"prune {CSV} --model {{bad}}/mixtral", "'mixtral' can't be pruned", "no linear layer", "bert", "--model"),
    case(f"prune {CSV} --model {{bad}}/mixtral --dry-run", "'mixtral' can't be pruned", "bert", "--model"),
    case(f"prune {CSV} --model {{bad}}/resnet", "resnet", "bert", "--model"),
    case(f"prune {CSV} --model {{bad}}/resnet --dry-run", "resnet", "bert", "--model"),
    case(f"prune {CSV} --model {{bad}}/t5", "t5", "encoder", "--model"),
    case(f"prune {CSV} --model {{bad}}/pickle", "pytorch_model.bin", "pickle", "model.safetensors"),
    case(f"prune {CSV} --model {{bad}}/layers", "num_hidden_layers = 1000000000000"),
    case(f"prune {CSV} --model {{bad}}/labels", "num_labels = 1000000000"),
    case(f"prune {CSV} --model {{bad}}/wide", "config.json describes"),
    case(f"prune {CSV} --model {{bad}}/huge", "config.json describes"),
    case(f"prune {CSV} --model {{bad}}/code", "can't load the model", "code of its own"),
    case(f"prune {CSV} --model {{bad}}/shards", "names a file elsewhere", "../bert"),
    case(f"prune {CSV} --model {{bad}}/activation", "can't load the model", "activation"),
    case(f"prune {CSV} --model {{bad}}/words", "can't load the model", "words"),
    case(f"prune {CSV} --model {{bad}}/tokens", "can't load the model", "tokens"),
    case(f"prune {CSV} --model ../../etc", "there is no model folder"),
    case(f"prune {CSV} --model ", "model"),
    case(f"prune --task {{bad}}/long.csv {BERT} --set max_length=64", "max_length", "40"),
    # -- places that can't be written
    case(f"prune {OWN} --output {{csv}}", "can't write", "is a file", "--output"),
    case(f"prune {OWN} --output {{csv}}/below/that", "can't write", "is a file", "--output"),
    case(f"prune {OWN} --output {{csv}}/below --dry-run", "can't write", "is a file", "--output"),
    case(f"prune {OWN} --method smp --sparsity 0.9 --output {{results}}", "finished run", "--overwrite", "--output"),
    case("export {run} --output {csv}/below", "can't write", "--output"),
    case("export {run} --format mask --output {csv}/below", "can't write", "--output"),
    case("export {run} --output {csv}", "exists already", "--overwrite"),
    case("compare {results} --csv {csv}/below.csv", "can't write", "--csv"),
    case("compare {results} --csv {bad}", "can't write", "--csv"),
    # -- no run, and what is left of one
    *(case(f"{command} {{bad}}/none", "is not there", "`smp prune") for command in ("eval", "export", "compare")),
    *(case(f"{command} {{csv}}", "file", "folder", "`smp prune") for command in ("eval", "export", "compare")),
    *(
        case(f"{command} {{data}}", what, "`smp prune")
        for command, what in {"eval": "is not a run", "export": "is not a run", "compare": "no runs in there"}.items()
    ),
    *(case(f"{command}", "Missing argument", f"{command} --help") for command in ("export", "compare")),
    case("eval", "a run's folder", "--mask"),
    *(case(f"{command} {{results}}", "is not a run but holds", "name one") for command in ("eval", "export")),
    *(
        case(f"{command} {{bad}}/runs/{name}", name, *says)
        for command in ("eval", "export")
        for name, says in {
            "unfinished": ("is unfinished", "run it again"),
            "nomask": ("is damaged", "mask.safetensors is missing"),
            "shortmask": ("is damaged", "mask.safetensors has 100 bytes"),
            "strangemask": ("damaged mask file",),
            "head": ("is damaged", "head.safetensors"),
            "result": ("is damaged", "result.json", "isn't JSON"),
            "schema": ("result.json", "schema 2", "upgrade smp"),
            "nosettings": ("is damaged", "settings.yaml is missing"),
            "settings": ("is damaged", "broken YAML", "line 1"),
        }.items()
    ),
    case("eval {bad}/runs/link", "is damaged", "mask.safetensors is a link that leads out"),
    case("export {bad}/runs/link", "is damaged", "mask.safetensors is a link that leads out"),
    case("eval {bad}/runs/outside", "is damaged", "'../../run/mask.safetensors'"),
    case("eval {bad}/runs/nomodel", "nomodel", "needs its base model again", "there is no model folder"),
    case("export {bad}/runs/nomodel", "nomodel", "needs its base model again", "there is no model folder"),
    case("export {bad}/runs/nodata", "nodata", "there is no file", "gone.csv"),
    case("export {bad}/runs/otherdata", "differ from those of", "--data-dir"),
    case("eval {bad}/runs/badvalue", "badvalue", "settings.yaml", "'batch_size'", "not 0"),
    case("eval {bad}/runs/othermask", "its mask is of another model"),
    case("eval {bad}/runs/shape", "damaged mask file", "doesn't fit its"),
    case("eval {bad}/runs/othermodel", "weights of", "differ", "othermodel", "same version of the base model"),
    case("eval {bad}/runs/otherdata", "differ from those of", "otherdata"),
    case("eval {bad}/runs/plugin", "unknown method 'chance'", "`smp methods`"),
    case("eval {bad}/runs/nodata", "there is no file", "gone.csv"),
    *(case(*entry) for entry in bad_flags.CASES),
]


@pytest.fixture(scope="session")
def places(
    tmp_path_factory: pytest.TempPathFactory, pico: Callable[[str], Path], sentiment: Any, finished: Path
) -> dict[str, Path]:
    bad = tmp_path_factory.mktemp("bad")
    pairs = list(itertools.pairwise("abcdefghijklmnop"))
    texts: dict[str, str | bytes] = {
        "dense.yaml": "sparsity: 2\n",
        "broken.yaml": "seed: 1\nmethod: [smp\nmodel: minilm\n",
        "tab.yaml": "seed:\n\t1\n",
        "list.yaml": "- seed\n",
        "latin.yaml": "model: caf\xe9\n".encode("latin-1"),
        "typo.yaml": "sede: 1\n",
        "value.yaml": "seed: many\n",
        "penalty.yaml": "penalty: -1\n",
        "init.yaml": "init: zeros\n",
        "alias.yaml": "seed: &one 1\nbatch_size: *one\n",
        "bomb.yaml": "a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in pairs),
        "deep.yaml": "seed: " + "[" * 5000,
        "long.yaml": "# nothing to see\n" * 10_000,
        "digits.yaml": "seed: " + "9" * 10_000,
        "big.yaml": "seed: " + "9" * 30,
        "date.yaml": "seed: 2001-99-99\n",
        "tag.yaml": "seed: !!python/object/apply:os.system [ls]\n",
        "nul.yaml": "seed: \0\n",
        "empty.yaml": "",
        "text.yaml": "seed\n",
        "keys.yaml": "1: 2\n",
        "twomethods.yaml": "method: [smp, dense]\n",
        "columns.csv": ",".join(f"c{n}" for n in range(5000)) + "\n" + ",".join(["x"] * 5000),
        "columns.jsonl": "".join(json.dumps({f"c{n}": 1}) + "\n" for n in range(5000)),
        "deep.jsonl": "[" * 100_000,
        "empty.csv": "",
        "header.csv": "text,label\n",
        "nolabel.csv": "text,mark\nfine,good\ndull,bad\n",
        "notext.csv": "words,label\nfine,good\ndull,bad\n",
        "semicolon.csv": "text;label\nfine;good\ndull;bad\n",
        "gap.csv": "text,label\nfine,good\ndull,\n",
        "blank.csv": "text,label\nfine,good\n ,bad\nwarm,good\ncold,bad\n",
        "ragged.csv": "text,label\nfine,good\ndull\n",
        "oneclass.csv": "text,label\nfine,good\nlovely,good\n",
        "latin.csv": "text,label\ncaf\xe9,good\ndull,bad\n".encode("latin-1"),
        "utf16.csv": "text,label\nfine,good\ndull,bad\n".encode("utf-16"),
        "two.csv": "text,label\nfine,good\ndull,bad\n",
        "four.csv": "text,label\na,good\nb,bad\nc,good\nd,bad\n",
        "copy.csv": "label,text\nbad,D\ngood,c\ngood,a\nbad,b\n",
        "twins.csv": "text,label\na,so  so\nb,so so\nc,good\n",
        "spellings.csv": "Text,text,label\na,b,good\nc,d,bad\n",
        "missing.csv": "text,label\na,good\nb,bad\nc,nan\n",
        "strange.csv": "text,label\nfine,positive\nodd,so-so\n",
        "broken.jsonl": '{"text": "fine", "label": 1}\n{"text": "dull"',
        "broken.parquet": "no parquet",
        "sheet.xlsx": "no sheet",
        "long.csv": "text,label\n"
        + "".join(f"{' '.join([text] * 30)},{label}\n" for text, label in sentiment.rows[:40]),
    }
    task = sentiment.words.read_text(encoding="utf-8").replace("file: ", f"file: {sentiment.csv.parent}/")
    texts["task-key.yaml"] = task.replace("labels:", "lables:")
    texts["task-words.yaml"] = task.replace("terrible", "extraordinary")
    texts["task-unknown.yaml"] = task.replace("terrible", "unseen")
    texts["task-out.yaml"] = task.replace("source: {file:", "source: {folder: x, train_file: ../up.tsv} #")
    texts["task-hub.yaml"] = task.replace("source: {file:", "source: {hub: pandas} #")
    texts["task-default.yaml"] = task + "defaults: {head_scale: 0}\n"
    texts["task-alias.yaml"] = task.replace("title: ", "title: &t ") + "defaults: {model: *t}\n"
    constant = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000), ["x" * 20_000])
    parquet.write_table(
        pa.table({"text": constant, "label": [0, 1] * 50_000}), bad / "bomb.parquet", compression="zstd"
    )
    for name, text in texts.items():
        (bad / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    data = bad / "data"
    for folder, file, text in (
        ("SST-2", "train.tsv", "sentence\tlabel\nfine\t1\ndull\t2\n"),
        ("SST-2", "dev.tsv", "sentence\tlabel\nfine\t1\ndull\t0\n"),
        ("RTE", "train.tsv", "index\tsentence1\tsentence2\tlabel\n0\tfine\tdull\tentailment\n"),
    ):
        (data / folder).mkdir(parents=True, exist_ok=True)
        (data / folder / file).write_text(text, encoding="utf-8")
    _make_models(bad, pico("bert"))
    _make_runs(bad, finished, pico, sentiment)
    bad_flags.make(bad, sentiment.csv, pico("bert"), sentiment.words)
    return {
        "bad": bad,
        "data": data,
        "csv": sentiment.csv,
        "bert": pico("bert"),
        "mlm": pico("bert-mlm"),
        "run": finished,
        "results": finished.parent,
    }


def _make_models(bad: Path, bert: Path) -> None:
    import transformers as hf

    def copy(name: str, *without: str, **config: Any) -> Path:
        folder = bad / name
        shutil.copytree(bert, folder, ignore=shutil.ignore_patterns(*without))
        stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(stated | config), encoding="utf-8")
        return folder

    (copy("config") / "config.json").write_text("{", encoding="utf-8")
    copy("type", model_type="frobnicate", architectures=["Frobnicate"])
    copy("noweights", "*.safetensors")
    weights = copy("cut") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    copy("notokenizer", "*token*", "vocab*")
    copy("othershape", hidden_size=64)
    pickled = copy("pickle", "*.safetensors")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    copy("layers", num_hidden_layers=10**12)
    copy("labels", num_labels=10**9)
    copy("wide", hidden_size=10**6, intermediate_size=10**6)
    copy("huge", hidden_size=10**12, intermediate_size=10**12)
    copy("code", model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"})
    (bad / "code" / "own.py").write_text("raise SystemExit('run!')\n", encoding="utf-8")
    (copy("shards", "*.safetensors") / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"embeddings": "../bert/model.safetensors"}}), encoding="utf-8"
    )
    copy("activation", hidden_act="magic")
    copy("words", hidden_size="wide")
    (copy("tokens") / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE"}}', encoding="utf-8")
    small = {"vocab_size": 100, "pad_token_id": 0}
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    for name, model in (
        # Its experts are fused into tensors that are no linear layers.
        ("mixtral", hf.MixtralModel(hf.MixtralConfig(num_local_experts=2, num_key_value_heads=2, **size, **small))),
        # Encoder and decoder.
        ("t5", hf.T5Model(hf.T5Config(d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, **small))),
        # No text at all.
        ("resnet", hf.ResNetModel(hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]))),
    ):
        folder = bad / name
        shutil.copytree(bert, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
        model.save_pretrained(folder)


def _make_runs(bad: Path, finished: Path, pico: Callable[[str], Path], sentiment: Any) -> None:
    def copy(name: str, **settings: str) -> Path:
        run = bad / "runs" / name
        shutil.copytree(finished, run)
        file = run / "settings.yaml"
        lines = file.read_text(encoding="utf-8").splitlines()
        file.write_text(
            "\n".join(
                f"{key}: {settings[key]}" if (key := line.partition(":")[0]) in settings else line for line in lines
            )
            + "\n",
            encoding="utf-8",
        )
        _sign(run, "settings.yaml")
        return run

    (copy("unfinished") / "result.json").unlink()
    (copy("nomask") / "mask.safetensors").unlink()
    (copy("nosettings") / "settings.yaml").unlink()
    mask = copy("shortmask") / "mask.safetensors"
    mask.write_bytes(mask.read_bytes()[:100])
    for name, file in (("strangemask", "mask.safetensors"), ("head", "head.safetensors")):
        path = copy(name) / file
        path.write_bytes(b"\xff" * path.stat().st_size)
    (copy("result") / "result.json").write_text("{", encoding="utf-8")
    schema = copy("schema")
    (schema / "result.json").write_text(json.dumps({**result_of(schema), "schema": 2}), encoding="utf-8")
    settings = copy("settings")
    (settings / "settings.yaml").write_text("]\n", encoding="utf-8")
    _sign(settings, "settings.yaml")
    copy("othermodel", model=str(pico("bert-mlm")))
    copy("plugin", method="chance")
    copy("otherdata", task=str(sentiment.tsv.with_name("other.csv")))
    sentiment.tsv.with_name("other.csv").write_text(
        "text,label\n" + "".join(f"{text},{label}\n" for text, label in sentiment.rows[:100]), encoding="utf-8"
    )
    copy("nodata", task=str(bad / "gone.csv"))
    copy("nomodel", model=str(bad / "gone"))
    copy("badvalue", batch_size="0")
    link = copy("link") / "mask.safetensors"
    link.unlink()
    link.symlink_to(finished / "mask.safetensors")
    outside = copy("outside")
    result = result_of(outside)
    result["files"]["../../run/mask.safetensors"] = 1
    (outside / "result.json").write_text(json.dumps(result), encoding="utf-8")
    othermask = copy("othermask")
    masks = read_masks(othermask / "mask.safetensors")
    write_masks(othermask / "mask.safetensors", {**masks, "encoder.layer.9.query": next(iter(masks.values()))})
    _sign(othermask, "mask.safetensors")
    shape = copy("shape") / "mask.safetensors"
    shape.write_bytes(shape.read_bytes().replace(b"[32,32]", b"[99,99]"))


def _sign(run: Path, file: str) -> None:
    """Put the file's size into result.json, as if the run had written it so."""
    result = result_of(run)
    result["files"][file] = (run / file).stat().st_size
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")


def check(done: Done, says: tuple[str, ...]) -> None:
    assert done.code == 2, f"exit code {done.code}\n{done.out}\n{done.err}"
    lines = done.err.splitlines()
    while lines and (lines[0] in PROGRESS or lines[0].startswith("device ")):
        lines.pop(0)
    assert len(lines) == 1, lines
    (line,) = lines
    assert line.startswith("error: ") and line[7:].strip() == line[7:] and line[7:]
    assert len(line) <= 300 + len("error: ")
    assert "Traceback" not in line and "internal fault" not in line
    assert done.out == ""
    for part in says:
        assert part in line


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_bad_input(
    smp: Smp, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = case.line.format(**places).split(" ")
    if arguments[0] == "prune" and "--epochs" not in arguments:
        # So that what is let through by mistake ends soon; the case's own flags come last and win.
        arguments[1:1] = SHORT
    before = [listing(folder) for folder in (places["bad"], places["results"], places["csv"].parent)]
    check(smp(*arguments), case.says)
    assert listing(tmp_path) == []
    assert [listing(folder) for folder in (places["bad"], places["results"], places["csv"].parent)] == before


def test_there_are_many_cases_and_each_is_told_apart() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 350


REAL = [
    # The whole of stderr, which libraries write to as well.
    case("prune --task sst2 --model {bert} --quiet", "from the hub", "--data-dir", "--task movies"),
    case("prune --task {csv} --model nobody/none --quiet", "--model minilm"),
    case("prune --task {csv} --model {bad}/cut --quiet", "can't load the model"),
    case("prune --task {csv} --model {bad}/mixtral --quiet", "can't be pruned"),
    case("prune --task {bad}/task-words.yaml --model {mlm} --quiet", "not one token"),
    case("prune --method smpp --task movies", "did you mean 'smp'?"),
    case("prunee", "Did you mean 'prune'", "smp --help"),
    case("eval {bad}/runs/strangemask", "damaged mask file"),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in REAL])
def test_bad_input_to_a_process(real_smp: Smp, places: dict[str, Path], tmp_path: Path, case: Case) -> None:
    done = real_smp(*case.line.format(**places).split(" "), cwd=tmp_path)
    check(done, case.says)
    assert done.err.count("\n") == 1 and done.err.startswith("error: ")
    assert listing(tmp_path) == []


def test_a_hub_that_refuses(real_smp: Smp, places: dict[str, Path], tmp_path: Path) -> None:
    """Not told to be offline, but without an answer: the client's own complaints and retries stay away."""
    # Nothing listens on the discard port.
    env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = real_smp("prune", "--task", places["csv"], "--model", "nobody/none", "-q", env=env)
    check(done, ("can't load 'nobody/none'", "--model minilm"))
    assert done.err.count("\n") == 1
    done = real_smp("prune", "--task", "sst2", "--model", places["bert"], "-q", env=env)
    check(done, ("from the hub", "--data-dir", "--task movies"))
    assert done.err.count("\n") == 1


def test_a_missing_package_index_names_the_way_round(real_smp: Smp, places: dict[str, Path], tmp_path: Path) -> None:
    """`movies` comes from the index; without one, the archive can be brought by hand."""
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": "/dev/null"}
    done = real_smp("prune", "--task", "movies", "--model", places["bert"], "-q", cwd=tmp_path, env=nowhere)
    check(done, ("movies", "package index", "vaderSentiment-3.3.2.tar.gz", "--data-dir"))
    assert listing(tmp_path) == []


def test_damaged_runs_are_listed_beside_the_good(smp: Smp, places: dict[str, Path], tmp_path: Path) -> None:
    """`compare` skips nothing in silence, and one bad run doesn't keep the others from the table."""
    folder = tmp_path / "runs"
    shutil.copytree(places["bad"] / "runs", folder)
    shutil.copytree(places["run"], folder / "good")
    found = smp("compare", folder, "--json").json
    reasons = {Path(problem["path"]).name: problem["reason"] for problem in found["problems"]}
    for name in ("unfinished", "nomask", "shortmask", "result", "schema", "nosettings", "settings"):
        assert reasons[name]
    assert reasons["unfinished"].startswith("unfinished")
    assert all(reasons[name].startswith("damaged") for name in ("nomask", "shortmask", "result", "settings"))
    listed = {Path(run).name for row in found["rows"] for run in row["runs"]} | reasons.keys()
    assert listed == {path.name for path in folder.iterdir() if path.is_dir()}
    assert "good" not in reasons


def test_several_faults_are_still_one_line(smp: Smp, places: dict[str, Path]) -> None:
    done = smp("prune", "--task", places["csv"], "--seed", "-1", "--batch-size", "0", "--max-steps", "0")
    check(done, ("and 2 more",))


def test_a_message_of_any_length_is_one_line(smp: Smp) -> None:
    check(smp("prune", "--task", "movies", "--method", "x" * 1000 + "\n" * 20 + "y"), ("unknown method", "…"))


@pytest.mark.parametrize("process", [False, True])
def test_a_fault_of_ours_is_another_thing(
    process: bool,
    places: dict[str, Path],
    real_smp: Smp,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 1, one line, and where the traceback is."""
    if process:
        # A module of this name comes before the library's, and breaks.
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "pandas.py").write_text("raise RuntimeError('no\\nsuch luck')\n", encoding="utf-8")
        env = {"PYTHONPATH": str(tmp_path / "broken"), "TMPDIR": str(tmp_path)}
        done = real_smp("compare", places["results"], "--csv", tmp_path / "c.csv", env=env)
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr("smpcli.api.compare", lambda *paths, **options: options["no\nsuch luck"])
        code = run_in_process("compare", places["results"])
        done = Done(code, *capsys.readouterr())
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith("error: internal fault") and "such luck" in line
    (saved,) = tmp_path.glob("smp-traceback-*.txt")
    assert str(saved) in line
    text = saved.read_text(encoding="utf-8")
    assert text.startswith("Traceback (most recent call last):") and "such luck" in text
    assert not (tmp_path / "c.csv").exists()


def test_a_loss_that_is_no_number(smp: Smp, places: dict[str, Path], tmp_path: Path) -> None:
    """A learning rate that blows training up is the person's to mend: no run is left that looks finished."""
    done = smp(
        *("prune", "--method", "magnitude", "--task", places["csv"], "--model", places["bert"], *SHORT),
        *("--set", "weights_lr=1e30", "--set", "max_grad_norm=1e30", "--output", tmp_path, "--quiet"),
    )
    check(done, ("loss", "weights_lr"))
    assert not list(tmp_path.rglob("result.json"))


def test_a_run_for_the_table_is_not_disturbed(places: dict[str, Path], tmp_path: Path) -> None:
    """A recipe that sets everything the short runs set is a run like theirs (the fixtures are what they seem)."""
    run = make_run("prune", "--recipe", places["run"] / "settings.yaml", "--output", tmp_path)
    assert (run / "mask.safetensors").read_bytes() == (places["run"] / "mask.safetensors").read_bytes()
