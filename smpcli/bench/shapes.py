"""Stock sizes with random weights: what a step takes depends on sizes alone, and needs no download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import ascii_lowercase, digits
from tempfile import TemporaryDirectory
from typing import Any

from smpcli.errors import unknown
from smpcli.files import WriteError, refusal

VOCABULARY = 30_522
#: Name -> blocks, hidden size, heads, inner size; all of BERT's architecture.
SHAPES = {
    "bert-tiny": (2, 128, 2, 512),
    "minilm": (6, 384, 12, 1536),
    "distilbert": (6, 768, 12, 3072),
    "bert-base": (12, 768, 12, 3072),
    "bert-large": (24, 1024, 16, 4096),
}


def check_shape(name: str) -> None:
    """Raises UserError for a shape that isn't in SHAPES."""
    if name not in SHAPES:
        raise unknown("shape", name, SHAPES)


@contextmanager
def random_checkpoint(name: str) -> Iterator[str]:
    """A folder with a model of that shape, the same every time, and its tokenizer; afterwards it is gone.

    Raises UserError for a shape that isn't there, and where there is no room.
    """
    check_shape(name)
    import torch
    from transformers import BertConfig, BertModel

    blocks, hidden, heads, inner = SHAPES[name]
    config = BertConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=blocks,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=inner,
    )
    with TemporaryDirectory(prefix="smp-shape-") as folder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = BertModel(config)
        try:
            model.save_pretrained(folder)
            _tokenizer().save_pretrained(folder)
        except Exception as error:
            if (refused := refusal(error)) is None:
                raise
            reason = refused.strerror or str(refused)
            raise WriteError(Path(folder), reason, "make room, or name another place with TMPDIR") from error
        del model
        yield folder


def _tokenizer() -> Any:
    """WordPiece over letters and digits, filled up to VOCABULARY with tokens that no text has."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = ascii_lowercase + digits
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    words += [f"[unused{number}]" for number in range(VOCABULARY - len(words))]
    tokenizer = Tokenizer(models.WordPiece(dict(zip(words, range(VOCABULARY), strict=True)), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
