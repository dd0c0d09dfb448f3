"""Bytes from bytes: what a fuzzer does to good files, from one seed always the same."""

from __future__ import annotations

import random
import re

TOKENS = [
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"\n", b"\t", b",", b'"', b"'", b"\\", b"{", b"}", b"["),
    *(b"]", b":", b"-", b"- ", b"&a ", b"*a", b"!!python/name:os.system ", b"!!binary ", b"!!set ", b"<<: ", b"? "),
    *(b"| ", b"> ", b"null", b"true", b"NaN", b"Infinity", b"-1", b"1e999", b"1e400", b"9" * 30, b"9" * 5000, b"0x"),
    *(b"1_0", b"2001-99-99", b"\\ud800", b"\\u0000", "\u2028".encode(), "é".encode(), b"../", b"/etc/passwd"),
    *(b"[" * 200, b'{"a":' * 200, b"text", b"label", b"sentence", b"score", b"schema", b"shapes", b"smp", b"version"),
    *(b"U8", b"F32", b"data_offsets"),
]  # fmt: skip

# What is one value in JSON and, mostly, in YAML; and what may stand in its place without breaking the syntax.
VALUE = re.compile(
    rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|(?<=[:\[-] )[\w./-]+|\[[^\[\]{}]*\]|\{[^{}]*\}'
)
VALUES = [
    *(b"0", b"1", b"-1", b"2", b"7", b"3.5", b"1e30", b"1e308", b"1e400", b"NaN", b"2147483648", b"1000000000"),
    *(b"9223372036854775807", b"9223372036854775808", b"9" * 400, b"10000", b"true", b"false", b"null", b"[]", b"{}"),
    *(b"[0]", b"[1, 2]", b"[[1]]", b"[null]", b'["a"]', b'{"a": 1}', b'""', b'"a"', b'"0"', b'"../x"'),
    *(b'"/etc/passwd"', b'"' + b"x" * 300 + b'"', b"[1000000000]"),
    *(b'"\\ud800"', b'"\\u0000"', b'"U8"', b'"F32"', b'"I64"', b'"gaps"', b'"deflated"'),
]  # fmt: skip


def exchange(data: bytes, draw: random.Random) -> bytes:
    """One value for another, of the same text or of VALUES: the syntax stays whole, the meaning does not."""
    places = list(VALUE.finditer(data))
    if not places:
        return data
    place = draw.choice(places)
    value = draw.choice(VALUES) if draw.random() < 0.6 else draw.choice(places).group()
    return data[: place.start()] + value + data[place.end() :]


def _header(data: bytes) -> int:
    """The length of a safetensors file's header, 0 where there is none."""
    size = int.from_bytes(data[:8], "little")
    return size if data[8:9] == b"{" and size <= len(data) - 8 else 0


def _exchange(data: bytes, draw: random.Random) -> bytes:
    if not (size := _header(data)):
        return exchange(data, draw)
    header = exchange(data[8 : 8 + size], draw)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def mutate(data: bytes, draw: random.Random) -> bytes:
    """A few changes, seldom many: values exchanged, or flips, cuts, repeats, moves, tokens, numbers, lengths."""
    if draw.random() < 0.5:
        changed = data
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            changed = _exchange(changed, draw)
        if changed != data:
            return changed[:50_000]
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3, 6, 20))):
        at = draw.randrange(len(found) + 1)
        end = min(len(found), at + draw.choice((1, 1, 2, 4, 8, 32, 200)))
        match draw.randrange(9):
            case 0 if found:
                found[at % len(found)] ^= 1 << draw.randrange(8)
            case 1:
                del found[at:end]
            case 2:
                found[at:at] = found[at:end] * draw.choice((1, 2, 50))
            case 3:
                found[at:at] = draw.choice(TOKENS)
            case 4:
                found[at:end] = draw.choice(TOKENS)
            case 5:
                found[at:end] = draw.randbytes(end - at)
            case 6:
                del found[at:]
            case 7 if len(found) >= 8:
                # A length or an offset, where binary formats have theirs.
                where = draw.choice((0, 0, max(0, len(found) - 8), at % (len(found) - 7)))
                size = draw.choice((4, 8))
                found[where : where + size] = draw.choice(
                    (0, 1, 2**31 - 1, 2**32 - 1, 2**20, draw.randrange(999))
                ).to_bytes(size, "little")
            case _:
                digits = [index for index, byte in enumerate(found) if 48 <= byte < 58]
                if digits:
                    found[draw.choice(digits)] = 48 + draw.randrange(10)
        if len(found) > 50_000:
            del found[50_000:]
    return bytes(found)


class Corpus:
    """Good files, and mutants that were read in a way that none was before (by the words of the message)."""

    def __init__(self, seeds: list[bytes], draw: random.Random) -> None:
        self.files = list(seeds)
        self.seeds = len(seeds)
        self.draw = draw
        self.seen: set[str] = set()

    def next(self) -> bytes:
        # Half from the good files: what was refused once is mostly refused again.
        pool = self.files[: self.seeds] if self.draw.random() < 0.5 else self.files
        return mutate(self.draw.choice(pool), self.draw)

    def learn(self, data: bytes, outcome: object) -> None:
        words = "read" if outcome is None else " ".join(word for word in str(outcome).split() if word.isalpha())
        if words not in self.seen and len(self.seen) < 2000:
            self.seen.add(words)
            self.files.append(data)
