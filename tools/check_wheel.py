"""Check the wheel and the sdist in a folder: their files, and the wheel in an environment that holds nothing else.

    python tools/check_wheel.py dist [--extra cpu]

`make release` builds both and runs this program. It needs the standard library, pip and network access.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "facegallery"
TOP_LEVELS = """
import importlib.metadata as metadata
print(*sorted({file.parts[0] for file in metadata.files("facegallery") if file.parts[0] != ".."}), sep="\\n")
"""


def package_files(root: Path) -> dict[str, bytes]:
    """Return every file of the package in a checkout, links followed: path in the wheel -> bytes."""
    return {
        Path(folder, name).relative_to(root).as_posix(): Path(folder, name).read_bytes()
        for folder, _, names in os.walk(root / PACKAGE, followlinks=True)
        for name in names
        if "__pycache__" not in folder and not name.startswith(".")
    }


def foreign_names(paths: Iterable[str], version: str) -> list[str]:
    """Return the top-level names that are neither the package nor its dist-info."""
    own = {PACKAGE, f"{PACKAGE}-{version}.dist-info"}
    return sorted({PurePosixPath(path).parts[0] for path in paths} - own)


def differences(files: Mapping[str, bytes], tree: Mapping[str, bytes]) -> list[str]:
    """Compare the package's files in a wheel with those in the checkout; return one line for each that differs."""
    packaged = {path: data for path, data in files.items() if path.startswith(f"{PACKAGE}/")}
    return (
        [f"missing: {path}" for path in sorted(tree.keys() - packaged.keys())]
        + [f"not in the checkout: {path}" for path in sorted(packaged.keys() - tree.keys())]
        + [f"other content: {path}" for path in sorted(tree) if path in packaged and packaged[path] != tree[path]]
    )


def read_record(files: Mapping[str, bytes]) -> dict[str, str]:
    """Read the RECORD of a wheel: path -> hash, '' for RECORD itself."""
    (path,) = [path for path in files if path.endswith(".dist-info/RECORD")]
    return {row[0]: row[1] for row in csv.reader(io.StringIO(files[path].decode()))}


def record_problems(files: Mapping[str, bytes]) -> list[str]:
    """Compare the RECORD of a wheel with its files."""
    record = read_record(files)
    problems = [f"not in RECORD: {path}" for path in sorted(files.keys() - record.keys())]
    problems += [f"only in RECORD: {path}" for path in sorted(record.keys() - files.keys())]
    for path in sorted(files.keys() & record.keys()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).rstrip(b"=").decode()
        if record[path] and record[path] != f"sha256={digest}":
            problems.append(f"RECORD has another hash: {path}")
    return problems


def read_wheel(wheel: Path) -> dict[str, bytes]:
    """Read a wheel: path -> bytes. Raise SystemExit where an entry is a link."""
    with zipfile.ZipFile(wheel) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        links = [entry.filename for entry in entries if stat.S_ISLNK(entry.external_attr >> 16)]
        if links:
            raise SystemExit(f"expected files in {wheel.name}, received links: {', '.join(links)}")
        return {entry.filename: archive.read(entry) for entry in entries}


def wheel_problems(wheel: Path, tree: Mapping[str, bytes]) -> list[str]:
    """Compare a wheel with the package's files in the checkout; return one line for each problem."""
    files = read_wheel(wheel)
    version = wheel.name.split("-")[1]
    problems = [f"foreign top-level name: {name}" for name in foreign_names(files, version)]
    if f"{PACKAGE}-{version}.dist-info/licenses/LICENSE" not in files:
        problems.append("missing: LICENSE")
    return problems + differences(files, tree) + record_problems(files)


def sdist_problems(sdist: Path, tree: Mapping[str, bytes]) -> list[str]:
    """Compare an sdist with the package's files in the checkout; return one line for each problem."""
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
        links = [f"not a plain file: {member.name}" for member in members if not member.isreg()]
        files = {
            str(PurePosixPath(*PurePosixPath(member.name).parts[1:])): archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in members
            if member.isreg()
        }
    missing = [f"missing: {path}" for path in ("LICENSE", "README.md", "setup.cfg") if path not in files]
    return links + missing + differences(files, tree)


def build_from(sdist: Path, folder: Path) -> Path:
    """Build a wheel from an sdist in `folder` and return its path."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(sdist)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_installed(wheel: Path, extra: str, folder: Path) -> list[str]:
    """Install a wheel in a new virtual environment in `folder`, run it there and return one line for each problem."""
    version = wheel.name.split("-")[1]
    venv.create(folder / "venv", with_pip=True)
    python, command = folder / "venv/bin/python", folder / "venv/bin" / PACKAGE

    def output(*arguments: str | Path) -> str:
        done = subprocess.run([str(a) for a in arguments], cwd=folder, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr.strip()}"

    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel.resolve()}[{extra}]"], check=True, cwd=folder)
    expected = {
        "the version that Python sees": (
            version,
            output(python, "-I", "-c", f"import {PACKAGE}; print({PACKAGE}.__version__)"),
        ),
        f"{PACKAGE} --version": (f"{PACKAGE} {version}", output(command, "--version")),
        "top-level names in site-packages": (
            f"{PACKAGE}\n{PACKAGE}-{version}.dist-info",
            output(python, "-I", "-c", TOP_LEVELS),
        ),
        "pip check": ("No broken requirements found.", output(python, "-m", "pip", "check")),
    }
    problems = [f"{what}: expected {want!r}, received {got!r}" for what, (want, got) in expected.items() if want != got]
    told = output(command, "--help")
    if not told.startswith("Usage: "):
        problems.append(f"{PACKAGE} --help: expected its usage, received {told[-500:]!r}")
    return problems


def only(folder: Path, pattern: str) -> Path:
    """Return the one file that fits a pattern; raise SystemExit where there are none or several."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"expected one {pattern} in {folder}, received {len(found)}: run `make release`")
    return found[0]


def problems_of(dist: Path, extra: str) -> list[str]:
    """Run every check of the wheel and the sdist in a folder; return one line for each problem."""
    wheel, sdist, tree = only(dist, "*.whl"), only(dist, "*.tar.gz"), package_files(ROOT)
    problems = [f"{wheel.name}: {line}" for line in wheel_problems(wheel, tree)]
    problems += [f"{sdist.name}: {line}" for line in sdist_problems(sdist, tree)]
    with tempfile.TemporaryDirectory() as temporary:
        again = read_record(read_wheel(build_from(sdist, Path(temporary))))
        if again != read_record(read_wheel(wheel)):
            problems.append(f"{sdist.name}: builds another wheel than {wheel.name}")
        problems += [f"{wheel.name}, installed: {line}" for line in check_installed(wheel, extra, Path(temporary))]
    return problems


def main() -> int:
    """Check the files that `make release` has built; return 1 where a check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dist", type=Path, help="folder that holds one wheel and one sdist")
    parser.add_argument("--extra", default="cpu", help="extras to install with the wheel (default: cpu)")
    arguments = parser.parse_args()
    problems = problems_of(arguments.dist, arguments.extra)
    print("\n".join(problems) or f"{arguments.dist}: the wheel and the sdist pass all checks")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
