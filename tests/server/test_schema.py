"""Schemathesis on the server's OpenAPI document: thousands of cases, no faults, every response as documented."""

import os
import re
import subprocess
import sys

import httpx
import pytest

from tests.doses import doses

CASES = int(os.environ.get("FACEGALLERY_SCHEMA_CASES", "12"))  # of each operation and phase
HOOKS = """
import schemathesis

@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
"""
# a photo's bytes, and numbers that must have length 1, are more than a schema says
CONFIG = """
[parameters]
index = "att"
identity = "s1"

[checks]
positive_data_acceptance.enabled = false
"""


SMALL, FULL = ("examples,fuzzing", 1, 20), ("examples,coverage,fuzzing", CASES, 500)  # and the fewest cases in all


@pytest.mark.parametrize("dose", doses(SMALL, FULL))
def test_whatever_is_asked_the_answer_is_as_documented_and_never_a_fault(server, tmp_path, dose):
    phases, n, least = dose
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{server.url}/openapi.json",
        "-H",
        f"Authorization: Bearer {server.key}",
        "-n",
        str(n),
        "--seed",
        "1",
        "--phases",
        phases,
        "--no-color",
        "--generation-database",
        "none",
    ]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[done.stdout.find("= FAILURES") :][:6000]
    cases = re.search(r"(\d+) generated", done.stdout)
    assert cases and int(cases[1]) > least, done.stdout[-2000:]
    print(f"{cases[1]} cases")
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert "Traceback" not in (server.indexes.parent / "log").read_text()
