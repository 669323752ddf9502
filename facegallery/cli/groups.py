"""Groups of commands that import a command only when somebody runs it, and list commands by what one wants to do."""

from __future__ import annotations

import importlib
from collections import UserDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import click

GAP = 2  # columns between a name and its description


class Entry(NamedTuple):
    """A command that is not imported yet."""

    where: str  # module:attribute, the module in facegallery.cli
    short: str  # the first line of its docstring


class LazyCommands(UserDict[str, click.Command]):
    """Commands by name; each is imported when it is asked for."""

    def __init__(self, entries: Mapping[str, Entry]):
        super().__init__()
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> click.Command:
        if name not in self.data:
            module, _, attribute = self.entries[name].where.partition(":")
            self.data[name] = getattr(importlib.import_module(f"facegallery.cli.{module}"), attribute)
        return self.data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.entries, *self.data]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self.data

    def short(self, name: str) -> str:
        """Return one line about a command, without importing it."""
        return self.entries[name].short if name in self.entries else first_line(self.data[name])


def first_line(command: click.Command) -> str:
    """Return the first line of a command's help, whole."""
    return (command.help or "").strip().partition("\n")[0]


class SectionGroup(click.Group):
    """A group whose help lists its commands whole, in sections, in the order that they are given in."""

    def __init__(self, *args: Any, sections: Mapping[str, Mapping[str, Entry]] | None = None, **options: Any):
        super().__init__(*args, **options)
        self.sections = {title: tuple(entries) for title, entries in (sections or {}).items()}
        self.lazy = LazyCommands({name: entry for part in (sections or {}).values() for name, entry in part.items()})
        self.commands = self.lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section as a list of names and descriptions, aligned over all sections."""
        width = max(map(len, self.commands))
        for title, names in (self.sections or {"Commands": tuple(self.commands)}).items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), self.lazy.short(name)) for name in names], width, GAP)
