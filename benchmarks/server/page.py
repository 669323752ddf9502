"""How soon does the page appear where 100,000 people are enrolled, and how long does the list of people take?

    python benchmarks/server/page.py --json benchmarks/results/page.json

Enrolled are 100,000 made-up people with one face each (`benchmarks/common/synthetic.py`), without crops. Measured in
Debian's Chromium, each time in a new context without a cache and with a session: milliseconds from the address to the
first contentful paint, from the address to the first page of names in the people view, and from a click in the search
view to those names. Beside it `GET /v1/indexes/NAME/people` from a client that keeps its connection: pages by cursor,
and names that contain a text. Figures are medians.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import galleries, synthetic  # noqa: E402
from benchmarks.common.served import Server  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = 60  # that the people view shows first
# says when the first page of names was drawn; the click that led to it may have set `began`
WATCH = """
window.began = 0;
window.drawn = new Promise(resolve => new MutationObserver((_, observer) => {
  if (!document.querySelector('.people li')) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - window.began)));
}).observe(document, { childList: true, subtree: true }));
"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
CLICK = "() => { window.began = performance.now(); document.querySelector('nav a[data-view=people]').click(); }"


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Debian's Chromium; raise SystemExit where there is none."""
    from playwright.sync_api import sync_playwright

    if not (chromium := shutil.which("chromium")):
        raise SystemExit("expected a browser, found none: install Debian's package chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def signed_in(found: Browser, server: Server) -> Iterator[Page]:
    """Open a page in a new context that holds nothing but a session."""
    context = found.new_context(base_url=f"http://127.0.0.1:{server.port}")
    context.request.post("/v1/session", data={"key": server.key})
    context.add_init_script(WATCH)
    yield context.new_page()
    context.close()


def opened(found: Browser, server: Server) -> dict[str, float]:
    """Run one round."""
    with signed_in(found, server) as page:
        page.goto("/")
        page.get_by_role("heading", name="Who is it?").wait_for()
        page.evaluate(CLICK)
        told = {"names_after_click_ms": _names(page), "first_paint_ms": page.evaluate(PAINT)}
    with signed_in(found, server) as page:
        page.goto("/#/made/people/")
        return told | {"people_names_ms": _names(page), "people_first_paint_ms": page.evaluate(PAINT)}


def _names(page: Page) -> float:
    """Return when the names were drawn."""
    drawn: float = page.evaluate("window.drawn")
    if (count := page.locator(".people li").count()) != NAMES:
        raise SystemExit(f"expected {NAMES} names, the page shows {count}")
    return drawn


def listed(server: Server, people: int, repeats: int) -> dict[str, dict[str, float]]:
    """Time the list of people: median, slowest and number of people for each question."""
    last = f"{people - 1:07d}"
    questions: dict[str, dict[str, Any]] = {
        "first page": {},
        "first page of 1,000": {"limit": 1000},
        "page in the middle": {"cursor": base64.urlsafe_b64encode(f"person {people // 2:07d}".encode()).decode()},
        "containing what all have": {"containing": "person"},
        "containing what a tenth has": {"containing": last[-1]},
        "containing what one has": {"containing": last},
        "containing what nobody has": {"containing": "nobody"},
    }
    connection, told = server.connect(), {}
    for what, question in questions.items():
        times, path = [], f"/v1/indexes/made/people?{urlencode(question)}"
        for _ in range(repeats):
            began = time.perf_counter()
            answer = server.answer(connection, "GET", path)
            times.append(1000 * (time.perf_counter() - began))
        if answer.status != 200:
            raise SystemExit(f"expected {path} to be answered, received {answer.status}: {answer.body[:300]!r}")
        told[what] = {
            "ms": statistics.median(times),
            "slowest_ms": max(times),
            "people": len(json.loads(answer.body)["people"]),
        }
    return told


@click.command()
@click.option("--model", default="msceleb", show_default=True)
@click.option("--people", default=100_000, show_default=True, help="Enrolled.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--repeats", default=20, show_default=True, help="Of each question.")
@click.option("--port", default=8730, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all figures.")
def main(model: str, people: int, rounds: int, repeats: int, port: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        galleries.make(Path(folder) / "made", people, synthetic.profile(model).d, open_model(model).spec, per_person=1)
        with Server(Path(folder), "made", port) as server:
            lists = listed(server, people, repeats)
            with browser() as found:
                told = [opened(found, server) for _ in range(rounds + 1)][1:]
    medians = {key: statistics.median(one[key] for one in told) for key in told[0]}
    for what, one in lists.items():
        click.echo(
            f"GET people, {what}: {one['ms']:.1f} ms, slowest {one['slowest_ms']:.1f} ms, {one['people']} people"
        )
    paint, names = medians["first_paint_ms"], medians["names_after_click_ms"]
    click.echo(f"the page: first paint after {paint:.0f} ms; names {names:.0f} ms after a click")
    paint, names = medians["people_first_paint_ms"], medians["people_names_ms"]
    click.echo(f"the people view by its address: first paint after {paint:.0f} ms, names after {names:.0f} ms")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        figures = {
            "command": " ".join(sys.argv),
            "seed": 0,
            "people": people,
            "load": os.getloadavg(),
            "lists": lists,
            "page": medians,
        }
        out.write_text(json.dumps(figures | {"all": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
