#!/usr/bin/env bash
# A model that nncf has pruned is saved with all of its weights, and loads as the model of before it was pruned.
#
# Versions: nncf 3.4.0, torch 2.13.0, transformers 5.24.0, numpy 2.4.6 (CPU).
#
# Behaviour: nncf.prune(model, ratio=0.9) returns a model of the same class, whose forward pass is pruned, and
# nncf.pruning_statistic says 0.9. Its save_pretrained writes the weights as they were, and the masks beside them
# under names that begin with __nncf_hooks. from_pretrained of that folder gives the unpruned model: no weight is
# zero, and its logits are those of before pruning, to the bit. The way out, nncf.strip with StripFormat.IN_PLACE,
# raises ModuleNotFoundError for torchao, which no installation of nncf and torch brings along.
#
# Why it surprises: saving and loading is taken to change nothing, and neither call raises. All that is said is
# transformers' report of unexpected keys, which "can be ignored when loading from different task/architecture". A
# model that was trained for hours with masks answers without them. And what makes masks permanent has nothing to do
# with torchao: the import is for observers of quantization.
#
# Output seen:
#   in memory:    BertForSequenceClassification, ratio 0.90, other logits than before pruning: True
#   loaded again: 0.00 of the weights are zero, logits of before pruning to the bit: True; keys not read: 11
#   nncf.strip:   ModuleNotFoundError: No module named 'torchao'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q nncf==3.4.0 torch==2.13.0 transformers==5.24.0 numpy==2.4.6
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error venv/bin/python -I -W ignore - <<'PY'
import nncf
import torch
from nncf.parameters import PruneMode, StripFormat
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()
SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
inputs = {"input_ids": torch.arange(8).view(1, 8)}


def zeros(model):
    weights = [part.weight for part in model.bert.encoder.modules() if isinstance(part, torch.nn.Linear)]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


@torch.no_grad()
def logits(model):
    return model.eval()(**inputs).logits


torch.manual_seed(0)
model = BertForSequenceClassification(BertConfig(intermediate_size=32, max_position_embeddings=16, **SIZES))
before = logits(model)
pruned = nncf.prune(model, PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL, ratio=0.9, examples_inputs=inputs)
ratio, other = nncf.pruning_statistic(pruned).pruning_ratio, not torch.equal(logits(pruned), before)
print(f"in memory:    {type(pruned).__name__}, ratio {ratio:.2f}, other logits than before pruning: {other}")
assert round(ratio, 1) == 0.9 and other

pruned.save_pretrained("saved")
loaded, info = BertForSequenceClassification.from_pretrained("saved", output_loading_info=True)
same = torch.equal(logits(loaded), before)
print(f"loaded again: {zeros(loaded):.2f} of the weights are zero, logits of before pruning to the bit: {same}; "
      f"keys not read: {len(info['unexpected_keys'])}")
assert zeros(loaded) == 0 and same, "changed: the pruned model is loaded"

try:
    nncf.strip(pruned, do_copy=False, strip_format=StripFormat.IN_PLACE, example_input=inputs)
    said = "no error"
except ModuleNotFoundError as error:
    said = f"{type(error).__name__}: {error}"
print(f"nncf.strip:   {said}")
assert "torchao" in said, "changed: strip does without torchao"
PY
