"""What a text goes through before a tokenizer has it: the same to learn from and to answer."""

from __future__ import annotations


def prepared(text: str) -> str:
    """The text without white space at both ends."""
    return text.strip()


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded: it holds no half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
