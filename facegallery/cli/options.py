"""The options that commands share, and how a command prints: results, messages and progress."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from facegallery.embedder.compute import DEVICES, PRECISIONS, Compute
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces.names import DEFAULT_DETECTOR, DETECTORS, FOLDERS, NAMES_FROM
from facegallery.embedder.outcomes import LASTING
from facegallery.embedder.spec import VIEWS
from facegallery.embedder.text import printable, to_json

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Size(click.ParamType):
    """A number of bytes, such as 500M or 4G."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).upper().removesuffix("B")
        try:
            return int(float(text.rstrip("KMGT")) * UNITS.get(text[-1:], 1))
        except (ValueError, OverflowError):
            self.fail(f"expected a size such as 500M or 4G, received {value!r}", param, ctx)


class Numbers(click.ParamType):
    """Whole numbers, such as 2,1."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):  # the default
            return value
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() for part in parts):
            self.fail(f"expected numbers such as 2,1, received {value!r}", param, ctx)
        return tuple(int(part) for part in parts)


class Level(click.ParamType):
    """What names the person: a folder's number from the root; `parent`, which becomes None; `file`, which becomes 0."""

    name = "N|parent|file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        text = str(value).strip().lower()
        if text == "parent":
            return None
        if text == "file":
            return 0
        if not re.fullmatch(r"[1-9]\d?", text, re.ASCII):
            self.fail(f"expected a number from 1 to 99, `parent` or `file`, received {value!r}", param, ctx)
        return int(text)


class Score(click.types.FloatParamType):
    """A cosine; NaN is refused, since no score compares with it."""

    name = "score"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if (number := super().convert(value, param, ctx)) != number:
            self.fail(f"expected a number, received {value!r}", param, ctx)
        return number


PATH = click.Path(path_type=Path)
SIZE = Size()
SCORE = Score()
NUMBERS = Numbers()
PROBLEMS_SHOWN = 20
NAME = click.argument("name")


class LogLines(logging.Handler):
    """Show the user what the package logs: a line each, as `Output.say` prints it."""

    def __init__(self, out: Output):
        super().__init__(logging.INFO)
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        warning = "warning: " if record.levelno >= logging.WARNING else ""
        self._out.say(warning + record.getMessage())


class Output:
    """Results on stdout, everything else on stderr."""

    def __init__(self, *, as_json: bool, quiet: bool):
        self.as_json, self.quiet = as_json, quiet

    def say(self, line: str) -> None:
        """Print a message to stderr, unless --quiet is given."""
        if not self.quiet:
            click.echo(printable(line), err=True)

    @contextlib.contextmanager
    def showing_logs(self) -> Iterator[None]:
        """Print what the package logs while a command runs."""
        logger, handler = logging.getLogger("facegallery"), LogLines(self)
        before = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.setLevel(before)
            logger.removeHandler(handler)

    def result(self, data: Any, text: str | Iterable[str]) -> None:
        """Print the data as JSON, or the text: one line, or several.

        Control characters, which names and paths may hold, are escaped: each text stays one line.
        """
        lines = [text] if isinstance(text, str) else text
        click.echo(to_json(data, indent=1) if self.as_json else "\n".join(map(printable, lines)))

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Give a function (done, total) that draws a bar; without a terminal it draws nothing."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda done, total: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=None, rate="")

            def update(done: int, total: int) -> None:
                speed = bar.tasks[task].speed
                bar.update(task, completed=done, total=total or None, rate=f"{speed:.0f}/s" if speed else "")

            yield update

    def summary(self, summary: Any, *, strict: bool) -> None:
        """Print what a run over photos did; exit with 1 under --strict where some failed."""
        for line in summary.problems[:PROBLEMS_SHOWN]:
            self.say(line)
        if len(summary.problems) > PROBLEMS_SHOWN:
            self.say(f"and {len(summary.problems) - PROBLEMS_SHOWN} more: see the column `outcome`")
        for line in summary.notes:
            self.say(line)
        counts = ", ".join(f"{n} {outcome}" for outcome, n in summary.outcomes.items())
        rate = f", {summary.written / summary.seconds:.0f}/s" if summary.written and summary.seconds else ""
        self.result(
            asdict(summary),
            f"{summary.folder}: {summary.photos} inputs, {summary.written} of them new{rate}; rows: {counts}",
        )
        if strict and summary.failed:
            sys.exit(1)


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json, --quiet and --debug; the command receives an Output first."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
    @click.option("--quiet", is_flag=True, help="Print nothing but results and errors.")
    @click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error.")
    @functools.wraps(command)
    def wrapped(*, as_json: bool, quiet: bool, **options: Any) -> Any:
        out = Output(as_json=as_json, quiet=quiet)
        with out.showing_logs():
            return command(out, **options)

    return wrapped


