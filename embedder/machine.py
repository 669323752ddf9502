"""What this machine lets the process use: cores and memory, a container's limits considered."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable() -> list[int]:
    """The cores that this process may run on, by number."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cores() -> int:
    """How many cores this process may keep busy, a container's limit considered."""
    n = len(usable())
    return max(1, min(n, _limit("cpu.max", n)))


def memory_gb() -> int:
    """What this process may fill, in whole GiB."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(physical, _limit("memory.max", physical)) >> 30


@lru_cache
def _limit(name: str, otherwise: int) -> int:
    """A limit of this control group (cgroup v2), in whole units: 'max', '8589934592', or a share such as '150000 100000'."""
    try:
        number, *period = (CGROUP / name).read_text().split()
        return int(number) // int(period[0] if period else 1)
    except (OSError, ValueError):
        return otherwise
