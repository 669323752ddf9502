"""Doses of one test: a small one for `make test`, and a full one under the mark `slow`."""

from __future__ import annotations

from typing import Any

import pytest


def doses(small: Any, full: Any) -> list[Any]:
    """Return the parameters of a test in two doses, of which the full one is marked slow."""
    return [pytest.param(small, id="small"), pytest.param(full, id="full", marks=pytest.mark.slow)]
