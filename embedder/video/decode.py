"""Decode a video in a process that can be killed; `process` runs it, `frames` asks it.

The one question is a frame: the length of its head (four bytes, little-endian), the head (JSON: `id`, `size`, `rate`,
`max_side`, `most_seconds`), then `size` bytes: the path of the file. The answers are frames, too, one for each picture
that is sampled: the head repeats the `id` and has `outcome`, `why`, `time` and `shape`, then the pixels follow. The
last one has no shape: its outcome says why the video gave nothing, or it is ok and `why` says what could not be read.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np

from facegallery.embedder.machine import cores
from facegallery.embedder.outcomes import MISSING, NEEDS_PLUGIN, NO_ACCESS, OK, TOO_LARGE, UNREADABLE
from facegallery.embedder.photos.bounds import check_size
from facegallery.embedder.photos.decode import limit_memory, read_from, write_to
from facegallery.embedder.photos.kinds import PhotoRefused
from facegallery.embedder.process import WHY, channel, frame, greet
from facegallery.embedder.video.kinds import CODECS, HEAD, demuxer_of

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

MEMORY, MEMORY_A_PIXEL = 768 << 20, 64  # bytes: of the program, and of all pictures that a decoder holds
THREADS = min(4, cores())
MOST_BROKEN = 1000  # parts in a row that cannot be decoded, after which the rest is left alone
CUT = 1.5  # seconds that a whole video may end before the time that it states
EXTRA = "pip install 'facegallery[video]'"


def memory_for(most_pixels: int) -> int:
    """Return the bytes of address space that decoding a video of pictures of so many pixels needs."""
    return MEMORY + MEMORY_A_PIXEL * most_pixels


@dataclass
class Sampler:
    """The pictures of a video, at a rate, and `why`, what could not be read of them.

    rate: pictures a second. max_side: pixels of a picture's longer side. most_seconds: what comes later is left out.
    """

    rate: float
    max_side: int
    most_pixels: int
    most_seconds: float
    last: float = 0.0  # seconds, of the last picture that was decoded
    broken: int = 0
    why: str = ""

    def pictures(self, file: BinaryIO) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the time of each picture in seconds, and its pixels, uint8 RGB (h, w, 3).

        Raise PhotoRefused where the file gives no picture at all.
        """
        due, number = 0.0, 0
        with opened(file) as (container, stream):
            check_size(stream.width, stream.height, self.most_pixels)
            for shot in self._decoded(container, stream):
                self.last = max(self.last, self._time(shot, stream, number))
                number += 1
                if self.last > self.most_seconds:
                    self.why = f"only the first {self.most_seconds / 3600:g} hours are read"
                    return
                if self.last >= due:
                    due = (math.floor(self.last * self.rate + 1e-6) + 1) / self.rate
                    yield self.last, self._pixels(shot, stream)
            if not number:
                raise PhotoRefused(UNREADABLE, "no picture in it can be decoded: the file is cut or broken")
            self.why = self.why or self._lacking(stated_seconds(container, stream), is_cut=is_cut_riff(file))

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        from av import FFmpegError

        packets, in_a_row = container.demux(stream), 0
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                self.why = f"broken from {self.last:.1f} s on ({_reason(error)})"
                return
            if packet is None or in_a_row > MOST_BROKEN:
                return
            try:
                shots, in_a_row = packet.decode(), 0
            except FFmpegError:
                self.broken, in_a_row = self.broken + 1, in_a_row + 1
                continue
            yield from shots

    def _time(self, shot: VideoFrame, stream: VideoStream, number: int) -> float:
        """Return the time of a picture in seconds from the video's beginning."""
        base = stream.time_base
        if shot.pts is None or base is None:
            return number / float(stream.average_rate or 25)
        return max(0.0, float((shot.pts - (stream.start_time or 0)) * base))

    def _pixels(self, shot: VideoFrame, stream: VideoStream) -> np.ndarray:
        check_size(shot.width, shot.height, self.most_pixels)
        width, height = shown_size(shot.width, shot.height, stream.sample_aspect_ratio, self.max_side)
        pixels = shot.reformat(width, height, format="rgb24", interpolation="AREA").to_ndarray()
        return np.ascontiguousarray(np.rot90(pixels, round(shot.rotation / 90) % 4))

    def _lacking(self, stated: float | None, *, is_cut: bool) -> str:
        """Say what is missing of a video that lasts `stated` seconds by its own account."""
        if stated is not None and stated - self.last > max(CUT, 0.02 * stated):
            return f"ends at {self.last:.1f} s of {stated:.1f} s: the file is cut or broken"
        if is_cut:
            return f"ends at {self.last:.1f} s: the file is cut or broken"
        return f"{self.broken} parts of it are broken" if self.broken else ""


