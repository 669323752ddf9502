"""The README says what the program does: its commands run as they stand, and every command is in it."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from facegallery import __version__
from facegallery.cli.main import cli
from facegallery.embedder import outcomes
from facegallery.embedder.outcomes import ANSWERS, LASTING, OF_BYTES, OK, OUTCOMES, PASSING, REFUSED
from tests.conftest import DATA, ROOT
from tests.served import running

README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"<!-- commands: .*?-->\n```bash\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    return "".join(blocks).splitlines()


@pytest.mark.slow
def test_readme_commands_run_as_they_stand(att, tmp_path):
    (tmp_path / "data").mkdir()
    os.symlink(ROOT / "cli.py", tmp_path / "cli.py")
    os.symlink(DATA / "models", tmp_path / "data" / "models")  # not to be fetched again
    os.symlink(att, tmp_path / "data" / "att")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FACEGALLERY_")}
    environment["PATH"] = f"{os.path.dirname(sys.executable)}:{environment['PATH']}"
    lines = commands()
    assert len(lines) == 16
    said = ""
    for line in lines:
        done = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        said += done.stdout
    top1 = float(re.search(r"top-1 (\d\.\d+)", said)[1])
    assert "0 traces left" in said and "known" in said and said.endswith("sound\n")
    assert top1 >= 0.997
    for made in ("crops.png", "answers.png", "predictions.txt", "model/spec.json", "model/curves.png"):
        assert (tmp_path / "data" / made).stat().st_size > 100
    assert not (tmp_path / "data" / "model" / "run").exists()


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_is_in_the_readme_and_explains_itself(name):
    assert f"`{name}" in README
    done = CliRunner().invoke(cli, [name, "--help"])
    assert done.exit_code == 0 and "Usage" in done.output


AGAIN = {"good": "", "lasting": "only with `--retry` ", "passing": "tried again "}


def test_the_outcomes_of_photos_are_in_the_docs_as_they_are():
    photos, server = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("photos", "server"))
    table = photos[photos.index("## Outcomes") :]
    assert re.findall(r"^\| `.*$", table, re.M) == [
        f"| `{one.name}` | {one.means} | {AGAIN[one.kind]}|" for one in OUTCOMES
    ]
    (tried, final) = re.findall(r"The same command tries (.*?) again; (.*?) are final unless", README, re.S)[0]
    assert quoted(tried) == PASSING and quoted(final) == set(LASTING)
    (row,) = re.findall(r"^\| 422 \| (.*?) \|", server, re.M)
    assert {one.name for one in OUTCOMES} & quoted(row) == set(OF_BYTES) - {OK}
    assert set(REFUSED.values()) == {422}


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_what_looks_like_an_outcome_in_the_docs_is_one():
    """Words such as `no_face` beside the word outcome."""
    names = {one.name for one in OUTCOMES}
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for said in re.findall(r"(?:outcome|gives a row|--retry) (?:is |of )?`?([a-z]+_?[a-z]+)`", path.read_text()):
            assert said in names, f"{path.name}: {said}"


def test_every_refusal_of_a_photo_has_an_outcome():
    source = "".join(path.read_text() for path in (ROOT / "embedder").rglob("*.py"))
    named = {getattr(outcomes, name) for name in re.findall(r"PhotoRefused\(([A-Z_]+),", source)}
    assert named == ANSWERS - {OK} and not re.search(r"""PhotoRefused\(f?["']""", source)


def test_version_and_changelog_agree():
    first = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert first and first[1] == __version__


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


def test_the_server_section_runs_as_it_stands(att, att_gallery, tmp_path):
    (script,) = re.findall(r"<!-- server: .*?-->\n```bash\n(.*?)```", README, re.S)
    (program,) = re.findall(r"<!-- client: .*?-->\n```python\n(.*?)```", README, re.S)
    (tmp_path / "cli.py").symlink_to(ROOT / "cli.py")
    for number, name in ((2, "photo.jpg"), (3, "other.jpg")):
        Image.open(att / "s7" / f"{number}.pgm").save(tmp_path / name, quality=95)
    with running(att_gallery(tmp_path, "people"), names=("people",)) as server:
        environment = server.environment | {
            "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        script = script.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(
            ["bash", "-euc", script + "\necho KEY $KEY"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert (
            done.stdout.count('"identity":"s7"') == 1 and '"added":1' in done.stdout and "Ada Lovelace" in done.stdout
        )
        key = done.stdout.split()[-1]
        program = program.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment | {"KEY": key},
            capture_output=True,
            text=True,
        )
        assert done.stdout == "Ada Lovelace\n", done.stderr
