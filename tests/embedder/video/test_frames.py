"""Frames of real files: their times, sizes and turns, and what cut, broken, hostile and foreign files give."""

import math
import random
import subprocess
import sys

import av
import numpy as np
import pytest

from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.outcomes import DIED, MISSING, OUTSIDE, TIMEOUT, TOO_LARGE, UNREADABLE
from facegallery.embedder.video import frames as module
from facegallery.embedder.video.decode import shown_size
from facegallery.embedder.video.frames import FrameOptions, Frames
from facegallery.embedder.video.listing import list_videos
from tests.videos import write

SECONDS, FPS = 10, 10
IDENTITY = b"\0\1\0\0" + bytes(12) + b"\0\1\0\0" + bytes(12) + b"\x40\0\0\0"  # the matrix of an upright track
QUARTER = bytes(4) + b"\0\1\0\0" + bytes(4) + b"\xff\xff\0\0" + bytes(16) + b"\x40\0\0\0"  # as phones held upright


def counted(width=96, height=64, seconds=SECONDS):
    """Frames whose grey tells their time; the left upper corner is red."""
    for number in range(seconds * FPS):
        pixels = np.full((height, width, 3), 20 + 2 * number, np.uint8)
        pixels[: height // 2, : width // 2] = 200, 20, 20
        yield pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for suffix, codec in (("mp4", "mpeg4"), ("mkv", "libx264"), ("webm", "libvpx"), ("avi", "mjpeg")):
        if codec == "mjpeg":
            write_jpegs(folder / "clip.avi")
        else:
            write(folder / f"clip.{suffix}", counted(), FPS, codec)
    write(folder / "clip.ts", counted(), FPS, "mpeg2video" if "mpeg2video" in av.codecs_available else "libx264")
    return folder


def write_jpegs(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for pixels in counted():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def read(folder, name, **options):
    frames = Frames(folder, name, FrameOptions(**options))
    return list(frames), frames


def written(tmp_path, data, name="a.mp4"):
    (tmp_path / name).write_bytes(data)
    return read(tmp_path, name)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi", "ts"])
def test_frames_come_at_the_rate_that_was_asked_for(folder, suffix):
    found, frames = read(folder, f"clip.{suffix}", rate=2)
    assert (frames.outcome, frames.why) == ("ok", "")
    assert [frame.time for frame in found] == pytest.approx(np.arange(0, SECONDS, 0.5), abs=0.1)
    greys = [frame.pixels[-8:, -8:].mean() for frame in found]
    assert greys == pytest.approx([20 + 10 * i for i in range(20)], abs=6)
    assert found[0].pixels.shape == (64, 96, 3) and found[0].pixels[4, 4, 0] > found[0].pixels[4, 4, 1] + 100


def test_frames_are_scaled_down_to_the_longest_side(folder):
    found, _ = read(folder, "clip.mp4", rate=0.1, max_side=64)
    assert [frame.pixels.shape for frame in found] == [(43, 64, 3)]
    assert shown_size(720, 576, None, 1280) == (720, 576)
    assert shown_size(720, 576, 64 / 45, 1280) == (1024, 576)
    assert shown_size(3840, 2160, None, 1280) == (1280, 720)


def test_frames_stand_upright(folder, tmp_path):
    data = (folder / "clip.mp4").read_bytes()
    at = data.index(IDENTITY, data.index(b"tkhd"))
    found, frames = written(tmp_path, data[:at] + QUARTER + data[at + len(QUARTER) :])
    assert frames.outcome == "ok" and found[0].pixels.shape == (96, 64, 3)
    corner = found[0].pixels[4, -5].astype(int)  # turned clockwise: what was left above is right above
    assert corner[0] > corner[1] + 100


def test_a_cut_file_gives_what_is_there(folder, tmp_path):
    for name in ("clip.mkv", "clip.avi", "clip.webm"):
        data = (folder / name).read_bytes()
        found, frames = written(tmp_path, data[: len(data) // 2], name)
        assert 3 < len(found) < 18 and frames.outcome == "ok", name
        assert "cut or broken" in frames.why or "broken from" in frames.why, (name, frames.why)


def test_a_cut_file_without_its_index_is_unreadable(folder, tmp_path):
    data = (folder / "clip.mp4").read_bytes()
    found, frames = written(tmp_path, data[: len(data) // 2])
    assert not found and frames.outcome == UNREADABLE and "cut or broken" in frames.why


def test_an_mp4_whose_index_comes_first_gives_what_is_there(tmp_path):
    path = tmp_path / "fast.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"bf": "0", "g": "5"}
        for pixels in counted():
            noise = np.random.default_rng(0).integers(0, 20, pixels.shape, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels + noise, format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    found, frames = written(tmp_path, data[: len(data) // 2])
    assert 3 < len(found) < 18 and frames.outcome == "ok" and "cut or broken" in frames.why


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_corrupt_bytes_never_end_in_more_than_a_line(folder, tmp_path, name):
    for seed in range(6):
        rng, data = random.Random(seed), bytearray((folder / name).read_bytes())
        for _ in range(10 ** (seed % 3 + 1)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        found, frames = written(tmp_path, bytes(data), name)
        times = [frame.time for frame in found]
        assert times == sorted(times) and all(math.isfinite(time) for time in times)
        assert found or frames.outcome in (UNREADABLE, TOO_LARGE), frames.why
        assert "\n" not in frames.why


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "text"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "text"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "photo (JPEG)"),
        (random.Random(1).randbytes(5000), "no known kind"),
        (b"\0\0\0\x18ftypmp42" + bytes(12) + random.Random(2).randbytes(5000), "cut or broken"),
        (b"RIFF\0\0\1\0WAVEfmt " + bytes(99), "not a video"),
    ],
)
def test_what_is_no_video_is_said(tmp_path, data, why):
    found, frames = written(tmp_path, data)
    assert not found and frames.outcome == UNREADABLE and why in frames.why


def test_a_file_of_sound_alone_is_unreadable(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    found, frames = read(tmp_path, "a.mp4")
    assert not found and frames.outcome == UNREADABLE and "no pictures" in frames.why


def test_limits_hold(folder, tmp_path, monkeypatch):
    assert read(folder, "clip.mp4", most_pixels=1000)[1].outcome == TOO_LARGE
    assert read(folder, "clip.mp4", seconds=0.001)[1].outcome == TIMEOUT
    found, frames = read(folder, "clip.mp4", most_seconds=3.6)
    assert [frame.time for frame in found] == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5] and "only the first" in frames.why
    assert read(folder, "none.mp4")[1].outcome == MISSING
    (tmp_path / "link.mp4").symlink_to(folder / "clip.mp4")
    assert read(tmp_path, "link.mp4")[1].outcome == OUTSIDE
    monkeypatch.setattr(module, "PROGRAM", "tests.liar")
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert read(tmp_path, "a.mp4", seconds=20)[1].outcome == DIED
    for wrong in ({"rate": 0}, {"rate": float("nan")}, {"max_side": 1}):
        with pytest.raises(InputError):
            FrameOptions(**wrong)


def test_the_process_has_no_more_memory_than_its_limit():
    script = "from facegallery.embedder.photos.decode import limit_memory\nlimit_memory(1 << 30)\nbytearray(1 << 30)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "MemoryError" in done.stderr


def test_a_process_ends_with_the_last_frame_that_is_wanted(folder):
    frames = iter(Frames(folder, "clip.mp4"))
    next(frames)
    frames.close()


def test_the_videos_of_a_folder_are_listed(folder, tmp_path):
    assert [entry.path for entry in list_videos(folder).entries] == [
        "clip.avi",
        "clip.mkv",
        "clip.mp4",
        "clip.ts",
        "clip.webm",
    ]
    assert [entry.path for entry in list_videos(folder / "clip.mp4").entries] == ["clip.mp4"]
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "deep").mkdir()
    for name in ("module.ts", ".hidden/a.mp4", ".a.mp4", "deep/a.MP4", "photo.jpg"):
        (tmp_path / name).write_bytes(b"export const a = 1")
    assert [entry.path for entry in list_videos(tmp_path).entries] == ["deep/a.MP4"]
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found none"):
        list_videos(empty)
    with pytest.raises(DataError, match="is not there"):
        list_videos(tmp_path / "no")
