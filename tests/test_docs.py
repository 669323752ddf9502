"""The documentation says what the program does: its examples run, its names, options, routes and outcomes are real."""

import configparser
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from facegallery import __version__
from facegallery.cli.main import cli
from facegallery.embedder import outcomes
from facegallery.embedder.outcomes import ANSWERS, OF_BYTES, OK, OUTCOMES, REFUSED
from tests.conftest import ROOT
from tests.pages import PAGES, README, examples, make_folder
from tests.served import running
from tests.test_architecture import FILES

sys.path.insert(0, str(ROOT / "docs"))
import generate  # noqa: E402

DOCS = ROOT / "docs"
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [README, *PAGES]}
WRITTEN = {name: text for name, text in TEXTS.items() if name != "docs/reference/commands.md"}  # by hand
CONTEXT = click.Context(cli, info_name="facegallery")
COMMANDS = dict(generate.leaves(cli, CONTEXT))


@pytest.fixture
def folder(att, tmp_path):
    return make_folder(tmp_path, att)


# examples


def test_readme_runs_as_it_stands(folder):
    python, shell = examples(README, "run")
    assert (python.language, shell.language) == ("python", "bash")
    assert len(shell.text.splitlines()) <= 8 and len(python.text.splitlines()) <= 14
    printed = folder.run(python)
    assert re.search(r"\(?\[?\d+\.\d+.* s5 0\.\d+", printed), printed
    assert "s5" in folder.run(shell)


@pytest.mark.slow
def test_first_steps_run_as_they_stand(folder):
    printed = "".join(folder.run(example) for example in examples(DOCS / "first-steps.md", "run"))
    top1 = float(re.search(r"top-1 (\d\.\d+)", printed)[1])
    assert top1 >= 0.997
    assert "0 traces left" in printed and "known" in printed and printed.endswith("sound\n")
    for made in ("crops.png", "answers.png", "predictions.txt", "model/spec.json", "model/curves.png"):
        assert (folder.path / "data" / made).stat().st_size > 100
    assert not (folder.path / "data" / "model" / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["find-people", "name-people", "photos", "finetune", "measure", "duplicates"])
def test_how_to_pages_run_as_they_stand(name, folder):
    found = examples(DOCS / "howto" / f"{name}.md", "run")
    printed = [folder.run(example) for example in found]
    assert found and any(printed)


@pytest.mark.slow
def test_a_gallery_is_kept_as_the_page_says(att_gallery, folder, tmp_path_factory):
    made = att_gallery(tmp_path_factory.mktemp("made"), "people")
    for name in ("vectors", "indexes"):
        shutil.copytree(made / name, folder.path / name, symlinks=True)
    printed = "".join(folder.run(example) for example in examples(DOCS / "howto" / "keep.md", "run"))
    assert "0 traces left" in printed and "sound" in printed
    assert (folder.path / "people.backup").stat().st_size > 1000 and list((folder.path / "corrected").glob("*.parquet"))


@pytest.mark.parametrize("page, name", [(README, "friends"), (DOCS / "howto" / "serve.md", "people")])
def test_the_server_answers_the_examples_as_they_stand(page, name, att_gallery, folder, tmp_path_factory):
    (shell,), (python,) = examples(page, "server"), examples(page, "client")
    root = att_gallery(tmp_path_factory.mktemp("server"), name)
    with running(root, names=(name,)) as server:
        here = {one: server.environment[one] for one in ("FACEGALLERY_DATA", "FACEGALLERY_INDEXES")}

        def at_server(example, more=""):
            return replace(example, text=(example.text + more).replace("http://127.0.0.1:8000", server.url))

        printed = folder.run(at_server(shell, "\necho KEY $KEY"), **here)
        is_enrolled = "Ada" in shell.text
        assert printed.count('"identity":"s7"') == 1
        assert not is_enrolled or ('"added":1' in printed and "Ada Lovelace" in printed)
        answer = folder.run(at_server(python), KEY=printed.split()[-1], **here)
        assert answer == ("Ada Lovelace\n" if is_enrolled else "s7\n")


# commands, options, recipes


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name):
    done = CliRunner().invoke(cli, [*name.split(), "--help"])
    assert done.exit_code == 0 and "Usage" in done.output and COMMANDS[name].help


