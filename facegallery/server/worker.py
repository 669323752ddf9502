"""The entry point of a server process. It imports little before the process can be terminated."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import TYPE_CHECKING

from facegallery.embedder.process import end_with_parent, ending_within

if TYPE_CHECKING:
    from facegallery.server.guard import App

END_SECONDS = 8.0  # time from SIGTERM to the end of a process, whatever is running


def create() -> App:
    """Make the application by the settings in the environment; uvicorn calls this function."""
    if (parent := multiprocessing.parent_process()) is not None:  # one of several worker processes
        ending_within(END_SECONDS).__enter__()  # until the process ends
        end_with_parent(signal.SIGTERM)
        if not parent.is_alive():  # it ended before end_with_parent took effect
            os._exit(0)
    from facegallery.server.app import make
    from facegallery.server.settings import Settings

    return make(Settings.from_environment())