def size_text(n: int) -> str:
    """Return a number of bytes as people read it: 999 B, 1.2 kB, 34 MB."""
    size, unit = float(n), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"


def at_least(least: int, value: int, option: str) -> int:
    """Return the value; raise InputError where it is smaller."""
    if value < least:
        raise InputError(f"expected {option} of at least {least}, received {value}: give a larger one")
    return value


def photo_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `align` and `embed` that choose photos, faces and rows."""
    for option in (
        level_option,
        names_option,
        click.option("--strict", is_flag=True, help="Exit with 1 where some photos failed."),
        retry_option,
        click.option("--prune", is_flag=True, help="Delete the rows of photos that no longer exist."),
        click.option("--metadata", type=PATH, help="CSV `image,...` whose columns go into the rows."),
        click.option(
            "--all-faces", is_flag=True, help="Write a row for every face; face 0 keeps the name of the folder."
        ),
    ):
        command = option(command)
    return command


def detector_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --detector: what finds the faces."""
    return click.option(
        "--detector",
        type=click.Choice(DETECTORS),
        help=f"What finds the faces; yunet and both need `weights fetch yunet`. [default: {DEFAULT_DETECTOR}]",
    )(command)


def asking_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --min-score, --where and --one-face: which faces are asked about, and which answers count."""
    where = (
        "Only enrolled faces such as year>=1999, taken<2024-05, tag=beach, tags:beach, number(age)>=30; may be "
        "repeated, and all must hold."
    )
    for option in (
        click.option("--one-face", is_flag=True, help="Ask only about the largest, most central face of each photo."),
        click.option("--where", multiple=True, metavar="CONDITION", help=where),
        click.option("--min-score", type=SCORE, help="Leave out answers below this score."),
    ):
        command = option(command)
    return command


def model_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --model: where a gallery's model lies, if it is not stored."""
    return click.option("--model", help="Folder of the gallery's model, where it is not stored.")(command)


def score_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --score: how the scores of a person's faces become one."""
    return click.option(
        "--score",
        type=click.Choice(["best", "mean", "template"]),
        default="best",
        show_default=True,
        help="A person's score: the best or the mean over their faces, or that of their mean vector.",
    )(command)


def retry_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --retry: lasting outcomes whose photos are processed again."""
    text = (
        "Process again the photos that had this outcome in an earlier run; may be repeated. Photos whose failure may "
        "be temporary (no permission, a missing plugin, a timeout, ...) are always tried again."
    )
    return click.option("--retry", type=click.Choice(LASTING), multiple=True, help=text)(command)


def views_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --views: how often each network sees a crop."""
    text = (
        "What each network sees of a crop; the vectors are averaged. mirror: its mirror image too; margins: a little "
        "more around the face too; each takes twice the time. all: both, four times."
    )
    return click.option("--views", type=click.Choice(VIEWS), default=VIEWS[0], show_default=True, help=text)(command)


def level_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --identity-level: which folder names the person; the command receives it as `level`."""
    text = (
        "What names the person: the folder `parent`, the nearest to the photo; a folder's number from the root, which "
        "is 1; or `file`, the photo's own name, such as Ann.jpg. A first folder called gallery, probe, train, val or "
        "test is the split and does not count. [default: parent]"
    )
    return click.option("--identity-level", "level", type=Level(), help=text)(command)


def names_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --names-from: what names the people in photos."""
    text = (
        "What names the people: `folders` (or the CSV); `regions`, the faces that somebody drew and named in a photo "
        "program (digiKam, Lightroom, Picasa, ...), in the photo, a sidecar .xmp or .picasa.ini; `both`: regions where "
        "a photo has them; or `nobody`."
    )
    return click.option("--names-from", type=click.Choice(NAMES_FROM), default=FOLDERS, show_default=True, help=text)(
        command
    )


def computing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --device and --precision; the command receives both as `compute`."""
    precision_help = (
        "Precision of the network's numbers; auto: int8 where `weights quantise` found it good, else bf16 where the "
        "CPU is faster in it."
    )

    @click.option(
        "--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="Where the network runs."
    )
    @click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True, help=precision_help)
    @functools.wraps(command)
    def with_compute(*args: Any, device: str, precision: str, **options: Any) -> Any:
        return command(*args, compute=Compute(device, precision), **options)

    return with_compute