def code(text: str) -> list[str]:
    """Code spans, and the lines of blocks."""
    blocks = re.findall(r"^```(?:bash|text)?\n(.*?)^```", text, re.S | re.M)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    return [line for block in blocks for line in block.splitlines()] + spans


def options(command: click.Command) -> set[str]:
    return {name for one in command.params if isinstance(one, click.Option) for name in one.opts}


def uses():
    """(page, code, command or None, options) of what looks like a command line of ours, or like options alone."""
    names = sorted(COMMANDS, key=len, reverse=True)
    for page, text in WRITTEN.items():
        for line in code(text):
            after = re.search(r"\b(?:facegallery|python cli\.py) (.*)", line)
            words = (after[1] if after else line).replace("\\|", "|")
            command = next((name for name in names if re.match(rf"{name}(\s|$)", words)), None)
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", words))
            if command or line.startswith("--"):
                yield page, line, command, named


def test_options_in_the_docs_are_those_of_the_commands():
    every = set().union(*map(options, COMMANDS.values()), {"--version", "--help"})
    checked = 0
    for page, line, command, named in uses():
        known = options(COMMANDS[command]) | {"--help"} if command else every
        assert named <= known, f"{page}: {line}: {named - known}"
        checked += len(named)
    assert checked > 100


def test_commands_in_the_docs_exist():
    """After the program's name comes a command."""
    names = {name.split()[0] for name in COMMANDS}
    for page, text in WRITTEN.items():
        for line in code(text):
            if found := re.match(r"(?:facegallery|python cli\.py) ([a-z-]+)", line):
                assert found[1] in names, f"{page}: {line}"
    for name in COMMANDS:
        assert any(name in text for text in WRITTEN.values()), f"no page but the reference names `{name}`"


def test_recipes_are_those_that_are_shipped():
    shipped = {path.stem for path in (ROOT / "trainer" / "recipes").glob("*.toml")}
    rows = re.findall(r"^\| `(\w+)`", (DOCS / "howto" / "finetune.md").read_text().split("## Train")[0], re.M)
    assert set(rows) == shipped
    for text in TEXTS.values():
        assert set(re.findall(r"--recipe ([a-z]+)", text)) <= shipped
    said = CliRunner().invoke(cli, ["train", "--help"]).output
    assert all(recipe in said for recipe in shipped)


# what is read from the code


@pytest.mark.parametrize(("page", "part"), [(page, part) for page, parts in generate.PAGES.items() for part in parts])
def test_generated_parts_are_as_the_code_is(page, part):
    text = (DOCS / page).read_text()
    assert generate.replaced(text, part, generate.PARTS[part]()) == text, "run `make docs`"


def test_the_generated_parts_hold_every_command_option_route_and_outcome():
    commands, routes, photos = (DOCS / "reference" / f"{name}.md" for name in ("commands", "http", "photos"))
    for name, command in COMMANDS.items():
        part = commands.read_text().split(f"## {name} {{")[1].split("\n## ")[0]
        shown = {option for option in options(command) if option.startswith("--")} - generate.COMMON
        assert shown == set(re.findall(r"`(--[a-z0-9-]+)`", "\n".join(re.findall(r"^\| `-.*?\|", part, re.M))))
    listed = set(re.findall(r"^\| `([A-Z]+ /v1\S*)`", routes.read_text(), re.M))
    assert {"POST /v1/indexes/{index}/search", "POST /v1/indexes/{index}/people/forget"} < listed
    assert re.findall(r"^\| `(\w+)` \|", photos.read_text(), re.M) == [one.name for one in OUTCOMES]


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_the_outcomes_that_a_server_refuses_are_in_the_docs():
    (row,) = re.findall(r"^\| 422 \| (.*?) \|", TEXTS["docs/reference/http.md"], re.M)
    assert {one.name for one in OUTCOMES} & quoted(row) == set(OF_BYTES) - {OK}
    assert set(REFUSED.values()) == {422}


