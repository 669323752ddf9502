"""Put what a benchmark measured into a page of the documentation, so that one command renews both."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from facegallery.embedder.errors import InputError


def put(page: Path, name: str, lines: Iterable[str]) -> None:
    """Replace what lies between `<!-- measured: NAME -->` and `<!-- end -->`; raise InputError without these lines."""
    begin, end, text = f"<!-- measured: {name} -->\n", "<!-- end -->", page.read_text(encoding="utf-8")
    before, found, after = text.partition(begin)
    _, closed, rest = after.partition(end)
    if not found or not closed:
        raise InputError(f"expected {begin.strip()} and {end} in {page}, found none: add both lines")
    body = "\n".join(lines).strip("\n")
    page.write_text(f"{before}{begin}\n{body}\n\n{end}{rest}", encoding="utf-8")
