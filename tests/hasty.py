"""A server with shorter limits of time than users have, for tests that wait: `python -m tests.hasty serve ...`."""

from __future__ import annotations

import sys
from dataclasses import replace

from facegallery.cli.main import main
from facegallery.server import connections
from facegallery.server.settings import Settings

HEAD_SECONDS, BODY_SECONDS = 4.0, 9.0


def hurry() -> None:
    """Shorten the limits of a server that runs in this process."""
    given = Settings.from_environment

    def from_environment() -> Settings:
        return replace(given(), body_seconds=BODY_SECONDS)

    connections.HEAD_SECONDS = HEAD_SECONDS
    Settings.from_environment = from_environment  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    hurry()
    sys.exit(main())
