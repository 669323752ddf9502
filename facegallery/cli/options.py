"""What every command shares: where it prints, its progress, --json, --quiet and --debug."""

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
from facegallery.embedder.outcomes import LASTING
from facegallery.embedder.spec import VIEWS
from facegallery.embedder.text import printable, to_json

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Size(click.ParamType):
    """A number of bytes: 500M, 4G."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).upper().removesuffix("B")
        try:
            return int(float(text.rstrip("KMGT")) * UNITS.get(text[-1:], 1))
        except (ValueError, OverflowError):
            self.fail(f"expected a size such as 500M or 4G, received {value!r}", param, ctx)


class Numbers(click.ParamType):
    """Whole numbers: 2,1."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):  # the default
            return value
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() for part in parts):
            self.fail(f"expected numbers such as 2,1, received {value!r}", param, ctx)
        return tuple(int(part) for part in parts)


class Level(click.ParamType):
    """Which folder names the person: a number, counted from the root, or `parent`, which is None."""

    name = "N|parent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        text = str(value).strip().lower()
        if text == "parent":
            return None
        if not re.fullmatch(r"[1-9]\d?", text, re.ASCII):
            self.fail(f"expected a number from 1 to 99 or `parent`, received {value!r}", param, ctx)
        return int(text)


class Score(click.types.FloatParamType):
    """A cosine; no NaN, below which every score and none would be."""

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


class LogLines(logging.Handler):
    """Show the user what the package logs: a line each, as `Output.say` prints it."""

    def __init__(self, out: Output):
        super().__init__(logging.INFO)
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        self._out.say(record.getMessage())


class Output:
    """Results on stdout, everything else on stderr."""

    def __init__(self, as_json: bool, quiet: bool):
        self.as_json, self.quiet = as_json, quiet

    def say(self, line: str) -> None:
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
        """Print the data as JSON, or the text: one line, or several. What names and paths hold never makes a line of its own."""
        lines = [text] if isinstance(text, str) else text
        click.echo(to_json(data, indent=1) if self.as_json else "\n".join(map(printable, lines)))

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """done, total -> a bar with rate and time left; nothing without a terminal."""
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

    def summary(self, summary: Any, strict: bool) -> None:
        """What a run over photos did; exits with 1 under --strict where some failed."""
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


def common(command: Callable) -> Callable:
    """--json, --quiet and --debug on every command; passes an Output first."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
    @click.option("--quiet", is_flag=True, help="Nothing but results and errors.")
    @click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, **kwargs: Any) -> Any:
        out = Output(as_json, quiet)
        with out.showing_logs():
            return command(out, *args, **kwargs)

    return wrapped


def at_least(least: int, value: int, option: str) -> int:
    """The value; raises InputError where it is smaller."""
    if value < least:
        raise InputError(f"expected {option} of at least {least}, received {value}: give a larger one")
    return value


def retry_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--retry: lasting outcomes that are not final."""
    text = (
        "Process again the photos that had this outcome in an earlier run; may be repeated. Outcomes that may pass by themselves "
        "(no permission, a missing plugin, too slow, ...) are tried again in any case."
    )
    return click.option("--retry", type=click.Choice(LASTING), multiple=True, help=text)(command)


def views_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--views: how often each network sees a crop."""
    text = (
        "What each network sees of a crop; vectors are averaged. mirror: its mirror image too, margins: a little more around the face too, "
        "each twice the time; all: four times."
    )
    return click.option("--views", type=click.Choice(VIEWS), default=VIEWS[0], show_default=True, help=text)(command)


def level_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--identity-level: which folder names the person, given to the command as `level`."""
    text = (
        "Which folder names the person: `parent`, the nearest to the photo, or a number counted from the root, 1 being the first. A first "
        "folder called gallery, probe, train, val or test is the split and does not count. [default: parent]"
    )
    return click.option("--identity-level", "level", type=Level(), help=text)(command)


def computing(command: Callable[..., Any]) -> Callable[..., Any]:
    """--device and --precision, given to the command together as `compute`."""

    @click.option(
        "--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="Where the network runs."
    )
    @click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="auto",
        show_default=True,
        help="Of the network's numbers; auto: int8 where `weights quantise` found it good, else bf16 where the CPU has it.",
    )
    @functools.wraps(command)
    def with_compute(*args: Any, device: str, precision: str, **options: Any) -> Any:
        return command(*args, compute=Compute(device, precision), **options)

    return with_compute
