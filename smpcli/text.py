"""Numbers and names as people read them."""

from __future__ import annotations


def human_count(number: int) -> str:
    """Two or three digits and a unit: 85 M, 1.3 k."""
    return _scaled(number, ("", " k", " M", " G"))


def human_bytes(number: int) -> str:
    """Two or three digits and a unit of powers of 1000: 1.3 MB, 42 MB, 999 B."""
    return _scaled(number, (" B", " kB", " MB", " GB"))


def _scaled(number: float, units: tuple[str, ...]) -> str:
    unit = 0
    # 999.5 would print as 1000.
    while number >= 999.5 and unit < len(units) - 1:
        number /= 1000
        unit += 1
    digits = 1 if unit and number < 9.95 else 0
    return f"{number:.{digits}f}{units[unit]}"


def human_time(seconds: float) -> str:
    """Minutes and seconds: 9:05, 125:00."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def plain(text: str) -> str:
    """Names come from files: whatever could steer a terminal is shown as �."""
    return "".join(char if char.isprintable() else "�" for char in text)
