"""The compact model on sparse kernels: activations lie as (features, tokens), the layout that a CSR product wants.

Transposing around every product is what makes sparse kernels lose in a whole model; here nothing is transposed but
the embeddings. Which matrix is multiplied as CSR and which as dense is decided by measuring, for several numbers of
tokens; and so is whether the model runs in this layout at all, or as the compact model that it is made from.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from smpcli.modeling.compact_model import ACTIVATIONS, CompactBlock, CompactModel

#: Numbers of tokens (batch times length) that are measured; in between, the nearest decides.
TOKENS = (1, 16, 64, 256, 1024, 4096)
# Sparse must be this much faster to be chosen: a measurement has noise.
MARGIN = 0.95
ROUNDS = 5
# Tokens of a text, where whole models are measured.
TEXT = 32


class MeasuredMatrix:
    """y = W x + b for x (in, tokens), by whichever kernel won at that number of tokens."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight.contiguous(), bias[:, None].contiguous()
        # 32-bit indices: MKL takes them as they are, others are converted at every product.
        with warnings.catch_warnings():
            # torch calls the format a beta.
            warnings.simplefilter("ignore", UserWarning)
            csr = weight.to_sparse_csr()
            rows, columns = csr.crow_indices().int(), csr.col_indices().int()
            self.csr = torch.sparse_csr_tensor(rows, columns, csr.values(), csr.shape, check_invariants=False)
        self.sparse_at: dict[int, bool] = dict.fromkeys(TOKENS, False)

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self.sparse(x) if self.sparse_at[_nearest(x.shape[1])] else self.dense(x)
        return y

    def dense(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, self.weight, x)

    def sparse(self, x: Tensor) -> Tensor:
        y: Tensor = torch.sparse.mm(self.csr, x)
        return y.add_(self.bias)

    def measure(self) -> None:
        """Choose the kernel for each number of tokens."""
        for tokens in TOKENS:
            x = torch.randn(self.weight.shape[1], tokens)
            self.sparse_at[tokens] = _is_faster(partial(self.sparse, x), partial(self.dense, x))


def _nearest(tokens: int) -> int:
    return min(TOKENS, key=lambda one: max(one, tokens) / min(one, tokens))


def _is_faster(one: Callable[[], Tensor], other: Callable[[], Tensor]) -> bool:
    """Whether `one` is, by the fastest of some interleaved rounds."""
    seconds = {one: float("inf"), other: float("inf")}
    for _ in range(ROUNDS):
        for run in seconds:
            start = time.perf_counter()
            run()
            seconds[run] = min(seconds[run], time.perf_counter() - start)
    return seconds[one] < MARGIN * seconds[other]


