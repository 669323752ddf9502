"""What `--help` says: fast, whole, and the same as the commands. `tests/test_docs.py` compares the docs with them."""

import re
import resource
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from facegallery.cli.groups import first_line
from facegallery.cli.main import SECTIONS, cli
from tests.conftest import ROOT

HEAVY = ("numpy", "pyarrow", "tensorflow", "openvino", "faiss", "apsw", "fastapi", "PIL", "rich")


def walk(group: click.Group, path: tuple[str, ...] = ()):
    """Every command with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(walk(cli))
GROUPS = {(): cli, **{(name,): c for name, c in cli.commands.items() if isinstance(c, click.Group)}}


def flags(command: click.Command) -> set[str]:
    return {flag for option in command.params for flag in option.opts if flag.startswith("-")}


def help_of(path: tuple[str, ...], columns: int = 80) -> str:
    done = CliRunner(env={"COLUMNS": str(columns)}).invoke(cli, [*path, "--help"], prog_name="facegallery")
    assert done.exit_code == 0, done.output
    return done.output


# speed ----------------------------------------------------------------------


def test_help_is_fast():
    """By the seconds that the processor works: those on the clock are the same where nothing else runs."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, str(ROOT / "cli.py"), "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.3


def test_help_imports_no_command_and_nothing_heavy():
    code = (
        "import sys; sys.argv = ['facegallery', '--help']; from facegallery.cli.main import main; main();"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = set(done.stderr.split())
    assert "click" in loaded and "facegallery.cli.groups" in loaded
    assert not loaded & {*HEAVY, *(f"facegallery.cli.{file}" for file in ("search", "people", "photos", "serve"))}


# what it lists ----------------------------------------------------------------


def test_every_command_is_in_one_section_and_first_steps_come_first():
    names = [name for entries in SECTIONS.values() for name in entries]
    assert sorted(names) == sorted(set(names)) == sorted(cli.commands) and len(names) > 30
    lines = help_of(()).splitlines()
    headings = [line.rstrip(":") for line in lines if line.rstrip(":") in SECTIONS]
    assert headings == list(SECTIONS) and headings[0] == "First steps"
    listed = [line.split()[0] for line in lines[lines.index("First steps:") :] if line.startswith("  ")]
    assert listed == names


@pytest.mark.parametrize("name", [name for entries in SECTIONS.values() for name in entries])
def test_the_line_about_a_command_is_the_first_of_its_help(name):
    assert cli.lazy.entries[name].short == first_line(cli.commands[name])


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("path", GROUPS)
def test_no_description_is_cut_off(path, columns):
    text = help_of(path, columns)
    for name, command in GROUPS[path].commands.items():
        assert re.search(rf"^  {name} +{re.escape(first_line(command))}$", text, re.M), name
    assert "..." not in re.sub(r"\[ARGS\]\.\.\.", "", text)
    assert max(map(len, text.splitlines())) <= columns


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_is_in_the_help_of_its_command(path):
    command, text = COMMANDS[path], help_of(path)
    assert {"--json", "--quiet", "--debug"} <= flags(command)
    assert first_line(command).endswith(".") and "\n" not in first_line(command)
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help and all(re.search(rf"(^|[ ,]){re.escape(flag)}\b", text, re.M) for flag in option.opts)
        else:
            assert option.make_metavar(click.Context(command)) in text
    assert "None" not in text


def test_a_command_that_is_not_there_is_a_line_and_2(run):
    done = run("serach")
    assert done.code == 2 and "serach" in done.error
    nothing = run()
    assert nothing.code == 2 and "First steps" in nothing.err
    version = run("--version")
    assert version.code == 0 and re.fullmatch(r"facegallery \d+\.\d+\.\d+\n", version.out)
