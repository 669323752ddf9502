"""Where a process of the server begins: little is imported before it can be told to end."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import TYPE_CHECKING

from facegallery.embedder.process import end_with_parent, ending_within

if TYPE_CHECKING:
    from facegallery.server.guard import App

END_SECONDS = 8.0  # from SIGTERM to the end of a process, whatever is being done


def create() -> App:
    """For uvicorn: the application, by the settings in the environment."""
    if (parent := multiprocessing.parent_process()) is not None:  # one of several
        ending_within(END_SECONDS).__enter__()  # until the process ends
        end_with_parent(signal.SIGTERM)
        if not parent.is_alive():  # it ended before
            os._exit(0)
    from facegallery.server.app import make
    from facegallery.server.settings import Settings

    return make(Settings.from_environment())
