"""What `--help` says: fast, whole, and the same as the commands and the docs."""

import re
import resource
import shlex
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


# README and docs ----------------------------------------------------------------


def command_lines(text: str) -> list[str]:
    """What stands in backticks, and in each block of code what follows the program's name."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    called = [line for all in lines for line in re.findall(r"(?:python cli\.py|facegallery) ([^|;&)]*)", all)]
    rest = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    return [*called, *(span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", rest))]


def words_of(line: str) -> list[str]:
    """The words of a command line, without the program's name and a comment; none where it is no command of ours."""
    line = re.sub(r"^(python cli\.py|facegallery) ", "", line.strip())
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return []
    return words if words and words[0] in cli.commands else []


def commands_of(words: list[str]) -> list[click.Command]:
    """The commands that a line means: several where it names some of a group's, such as `weights list|fetch`."""
    first = cli.commands[words[0]]
    if not isinstance(first, click.Group):
        return [first]
    names = words[1].split("|") if len(words) > 1 else []
    return [first.commands[name] for name in names if name in first.commands]


def wrong_flags(text: str) -> list[str]:
    """Lines and words of a page that name a command with an option that it lacks."""
    wrong = []
    for line in command_lines(text):
        words = words_of(line)
        given = {word.partition("=")[0] for word in words if re.fullmatch(r"--[a-z][a-z-]*(=.*)?", word)}
        if given and (commands := commands_of(words)):
            known = set().union(*map(flags, commands))
            wrong += [f"{line}: {flag}" for flag in given - known]
    return wrong


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))])
def test_the_options_of_commands_in_the_docs_are_theirs(page):
    assert wrong_flags((ROOT / page).read_text()) == []


def test_the_options_that_the_readme_names_are_somebodys():
    known = set().union(*map(flags, COMMANDS.values()))
    lines = command_lines((ROOT / "README.md").read_text())
    named = {found[0] for line in lines if (found := re.match(r"--[a-z][a-z-]*", line))}
    assert named and named <= known | {"--help", "--version"}


def test_the_rule_would_catch_an_option_that_is_not_there():
    page = (
        "`search --k 5` and `embed --nothing`\n```bash\n"
        "KEY=$(python cli.py add people P --identity x \\\n  --never)\nexport --this\n```\n"
    )
    assert [line.split()[-1] for line in wrong_flags(page)] == ["--never", "--nothing"]
    assert wrong_flags("`weights list\\|export --out x` `pip install --never`") == []