def shown_size(width: int, height: int, aspect: Fraction | None, max_side: int) -> tuple[int, int]:
    """Return the size (width, height) of a picture of square pixels, whose longer side has at most `max_side`.

    aspect: width of the stored pixels by their height; None where it is not known.
    """
    wide = width * float(aspect) if aspect and 0.25 <= aspect <= 4 else float(width)
    scale = min(1.0, max_side / max(wide, height))
    return max(1, round(wide * scale)), max(1, round(height * scale))


def stated_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """Return how long a video lasts by its own account; None where it does not say."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    parts = stream.metadata.get("DURATION", "").split(":")  # of Matroska: 00:01:02.500000000
    try:
        hours, minutes, seconds = map(float, parts)
        return 3600 * hours + 60 * minutes + seconds
    except ValueError:
        return None if container.duration is None else container.duration / 1e6


def is_cut_riff(file: BinaryIO) -> bool:
    """Whether a file is an AVI with fewer bytes than its head states; its length in seconds does not show it."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(8)
    return head[:4] == b"RIFF" and int.from_bytes(head[4:], "little") + 8 > size


@contextmanager
def opened(file: BinaryIO) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video by its first bytes: its container, and the stream of pictures. Raise PhotoRefused for no video."""
    demuxer = demuxer_of(file.read(HEAD))
    file.seek(0)
    try:
        import av
    except ImportError:
        raise PhotoRefused(NEEDS_PLUGIN, f"needs PyAV: {EXTRA}") from None
    only = {"codec_whitelist": ",".join(CODECS), "protocol_whitelist": "none"}
    try:
        container = av.open(file, "r", format=demuxer, options=only, metadata_errors="replace", io_open=_refuse_to_open)
    except av.FFmpegError as error:
        raise PhotoRefused(UNREADABLE, f"a video that is cut or broken ({_reason(error)})") from None
    with container:
        streams = [one for one in container.streams.video if one.codec_context is not None]
        if not streams:
            raise PhotoRefused(UNREADABLE, "no pictures in it that can be decoded")
        stream = streams[0]
        if stream.codec_context.name not in CODECS:
            raise PhotoRefused(UNREADABLE, f"its codec {stream.codec_context.name!r} is not read")
        stream.codec_context.thread_count, stream.thread_type = THREADS, "AUTO"
        yield container, stream


def _refuse_to_open(*_: Any) -> NoReturn:
    raise PermissionError("a video may not open other files")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:100]


def answers(path: str, sampler: Sampler) -> Iterator[tuple[dict[str, Any], bytes | memoryview]]:
    """Yield the head and the pixels of each answer about a video."""
    end, why = OK, ""
    try:
        with _file(path) as file:
            for time, pixels in sampler.pictures(file):
                yield {"outcome": OK, "why": "", "time": time, "shape": pixels.shape}, pixels.data
        why = sampler.why
    except PhotoRefused as error:
        end, why = error.outcome, str(error)
    except MemoryError:
        end, why = TOO_LARGE, "needs more memory than the limit"
    except Exception as error:  # PyAV raises errors of any kind for numbers and texts that no video has
        end, why = UNREADABLE, f"a video that is cut or broken ({_reason(error)})"
    yield {"outcome": end, "why": why[:WHY], "time": sampler.last, "shape": None}, b""


@contextmanager
def _file(path: str) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PhotoRefused(UNREADABLE, "not a plain file")
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise PhotoRefused(MISSING, "the file is gone") from None
    except IsADirectoryError:
        raise PhotoRefused(UNREADABLE, "not a plain file") from None
    except OSError as error:
        raise PhotoRefused(NO_ACCESS, error.strerror or str(error)) from None


def main() -> None:
    """Answer one question, picture by picture, and end."""
    questions, out, (most,) = channel()
    limit_memory(memory_for(int(most)))
    greet(out)
    if not (length := read_from(questions, 4)):
        return
    asked = json.loads(read_from(questions, int.from_bytes(length, "little")))
    path = os.fsdecode(read_from(questions, asked["size"]))
    sampler = Sampler(asked["rate"], asked["max_side"], int(most), asked["most_seconds"])
    for head, pixels in answers(path, sampler):
        write_to(out, frame({"id": asked["id"]} | head))
        write_to(out, pixels)


if __name__ == "__main__":
    main()
