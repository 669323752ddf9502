"""The README says what the program does: its commands run as they stand, and every command is in it."""

import configparser
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

import facegallery.embedder.outcomes
from facegallery.cli.main import cli
from facegallery.embedder.outcomes import ANSWERS, LASTING, OF_BYTES, OK, OUTCOMES, PASSING, REFUSED
from tests.conftest import DATA, ROOT
from tests.served import build, running

README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"<!-- commands: .*?-->\n```bash\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    return "".join(blocks).splitlines()


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
    assert re.findall(r"^\| `.*$", table, re.M) == [f"| `{one.name}` | {one.means} | {AGAIN[one.kind]}|" for one in OUTCOMES]
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
    source = "".join(path.read_text() for path in (ROOT / "embedder").glob("*.py"))
    outcomes = {getattr(embedder.outcomes, name) for name in re.findall(r"Refused\(([A-Z_]+),", source)}
    assert outcomes == ANSWERS - {OK} and not re.search(r"""Refused\(f?["']""", source)


def test_version_and_changelog_agree():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    first = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert first and first[1] == config["metadata"]["version"]


def test_every_package_is_named_in_setup_cfg():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = set(config["options"]["packages"].split())
    modules = set(config["options"]["py_modules"].split())
    ours = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for part in ("embedder", "indexer", "server", "trainer")
        for p in (ROOT / part).rglob("__init__.py")
    }
    assert {"embedder", "indexer", "server", "trainer"} <= ours <= packages
    assert modules == {p.stem for p in ROOT.glob("*.py")}
    data = {p for package, patterns in config["options.package_data"].items() for q in patterns.split()
            for p in ROOT.joinpath(*package.split(".")).glob(q)}  # fmt: skip
    folders = [ROOT.joinpath(*package.split(".")) for package in packages]
    files = {p for folder in folders for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert data == files


def test_the_server_section_runs_as_it_stands(att, tmp_path):
    (script,) = re.findall(r"<!-- server: .*?-->\n```bash\n(.*?)```", README, re.S)
    (program,) = re.findall(r"<!-- client: .*?-->\n```python\n(.*?)```", README, re.S)
    (tmp_path / "cli.py").symlink_to(ROOT / "cli.py")
    for number, name in ((2, "photo.jpg"), (3, "other.jpg")):
        Image.open(att / "s7" / f"{number}.pgm").save(tmp_path / name, quality=95)
    with running(build(att, tmp_path, "people"), names=("people",)) as server:
        environment = server.environment | {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        script = script.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(["bash", "-euc", script + "\necho KEY $KEY"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('"identity":"s7"') == 1 and '"added":1' in done.stdout and "Ada Lovelace" in done.stdout
        key = done.stdout.split()[-1]
        program = program.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment | {"KEY": key}, capture_output=True, text=True)
        assert done.stdout == "Ada Lovelace\n", done.stderr