class SparseModel(nn.Module):
    """As `CompactModel`, which it is made from, and as which it runs where that is faster.

    columns_at: whether activations lie as (features, tokens), for each number of tokens.
    """

    def __init__(self, model: CompactModel) -> None:
        super().__init__()
        self.model = model
        self.matrices = [_matrices(block) for block in model.blocks]  # type: ignore[arg-type]
        self.columns_at: dict[int, bool] = dict.fromkeys(TOKENS, True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Token ids and masks (batch, length) -> logits (batch, labels)."""
        batch, length = input_ids.shape
        if not self.columns_at[_nearest(batch * length)]:
            plain: Tensor = self.model(input_ids, attention_mask, token_type_ids)
            return plain
        return self.run_in_columns(input_ids, attention_mask, token_type_ids)

    def run_in_columns(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """`forward` in the layout of sparse products."""
        batch, length = input_ids.shape
        embedded = self.model.embeddings(input_ids, token_type_ids)
        x = embedded.flatten(0, 1).T.contiguous()
        bias = self.model.score_bias(attention_mask, x.dtype)
        at = self.model.answer_position(input_ids) + torch.arange(batch) * length
        for block, matrices in zip(self.model.blocks, self.matrices, strict=True):
            x = _run(block, matrices, x, bias, at, batch)  # type: ignore[arg-type]
        logits: Tensor = self.model.head(x.T)
        return logits

    def choices(self) -> dict[str, Any]:
        """What was chosen: of each block's matrices, the numbers of tokens at which they are multiplied as CSR
        ("matrices"), and those at which the model runs in columns ("columns")."""
        return {
            "matrices": [
                {name: _true(matrix.sparse_at) for name, matrix in block.items()} for block in self.matrices
            ],
            "columns": _true(self.columns_at),
        }

    def choose(self, choices: Any = None) -> None:
        """Take choices made before on a machine like this one; where there are none, or another model's, measure."""
        try:
            found = [
                (matrix, [int(tokens) for tokens in chosen[name]])
                for block, chosen in zip(self.matrices, choices["matrices"], strict=True)
                for name, matrix in block.items()
            ]
            columns = [int(tokens) for tokens in choices["columns"]]
        except (TypeError, KeyError, ValueError, OverflowError):
            self.measure()
            return
        for matrix, tokens in found:
            matrix.sparse_at = {one: one in tokens for one in TOKENS}
        self.columns_at = {one: one in columns for one in TOKENS}

    @torch.inference_mode()
    def measure(self) -> None:
        """Choose by measuring: first each matrix's kernel, then the layout."""
        for block in self.matrices:
            for matrix in block.values():
                matrix.measure()
        most = self.model.embeddings.longest
        for tokens in TOKENS:
            length = min(tokens, TEXT, most)
            ids = torch.zeros(max(1, tokens // length), length, dtype=torch.long)
            given = ids, torch.ones_like(ids)
            self.columns_at[tokens] = _is_faster(partial(self.run_in_columns, *given), partial(self.model, *given))


def _true(found: Mapping[int, bool]) -> list[int]:
    return [tokens for tokens, chosen in found.items() if chosen]


def _matrices(block: CompactBlock) -> dict[str, MeasuredMatrix]:
    names = [*(("ask", "answer") if block.last else ("all",)), "output"] if block.heads else []
    names += ["up", "down"] if block.neurons else []
    return {name: MeasuredMatrix(getattr(block, f"{name}_weight"), getattr(block, f"{name}_bias")) for name in names}


def _run(
    block: CompactBlock, matrices: dict[str, MeasuredMatrix], x: Tensor, bias: Tensor, at: Tensor, batch: int
) -> Tensor:
    """One block: x (width, batch * length) -> the same, or (width, batch) of the last block."""
    here = x.index_select(1, at) if block.last else x
    if block.heads:
        here = here + matrices["output"](_attend(block, matrices, x, here, bias, batch))
    else:
        here = here + block.output_bias[:, None]
    here = _norm(here, block.norm1_weight, block.norm1_bias, block.epsilon)
    if block.neurons:
        inner = ACTIVATIONS[block.activation](matrices["up"](_pick(here, block.up_reads)))
        here = here + matrices["down"](inner)
    else:
        here = here + block.down_bias[:, None]
    return _norm(here, block.norm2_weight, block.norm2_bias, block.epsilon)


def _attend(
    block: CompactBlock, matrices: dict[str, MeasuredMatrix], x: Tensor, here: Tensor, bias: Tensor, batch: int
) -> Tensor:
    read = _pick(x, block.attention_reads)
    if block.last:
        (q,) = _heads(block, matrices, _pick(here, block.attention_reads), "ask", 1, batch)
        k, v = _heads(block, matrices, read, "answer", 2, batch)
    else:
        q, k, v = _heads(block, matrices, read, "all", 3, batch)
    mixed = scaled_dot_product_attention(q, k, v, bias, scale=1.0)
    # (batch, heads, positions, width) -> (heads * width, batch * positions)
    return _pick(mixed.permute(1, 3, 0, 2).flatten(2).flatten(0, 1), block.mixed)


def _heads(
    block: CompactBlock, matrices: dict[str, MeasuredMatrix], x: Tensor, name: str, parts: int, batch: int
) -> tuple[Tensor, ...]:
    """`parts` times (batch, heads, positions, width)."""
    y = _pick(matrices[name](x), getattr(block, f"{name}_places"))
    y = y.view(parts, block.heads, -1, batch, x.shape[1] // batch)
    return y.permute(0, 3, 1, 4, 2).contiguous().unbind(0)


def _pick(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x.index_select(0, index)


def _norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """LayerNorm over the features, which are the rows."""
    x = x - x.mean(0)
    x *= (x.square().mean(0) + epsilon).rsqrt_()
    return torch.addcmul(bias[:, None], x, weight[:, None])
