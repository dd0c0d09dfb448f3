"""Local links of Markdown pages: each must lead to a file, and to a heading where it names one. Works offline.

python tests/links.py [PAGE …]      # without pages: all of the project
"""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^ *```.*?^ *```$", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(<?([^)<>\s]+)>?(?: \"[^\"]*\")?\)")


def pages() -> list[Path]:
    """Every page that the project shows: at the top, of docs/ and of .github/."""
    return [
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / ".github").rglob("*.md")),
    ]


@cache
def anchors(page: Path) -> frozenset[str]:
    """The names by which a page's headings are reached: GitHub's rule."""
    found: list[str] = []
    for title in re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        # A heading that comes again gets a number.
        taken = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
        found.append(f"{slug}-{taken}" if slug in found else slug)
    return frozenset(found)


def broken(page: Path) -> list[str]:
    """The page's local links that lead nowhere, as written; links to the network are left alone."""
    # Links in code blocks and code spans are text.
    text = re.sub(r"(`+)[^`].*?\1", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    wrong = []
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        place = page.parent / target if target else page
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place.resolve())):
            wrong.append(link)
    return wrong


if __name__ == "__main__":
    bad = [(page, link) for page in map(Path, sys.argv[1:] or pages()) for link in broken(page)]
    for page, link in bad:
        print(f"{page}: no {link}")
    sys.exit(bool(bad))
