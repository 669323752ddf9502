"""Videos for tests: real faces that move over a canvas, encoded by PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

Place = Callable[[float], tuple[float, float]]  # the left upper corner of a face at a time, in pixels


@dataclass(frozen=True)
class Actor:
    """A person in a video: photos that follow each other, where they are, and from when to when, in seconds."""

    photos: Sequence[Path]
    place: Place
    start: float = 0.0
    end: float = 1e9
    each: float = 1.0  # seconds of a photo, which then turns into the next
    zoom: float = 1.0

    def face(self, time: float) -> Image.Image:
        """Return the person's picture at a time: a photo, blended with the next."""
        at = (time - self.start) / self.each
        now, following = (_grey(self.photos[(int(at) + i) % len(self.photos)]) for i in range(2))
        mixed = Image.blend(now, following, max(0.0, (at % 1 - 0.75) * 4))
        return mixed.resize((round(mixed.width * self.zoom), round(mixed.height * self.zoom)))


def _grey(path: Path) -> Image.Image:
    with Image.open(path) as photo:
        return photo.convert("L")


def scene(actors: Sequence[Actor], seconds: float, fps: int, size: tuple[int, int]) -> Iterable[np.ndarray]:
    """Yield the frames, uint8 RGB (h, w, 3); later actors are in front. size: width, height."""
    for number in range(round(seconds * fps)):
        time, canvas = number / fps, Image.new("RGB", size, (70, 90, 80))
        for actor in actors:
            if actor.start <= time < actor.end:
                canvas.paste(actor.face(time), tuple(round(v) for v in actor.place(time - actor.start)))
        yield np.asarray(canvas)


def write(path: Path, frames: Iterable[np.ndarray], fps: int = 10, codec: str = "mpeg4") -> Path:
    """Encode frames of one size to a file whose suffix names the container."""
    with av.open(str(path), "w") as container:
        stream = None
        for pixels in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=fps)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        assert stream is not None
        container.mux(stream.encode())
    return path


def photos(att: Path, person: int, numbers: Iterable[int]) -> list[Path]:
    return [att / f"s{person}" / f"{number}.pgm" for number in numbers]


def across(start: tuple[float, float], end: tuple[float, float], seconds: float) -> Place:
    """Move in a straight line within so many seconds."""
    return lambda time: tuple(a + (b - a) * time / seconds for a, b in zip(start, end, strict=True))  # type: ignore


def crossing(att: Path, folder: Path) -> Path:
    """Two people cross, s1 from left to right and s2 from right to left; s3 comes when they are gone, then s1 again."""
    actors = [
        Actor(photos(att, 1, (6, 7, 8, 9)), across((10, 40), (380, 60), 8), end=8),
        Actor(photos(att, 2, (6, 7, 8, 9)), across((380, 70), (10, 50), 8), end=8),
        Actor(photos(att, 3, (6, 7, 8, 9)), across((100, 60), (200, 60), 4), start=11, end=15),
        Actor(photos(att, 1, (9, 10, 6, 7)), across((250, 50), (260, 60), 4), start=18, end=22),
    ]
    return write(folder / "crossing.mp4", scene(actors, 22, 10, (480, 200)), 10)
