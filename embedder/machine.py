"""Tell what the process may use of this machine: cores and memory within its container's limits, and packages."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of these packages that are installed."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def usable() -> list[int]:
    """Return the numbers of the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cores() -> int:
    """Return how many cores this process may keep busy, within the container's limit; at least 1."""
    n = len(usable())
    return max(1, min(n, _limit("cpu.max", n)))


def memory_gb() -> int:
    """Return the memory that this process may fill, in whole GiB, within the container's limit."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(physical, _limit("memory.max", physical)) >> 30


@lru_cache
def _limit(name: str, otherwise: int) -> int:
    """Read a limit of this control group (cgroup v2) in whole units; return `otherwise` where there is none.

    The file holds 'max', a number such as '8589934592', or a share such as '150000 100000'.
    """
    try:
        number, *period = (CGROUP / name).read_text().split()
        return int(number) // int(period[0] if period else 1)
    except (OSError, ValueError):
        return otherwise
