"""Write the parts of these pages that are read from the code: commands, routes, outcomes, results; notebooks as pages.

MkDocs runs it as a hook before it builds the site. The text between `<!-- generated: NAME -->` and `<!-- end -->` is
replaced; a test compares it with the code.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

DOCS = Path(__file__).resolve().parent
PROGRAM = "facegallery"
COMMON = {"--json", "--quiet", "--debug", "--help"}  # described once, for all commands


def on_pre_build(config: Any) -> None:
    """Write the pages when MkDocs begins a build."""
    main()


def main() -> None:
    """Write every generated part whose text has changed, and the notebooks as pages."""
    for page, parts in PAGES.items():
        path = DOCS / page
        text = path.read_text()
        for name in parts:
            text = replaced(text, name, PARTS[name]())
        _write(path, text)
    for notebook in sorted((DOCS / "notebooks").glob("*.ipynb")):
        _write(notebook.with_suffix(".md"), notebook_page(notebook))


def replaced(text: str, name: str, part: str) -> str:
    """Return the page's text with the generated part of this name replaced."""
    pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
    found, count = re.subn(pattern, lambda match: match[1] + part + match[2], text, flags=re.S)
    if count != 1:
        raise ValueError(f"expected one part {name!r} in the page, found {count}")
    return found


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


# commands


def commands() -> str:
    """Return the commands by group, then each with its usage, text and options."""
    from facegallery.cli.main import cli

    context = click.Context(cli, info_name=PROGRAM)
    found = dict(leaves(cli, context))
    lines = ["## Overview\n"]
    for title, names in groups(cli, context):
        lines += [f"**{title}**\n", "| command | does |", "|---|---|"]
        lines += [f"| [`{name}`](#{_anchor(name)}) | {_cell(found[name].get_short_help_str(500))} |" for name in names]
        lines.append("")
    for _, names in groups(cli, context):
        for name in names:
            lines += _command(name, found[name], context)
    return "\n".join(lines)