def test_the_problems_of_a_server_are_in_the_docs():
    """Each kind of problem stands in a row of its status."""
    source = "".join(path.read_text() for path in (ROOT / "facegallery" / "server").rglob("*.py"))
    made = set(re.findall(r'HttpProblem\(\s*(\d+),\s*"([\w-]+)"', source))
    rows = re.findall(r"^\| ([\d, ]+) \| (.*?) \|", TEXTS["docs/reference/http.md"], re.M)
    documented = {
        (status, kind) for statuses, kinds in rows for status in statuses.split(", ") for kind in quoted(kinds)
    }
    assert len(made) > 20 and made <= documented, made - documented


def test_what_looks_like_an_outcome_in_the_docs_is_one():
    """Words such as `no_face` beside the word outcome."""
    names = {one.name for one in OUTCOMES}
    for path, text in TEXTS.items():
        for said in re.findall(r"(?:outcome|gives a row|--retry) (?:is |of )?`?([a-z]+_?[a-z]+)`", text):
            assert said in names, f"{path}: {said}"


def test_every_refusal_of_a_photo_has_an_outcome():
    source = "".join(path.read_text() for path in (ROOT / "embedder").rglob("*.py"))
    named = {getattr(outcomes, name) for name in re.findall(r"PhotoRefused\(([A-Z_]+),", source)}
    assert named == ANSWERS - {OK} and not re.search(r"""PhotoRefused\(f?["']""", source)


def test_columns_of_files_are_in_the_docs():
    from facegallery.embedder.dataset.row import COLUMNS
    from facegallery.indexer.search.hit_writer import SCHEMA

    data_sets, hits = TEXTS["docs/reference/files.md"].split("## Data sets")[1].split("## Hit files")
    assert set(COLUMNS) <= quoted(data_sets) and set(SCHEMA.names) <= quoted(hits)


# links, files, words


def test_links_lead_somewhere():
    """Those of README, and those of all pages to files; MkDocs checks the rest in `make docs`."""
    for name, text in TEXTS.items():
        here = (ROOT / name).parent
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", re.sub(r"```.*?```", "", text, flags=re.S)):
            rendered = here / target
            made_from = rendered.with_suffix(".ipynb") if rendered.parent.name == "notebooks" else rendered
            assert rendered.exists() or made_from.exists(), f"{name}: {target}"


def test_programs_that_the_docs_name_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for name, text in TEXTS.items():
        for path in re.findall(r"\b(?:benchmarks|tests|deploy)/[\w/*.-]*\w\.\w+", text):
            assert [*ROOT.glob(path), *(ROOT / "tests").glob(path)], f"{name}: {path}"
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)) <= targets, name


def test_extras_that_the_docs_name_are_there():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for text in TEXTS.values():
        for named in re.findall(r"\.\[([a-z,]+)\]", text):
            assert set(named.split(",")) <= set(config["options.extras_require"])


STUMBLES = r"\bmend|\bis told|in the place of|gone on with|at work\b|passed over|spoilt"


def test_words_are_plain():
    code = [*FILES.values(), *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    others = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "CHANGELOG.md", *code]}
    assert len(others) > 200
    for name, text in (TEXTS | others).items():
        assert not (found := [line for line in text.splitlines() if re.search(STUMBLES, line, re.I)]), (
            f"{name}: {found}"
        )


def test_version_and_changelog_agree():
    first = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert first and first[1] == __version__


def test_every_page_is_in_the_navigation():
    """Of mkdocs.yml, but those that are for who works on the code."""
    nav = (ROOT / "mkdocs.yml").read_text()
    pages = {path.relative_to(DOCS).as_posix() for path in PAGES} | {
        path.relative_to(DOCS).with_suffix(".md").as_posix() for path in DOCS.rglob("*.ipynb")
    }
    assert all(f"{page}\n" in nav for page in pages)


def test_every_file_of_the_package_is_in_the_wheel():
    """Each folder is a package, and what is no Python file is named in setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    found = {
        Path(folder) / name
        for folder, _, names in os.walk(ROOT / "facegallery", followlinks=True)
        for name in names
        if not folder.endswith("__pycache__")
    }
    modules = {path for path in found if path.suffix == ".py"}
    assert all(path.with_name("__init__.py") in modules for path in modules)
    data = {
        path
        for package, patterns in config["options.package_data"].items()
        for pattern in patterns.split()
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    assert data == found - modules
