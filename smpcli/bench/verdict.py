"""The comparison as a table: sparsity, size and speed of each contender, always together."""

from __future__ import annotations

from collections.abc import Iterator

from smpcli.bench.infer import Report


def columns(report: Report) -> list[str]:
    return ["", "sparsity", "size", "memory", "batch", *(f"length {n}" for n in report.lengths)]


def rows(report: Report) -> Iterator[list[str]]:
    """For each batch size a row a contender; a cell is milliseconds a batch, times dense torch, texts a second."""
    for batch in report.batches:
        for one in report.contenders:
            name = f"{one.name} ({one.metric})" if one.metric else one.name
            about = [name, f"{100 * one.sparsity:g} %", _megabytes(one.bytes), _megabytes(one.memory), str(batch)]
            cells = []
            for length in report.lengths:
                seconds = one.latency((batch, length))
                speed = report.speed(one, (batch, length))
                cells.append(f"{1000 * seconds:.2f} ms\n{speed:.2f}×  {batch / seconds:.0f}/s")
            yield [*about, *cells]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