def leaves(group: click.Group, context: click.Context, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield (name, command) for each command, those of groups as `weights fetch`."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        if isinstance(command, click.Group):
            yield from leaves(command, click.Context(command, parent=context, info_name=name), f"{prefix}{name} ")
        elif not command.hidden:
            yield prefix + name, command


def groups(cli: click.Group, context: click.Context) -> list[tuple[str, list[str]]]:
    """Return (title, names of commands) as `--help` groups them."""
    names = [name for name, _ in leaves(cli, context)]
    sections = getattr(cli, "sections", None) or {"Commands": cli.list_commands(context)}
    return [(title, [n for n in names if n.split()[0] in first]) for title, first in sections.items()]


def _command(name: str, command: click.Command, parent: click.Context) -> list[str]:
    context = click.Context(command, info_name=f"{PROGRAM} {name}")
    arguments = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    lines = [f"## {name} {{ #{_anchor(name)} }}\n", f"```text\n{' '.join([PROGRAM, name, *arguments])}\n```\n"]
    lines += [_text(command.help or ""), ""]
    shown = [row for parameter in command.get_params(context) if (row := _option(parameter, context))]
    if shown:
        lines += ["| option | | default |", "|---|---|---|", *shown, ""]
    return lines


def _option(parameter: click.Parameter, context: click.Context) -> str | None:
    if not isinstance(parameter, click.Option) or parameter.hidden or COMMON & set(parameter.opts):
        return None
    names = ", ".join(f"`{name}`" for name in sorted(parameter.opts, key=len))
    if not parameter.is_flag:
        names += f" {_cell(parameter.make_metavar(context))}"
    text = " ".join((parameter.help or "").split())
    default = _default(parameter)
    if found := re.search(r" ?\[default: (.*?)\]", text):
        text, default = text.replace(found[0], ""), found[1]
    return f"| {names} | {_cell(text)} | {f'`{default}`' if default else 'required' if parameter.required else ''} |"


def _default(option: click.Option) -> str:
    """Return the default as `--help` shows it, or nothing."""
    is_shown = option.show_default and not option.is_flag
    value = option.default if is_shown else None
    return "" if value is None or value == () or "UNSET" in str(value) else str(value)


def _text(help: str) -> str:
    r"""Return a command's help as Markdown: paragraphs, and those after \b, which keep their lines, as code."""
    paragraphs = []
    for part in re.split(r"\n\s*\n", help.split("\f")[0].strip()):
        lines = [line.strip() if "\b" not in part else line for line in part.splitlines()]
        if "\b" in part:
            kept = "\n".join(line for line in lines if "\b" not in line)
            paragraphs.append(f"```text\n{kept}\n```")
        else:
            paragraphs.append(_escaped(" ".join(lines)))
    return "\n\n".join(paragraphs)


def _escaped(text: str) -> str:
    """Return text whose angle brackets and brackets Markdown shows as they are, but in code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([<>\[\]*_])", r"\\\1", p) for p in parts)


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", r"\|")


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


# routes


def routes() -> str:
    """Return a table of the API's routes, with the scope that a key needs and what each does."""
    rows = ["| route | scope | |", "|---|---|---|"]
    for method, path, scope, text in listed_routes():
        rows.append(f"| `{method} {path}` | {scope} | {_cell(text)} |")
    return "\n".join(rows) + "\n"


def listed_routes() -> Iterator[tuple[str, str, str, str]]:
    """Yield (method, path, scope, first paragraph of the docstring) of each route under /v1."""
    from facegallery.server.routes import changes, dependencies, groups, jobs, people, search, session, stream

    scopes = {
        annotated.__metadata__[0].dependency: scope
        for annotated, scope in (
            (dependencies.Reader, "read"),
            (dependencies.Writer, "write"),
            (dependencies.Admin, "admin"),
        )
    }
    for part in (search, stream, people, groups, changes, jobs, session):
        for route in part.router.routes:
            needed = [scopes[call] for call in _calls(route.dependant) if call in scopes]
            text = inspect.getdoc(route.endpoint) or ""
            for method in sorted(route.methods):
                yield method, route.path, " ".join(needed), text.split("\n\n")[0]


def _calls(dependant: Any) -> Iterator[Any]:
    """Yield the functions that a route depends on, and those that these depend on."""
    for one in dependant.dependencies:
        yield one.call
        yield from _calls(one)


# outcomes


AGAIN = {"good": "", "lasting": "only with `--retry` ", "passing": "tried again "}


def outcomes() -> str:
    """Return a table of what may happen to a photo."""
    from facegallery.embedder.outcomes import OUTCOMES

    rows = ["| outcome | | the same command again |", "|---|---|---|"]
    return "\n".join(rows + [f"| `{one.name}` | {one.means} | {AGAIN[one.kind]}|" for one in OUTCOMES]) + "\n"


# results


OF_LOCAL = (  # results that only a gallery in a folder, or a data set, gives
    ("embedder.pipeline", "Summary"),
    ("workflows.evaluate", "EvaluationResult"),
    ("indexer.evaluation.evaluate", "Evaluation"),
    ("indexer.evaluation.openset", "Rate"),
    ("workflows.reembed", "Reembedded"),
    ("indexer.upkeep.verify", "Verified"),
    ("indexer.upkeep.transfer", "TransferSummary"),
)


def results() -> str:
    """Return a table of fields for each result of the Python API."""
    from facegallery import results as module

    shared = [
        one
        for part in (module.faces, module.people, module.whole, module.duplicates)
        for one in vars(part).values()
        if dataclasses.is_dataclass(one) and one.__module__ == part.__name__
    ]
    local = [getattr(importlib.import_module(f"{PROGRAM}.{where}"), name) for where, name in OF_LOCAL]
    return "\n".join(line for one in shared + local for line in _result(one))


def _result(kind: type) -> Iterator[str]:
    said = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    sequence = " A sequence." if hasattr(kind, "to_arrow") else ""
    yield f"## {kind.__name__}\n"
    yield f"{_escaped(' '.join(said[0].split()))}{sequence}\n"
    yield from (_escaped(" ".join(paragraph.split())) + "\n" for paragraph in said[1:])
    yield from ("| field | type | |", "|---|---|---|")
    comments = _comments(kind)
    for one in dataclasses.fields(kind):
        text = one.metadata.get("description") or comments.get(one.name, "")
        yield f"| `{one.name}` | {_cell(str(one.type))} | {_cell(text)} |"
    for name, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else getattr(value, "func", None)
        if function and not name.startswith("_"):
            said = " ".join((inspect.getdoc(value) or "").split())
            yield f"| `{name}` | {_cell(str(function.__annotations__['return']))} | {_cell(said)} |"
    yield ""


def _comments(kind: type) -> dict[str, str]:
    """The comments that stand behind the fields of a dataclass and of those it extends."""
    lines = [
        line
        for one in reversed(kind.__mro__[:-1])
        if dataclasses.is_dataclass(one)
        for line in inspect.getsource(one).splitlines()
    ]
    found = [re.match(r"    (\w+): .*?  # (.*)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


# notebooks


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: its text, its code, and what the code printed."""
    cells = json.loads(path.read_text())["cells"]
    parts = [part for cell in cells for part in _cell_parts(cell)]
    link = f"[Download this notebook]({path.name})"
    return "\n\n".join([parts[0], link, *parts[1:]]) + "\n"


def _cell_parts(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    printed = "".join(
        "".join(output.get("text") or output.get("data", {}).get("text/plain", "")) for output in cell["outputs"]
    )
    if printed:
        yield f"```text\n{printed.rstrip()}\n```"


PARTS: dict[str, Callable[[], str]] = {"commands": commands, "routes": routes, "outcomes": outcomes, "results": results}
PAGES = {
    "reference/commands.md": ["commands"],
    "reference/http.md": ["routes"],
    "reference/photos.md": ["outcomes"],
    "reference/results.md": ["results"],
}

if __name__ == "__main__":
    main()
