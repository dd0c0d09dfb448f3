"""Answers for texts, from one run or export, or from several masks over one base model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from smpcli.errors import UserError, one_line
from smpcli.tasks.texts import is_unicode

if TYPE_CHECKING:
    from smpcli.export.ready import Ready

# Texts that are answered by one task before the next has its turn.
CHUNK = 256


def answers(paths: Sequence[Path], texts: Iterable[str], model: str | None = None) -> Iterator[dict[str, Any]]:
    """For each text and each path one answer (`Ready.predict`) with "text" and "task", and "mask" where several are.

    Raises UserError, before the first answer for what is wrong with the paths.
    """
    if not paths:
        raise UserError("nothing to predict with", "name a run or an export, or masks with --mask")
    return _in_chunks([str(path) for path in paths], _users(paths, model), iter(texts))


def _users(paths: Sequence[Path], model: str | None) -> list[Callable[[], Ready]]:
    """For each path what makes its model ready."""
    if len(paths) == 1:
        from smpcli.export.loading import load

        ready = load(paths[0], model)
        return [lambda: ready]
    from smpcli.export.many import SharedBase
    from smpcli.export.mask import is_one

    for path in paths:
        if not path.exists():
            raise UserError(one_line(f"there is no mask file {path}"))
        if not is_one(path):
            raise UserError(
                one_line(f"{path} is not a mask file"),
                "several tasks at once are masks (`smp export RUN --format mask`)",
            )
    base = SharedBase(paths, model)
    return [lambda index=index: base.use(index) for index in range(len(paths))]  # type: ignore[misc]


def _in_chunks(names: list[str], users: list[Callable[[], Ready]], texts: Iterator[str]) -> Iterator[dict[str, Any]]:
    number = 0
    while chunk := list(islice(texts, CHUNK)):
        columns = []
        for name, use in zip(names, users, strict=True):
            ready = use()
            firsts, seconds = _split(chunk, number, ready)
            which = {"task": ready.task} if len(names) == 1 else {"mask": name, "task": ready.task}
            columns.append([{**which, **answer} for answer in ready.predict(firsts, seconds, number + 1)])
        for text, *found in zip(chunk, *columns, strict=True):
            yield from ({"text": text, **answer} for answer in found)
        number += len(chunk)


def _split(texts: list[str], number: int, ready: Ready) -> tuple[list[str], list[str] | None]:
    """Texts and second texts. Raises UserError where a task on pairs gets no pair."""
    if not ready.pairs:
        return texts, None
    pairs = [text.split("\t") for text in texts]
    for index, pair in enumerate(pairs):
        if len(pair) != 2:
            raise UserError(f"text {number + index + 1}: task '{ready.task}' takes two texts, a tab between them")
    return [first for first, _ in pairs], [second for _, second in pairs]


def arrange(arguments: Sequence[str], masks: Sequence[Path], file: Path | None) -> tuple[list[Path], Iterable[str]]:
    """What the command line means: exports, and texts from arguments, else from the file, else from standard input.

    Without masks, the first argument is the run or export. Raises UserError.
    """
    exports = list(masks) or [Path(argument) for argument in arguments[:1]]
    texts = list(arguments if masks else arguments[1:])
    if not exports:
        raise UserError("nothing to predict with", "name a run or an export, or masks with --mask")
    if texts and file:
        raise UserError("texts are given as arguments or with --file, not both")
    for number, text in enumerate(texts, start=1):
        if not is_unicode(text):
            raise UserError(f"text {number} isn't UTF-8", "save it in a file as UTF-8 and use --file")
    if texts:
        return exports, texts
    if file is None and sys.stdin.isatty():
        raise UserError("no texts", "give them as arguments, with --file, or on standard input")
    return exports, _lines(file)


def _lines(file: Path | None) -> Iterator[str]:
    """Each line of a UTF-8 file, or of standard input, without its end. Raises UserError."""
    if file is None:
        return _decoded(sys.stdin.buffer, "standard input")
    try:
        return _decoded(file.open("rb"), str(file))
    except OSError as error:
        raise UserError(one_line(f"can't read {file}: {error.strerror or error}")) from None


def _decoded(stream: BinaryIO, name: str) -> Iterator[str]:
    with stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UserError(one_line(f"{name}, line {number}: isn't UTF-8 text"), "save it as UTF-8") from None
            yield text.removesuffix("\n").removesuffix("\r")
