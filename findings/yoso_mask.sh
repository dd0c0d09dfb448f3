#!/usr/bin/env bash
# YOSO in transformers 5 reads padding as text, whatever the attention mask says.
#
# Versions: transformers 5.24.0, torch 2.13.0, tokenizers 0.23.3, numpy 2.4.6 (CPU).
#
# Behaviour: YosoForSequenceClassification in eval mode answers a text otherwise when it is padded, although the mask
# has a 0 for each padded place. An attention mask of 0 and 1 has no effect on it at all: masking the padding and
# masking nothing give the same logits. What does mask is the additive form that other models make inside
# (0 for a token, -10000 for padding): with it the padded text gets the logits of the text alone.
#
# Why it surprises: the documentation of YosoModel.forward, as that of every encoder, says 1 for tokens and 0 for
# padding, and tokenizers make that. Nothing is raised or logged. The answer to a text depends on the longest text of
# its batch, and an evaluation in the same batches agrees with itself. The cause: the layer computes
# 1 + mask / 10000 as a whole number, which is 1 for words and for padding. BERT, asked the same way, shows what one
# expects.
#
# Output seen:
#   Bert  alone [-0.9147, 1.2234]  padded [-0.9147, 1.2234]  padded, mask of ones [-1.2509, 0.8825]
#   Yoso  alone [0.1684, -0.8043]  padded [0.1426, -0.6357]  padded, mask of ones [0.1426, -0.6357]
#   Yoso  padded, additive mask [0.1684, -0.8043]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q transformers==5.24.0 torch==2.13.0 tokenizers==0.23.3 numpy==2.4.6
HF_HUB_OFFLINE=1 venv/bin/python -I - <<'PY'
import torch
from transformers import BertConfig, BertForSequenceClassification, YosoConfig, YosoForSequenceClassification

SIZES = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
             max_position_embeddings=64, initializer_range=0.2)
text = torch.tensor([[5, 6, 7, 8]])
padded = torch.nn.functional.pad(text, (0, 8), value=1)
mask = (padded != 1).long()


def shown(logits):
    return [round(value, 4) for value in logits[0].tolist()]


def ask(config, architecture):
    torch.manual_seed(0)
    model = architecture(config(**SIZES, pad_token_id=1)).eval()
    with torch.no_grad():
        alone = model(text, attention_mask=torch.ones_like(text)).logits
        masked = model(padded, attention_mask=mask).logits
        unmasked = model(padded, attention_mask=torch.ones_like(mask)).logits
        additive = model(padded, attention_mask=(1 - mask) * -10000.0).logits
    print(f"{architecture.__name__[:4]}  alone {shown(alone)}  padded {shown(masked)}  "
          f"padded, mask of ones {shown(unmasked)}")
    return alone, masked, unmasked, additive


alone, masked, unmasked, _ = ask(BertConfig, BertForSequenceClassification)
assert torch.allclose(alone, masked, atol=1e-5), "BERT's mask must hide padding"
assert not torch.allclose(masked, unmasked, atol=0.01)

alone, masked, unmasked, additive = ask(YosoConfig, YosoForSequenceClassification)
print(f"Yoso  padded, additive mask {shown(additive)}")
assert not torch.allclose(alone, masked, atol=0.01), "changed: YOSO's mask hides padding"
assert torch.allclose(masked, unmasked, atol=1e-4), "changed: a mask of 0 and 1 has an effect on YOSO"
assert torch.allclose(alone, additive, atol=1e-5), "changed: YOSO no longer takes an additive mask"
PY
