"""Read frames of a video from a process that can be killed, one by one, in bounded memory and time."""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.errors import InputError
from facegallery.embedder.outcomes import ANSWERS, DIED, OK, OUTSIDE, TIMEOUT
from facegallery.embedder.photos.decoder import ONE_BLOCK, Malformed
from facegallery.embedder.photos.listing import path_inside
from facegallery.embedder.process import HEAD_BYTES, WHY, Ended, Process, frame

PROGRAM = "facegallery.embedder.video.decode"
MAX_PIXELS = 8192 * 4320  # of a picture
MOST_SECONDS = 24 * 3600.0  # of a video that are read
SECONDS_A_FRAME = 60.0  # longest wait for the next frame
KEYS = frozenset(("id", "outcome", "why", "time", "shape"))


@dataclass(frozen=True)
class FrameOptions:
    """How frames are taken from a video; raise InputError for a rate or a side that cannot be.

    rate: frames a second. max_side: pixels of a frame's longer side; larger ones are scaled down. most_pixels: videos
    of larger pictures are refused. seconds: longest wait for the next frame. most_seconds: what comes later is not
    read.
    """

    rate: float = 2.0
    max_side: int = 1280
    most_pixels: int = MAX_PIXELS
    seconds: float = SECONDS_A_FRAME
    most_seconds: float = MOST_SECONDS

    def __post_init__(self) -> None:
        if not 0.1 <= self.rate <= 60:
            raise InputError(f"expected a --rate from 0.1 to 60 frames a second, received {self.rate}")
        if not 64 <= self.max_side <= 8192:
            raise InputError(f"expected a --max-side from 64 to 8192 pixels, received {self.max_side}")


@dataclass(frozen=True)
class Frame:
    """A frame: its time in seconds from the video's beginning, and its upright pixels, uint8 RGB (h, w, 3)."""

    time: float
    pixels: np.ndarray


class Frames:
    """The frames of one video, in the order of time; iterate once.

    Then `outcome` says whether the video could be read, `why` the reason, or, where the outcome is ok, what is missing.
    """

    def __init__(self, root: Path, name: str, options: FrameOptions = FrameOptions()):  # noqa: B008
        """Read the file `name` in the folder `root`."""
        self._path, self._options = path_inside(root, name), options
        self.count, self.last = 0, 0.0
        self.outcome, self.why = OK, ""

    def __iter__(self) -> Iterator[Frame]:
        if self._path is None:
            self.outcome, self.why = OUTSIDE, "a link or path that leaves the folder"
            return
        process = Process(PROGRAM, str(self._options.most_pixels), environment=ONE_BLOCK, folder="/")
        try:
            yield from self._asked(process, os.fsencode(self._path))
        except TimeoutError:
            self._end(TIMEOUT, f"the next frame took longer than {self._options.seconds:g} s")
        except Malformed as error:
            self._end(DIED, f"the decoder's answer was malformed ({error})")
        except (Ended, MemoryError):
            self._end(DIED, "the decoder ended in the middle of it")
        finally:
            process.close()

    def _end(self, outcome: str, why: str) -> None:
        """Note how the video ended; with frames before, it is ok as far as it was read."""
        if outcome != OK and self.count:
            outcome, why = OK, f"read to {self.last:.1f} s: {why}"
        self.outcome, self.why = outcome, why

    def _asked(self, process: Process, path: bytes) -> Iterator[Frame]:
        options, id = self._options, secrets.randbits(62)
        asked = {"rate": options.rate, "max_side": options.max_side, "most_seconds": options.most_seconds}
        until = time.monotonic() + options.seconds
        process.write(frame({"id": id, "size": len(path)} | asked), until)
        process.write(path, until)
        while True:
            head = self._head(process, id, until)
            if head["shape"] is None:
                self._end(head["outcome"], head["why"])
                return
            pixels = np.empty(head["shape"], np.uint8)
            process.read_into(pixels.data.cast("B"), until)
            self.count, self.last = self.count + 1, float(head["time"])
            yield Frame(self.last, pixels)
            until = time.monotonic() + options.seconds

    def _head(self, process: Process, id: int, until: float) -> dict[str, Any]:
        """Return the head of the next answer; raise Malformed for what is no answer."""
        size = int.from_bytes(process.read(4, until), "little")
        if size > HEAD_BYTES:
            raise Malformed(f"a head of {size:,} bytes")
        try:
            head = json.loads(process.read(size, until))
        except (ValueError, RecursionError):
            raise Malformed("no JSON") from None
        if not isinstance(head, dict) or head.keys() != KEYS or type(head["id"]) is not int or head["id"] != id:
            raise Malformed("not an answer to the question")
        if head["outcome"] not in ANSWERS or not isinstance(head["why"], str) or len(head["why"]) > WHY:
            raise Malformed("no outcome")
        if not _is_time(head["time"], self.last):
            raise Malformed("no time")
        if head["shape"] is not None and not (head["outcome"] == OK and self._is_shape(head["shape"])):
            raise Malformed("no shape that was asked for")
        return head

    def _is_shape(self, shape: Any) -> bool:
        if not isinstance(shape, list) or len(shape) != 3 or any(type(side) is not int or side < 1 for side in shape):
            return False
        return shape[2] == 3 and max(shape) <= self._options.max_side


def _is_time(value: Any, last: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= last
