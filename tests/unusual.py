"""Pico models of architectures that have BERT's names but not its ways, for tests of what isn't BERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HIDDEN, INNER, HEADS = 32, 48, 4


def unusual(name: str, vocabulary: int) -> Any:
    """A model of this type with random weights, two blocks; with a language-model head, where the type has one."""
    import torch
    import transformers as hf

    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": 64,
        "initializer_range": 0.15,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(5)
        if name == "roformer":
            return hf.RoFormerForMaskedLM(hf.RoFormerConfig(embedding_size=16, **sizes))
        if name == "rembert":
            embeddings = {"input_embedding_size": 16, "output_embedding_size": 16}
            return hf.RemBertForMaskedLM(hf.RemBertConfig(**embeddings, **sizes))
        if name == "big_bird":
            return hf.BigBirdForMaskedLM(hf.BigBirdConfig(block_size=4, num_random_blocks=1, **sizes))
        if name == "mra":
            return hf.MraForMaskedLM(hf.MraConfig(**sizes))
        if name == "yoso":
            return hf.YosoForMaskedLM(hf.YosoConfig(num_hash=8, **sizes))
        if name == "megatron-bert":
            return hf.MegatronBertForMaskedLM(hf.MegatronBertConfig(**sizes))
        if name == "canine":
            shrunk = {"downsampling_rate": 4, "local_transformer_stride": 16, "num_hash_buckets": 64}
            sizes.pop("vocab_size")
            return hf.CanineForSequenceClassification(hf.CanineConfig(**shrunk, **sizes))
        if name == "fnet":
            del sizes["num_attention_heads"]
            return hf.FNetForMaskedLM(hf.FNetConfig(**sizes))
        if name == "luke":
            return hf.LukeForMaskedLM(hf.LukeConfig(entity_vocab_size=8, entity_emb_size=16, **sizes))
        if name == "reformer":
            chunks = {"axial_pos_embds": False, "attn_layers": ["local", "local"], "local_attn_chunk_length": 16}
            small = {"attention_head_size": 8, "feed_forward_size": INNER, "is_decoder": False}
            del sizes["num_hidden_layers"], sizes["intermediate_size"]
            return hf.ReformerForMaskedLM(hf.ReformerConfig(**chunks, **small, **sizes))
        if name == "pegasus":
            blocks = {"decoder_layers": 2, "decoder_attention_heads": HEADS, "decoder_ffn_dim": INNER}
            blocks["encoder_layers"] = 2  # what it takes for the number of all layers
            more = {"d_model": HIDDEN, "eos_token_id": 2, "init_std": 0.15, "is_decoder": True}
            kept = {key: sizes[key] for key in ("vocab_size", "max_position_embeddings", "pad_token_id")}
            return hf.PegasusForCausalLM(hf.PegasusConfig(**blocks, **more, **kept, is_encoder_decoder=False))
        assert name == "opt"
        width = {"ffn_dim": INNER, "word_embed_proj_dim": HIDDEN, "init_std": 0.15}
        return hf.OPTForCausalLM(hf.OPTConfig(bos_token_id=2, eos_token_id=2, **width, **sizes))


def save_unusual(name: str, folder: Path, tokenizer_of: Path) -> Path:
    """The folder, with a model of this type and the tokenizer of another folder."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    unusual(name, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
