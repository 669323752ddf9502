"""Run the code cells of a notebook in order, and compare or store what they print.

python -m tests.notebooks FOLDER    run each notebook in FOLDER/<its name> and store its outputs
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SECONDS = 1800
RUN = """
import ast, contextlib, io, json, sys
names, printed = {"__name__": "__main__"}, []
for source in json.load(sys.stdin):
    tree, text = ast.parse(source), io.StringIO()
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(text):
        exec(compile(tree, "<cell>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None
    printed.append([text.getvalue(), None if value is None else repr(value), hasattr(value, "_repr_png_")])
json.dump(printed, sys.__stdout__)
"""


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(path: Path, folder: Path, **environment: str) -> list[str]:
    """Run the code cells in a process in the folder; return what each printed and, but for pictures, its value."""
    sources = ["".join(cell["source"]) for cell in code_cells(json.loads(path.read_text()))]
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(sources),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [
        text + ("" if value is None or is_picture else value) for text, value, is_picture in json.loads(done.stdout)
    ]


def stored(path: Path) -> list[str]:
    """Return the text that is stored for each code cell."""
    return [
        "".join("".join(one["text"]) for one in cell["outputs"]) for cell in code_cells(json.loads(path.read_text()))
    ]


NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def differ(first: str, second: str, tolerance: float) -> bool:
    """Whether texts differ in words, in a whole number by more than 1, or in another by more than the tolerance."""
    if NUMBER.sub("#", first) != NUMBER.sub("#", second):
        return True
    pairs = zip(NUMBER.findall(first), NUMBER.findall(second), strict=True)
    return any(abs(float(a) - float(b)) > (tolerance if "." in a + b else 1) for a, b in pairs)


def store(path: Path, texts: list[str]) -> None:
    """Write what the code cells printed into the notebook."""
    notebook = json.loads(path.read_text())
    for number, (cell, text) in enumerate(zip(code_cells(notebook), texts, strict=True), 1):
        cell["execution_count"] = number
        lines = text.splitlines(keepends=True)
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    for notebook in NOTEBOOKS:
        folder = Path(sys.argv[1]) / notebook.stem
        folder.mkdir(parents=True, exist_ok=True)
        store(notebook, run(notebook, folder))
