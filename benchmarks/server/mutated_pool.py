"""Do the processes that decode withstand damaged photos? In every format, without a server, thousands a minute.

    python benchmarks/server/mutated_pool.py PHOTOS --n 20000 --json benchmarks/results/mutated-pool.json

PHOTOS are JPEGs in a folder a person; `benchmarks/common/mutants.py` damages them. A separate process makes the
photos, so that the measured memory is that of a program that decodes. Programs such as Ghostscript are on the PATH
and leave a mark when they start; with strace installed, every started process is seen. Seed and number make a mutant
again. Exits with 1 where:

- a whole photo, in any format, does not give its own person's picture, or any photo gives another person's;
- an answer is not one of the documented ones, or a program or a process that does not decode is started;
- memory grows by more than a tenth from the second quarter to the last;
- a process does not end within 10 s of a signal, whenever that comes.
"""

from __future__ import annotations

import heapq
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import click
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.forms import OTHERS, READ  # noqa: E402
from benchmarks.common.mutants import Mutant, mutant, sound  # noqa: E402
from benchmarks.common.served import GROWTH, held, processes, quarters  # noqa: E402
from benchmarks.common.traced import started, traced, trap_programs  # noqa: E402
from facegallery.embedder.outcomes import ANSWERS, DIED, TIMEOUT  # noqa: E402
from facegallery.embedder.photos.decoder import Decoder, Photo  # noqa: E402
from facegallery.embedder.process import ending_within  # noqa: E402

SOUND_EVERY = 4  # photos
SIDE = 24  # pixels of the pictures by which people are told apart
ALIKE, APART = 0.85, 0.1  # correlation: with oneself at least; by how much less with oneself than with another
FEW = 2000  # in a smaller run memory has not settled
SIGNAL_SECONDS, END_SECONDS = 10.0, 9.0
MOST_PIXELS = 50_000_000
MEMORY_SECONDS = 0.5
DECODER = "facegallery.embedder.photos.decode"
# glibc's own first threshold, fixed. Otherwise the first large picture that is freed moves it to up to 32 MB, and then
# the process keeps up to 64 MB of free memory, more or less by chance
FIXED = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}


class People:
    """Hold photos of different people, and tell whom a picture shows."""

    def __init__(self, photos: Sequence[bytes]):
        self.photos = photos
        self._looks = np.stack([_look(np.asarray(Image.open(BytesIO(photo)).convert("RGB"))) for photo in photos])

    def likeness(self, pixels: np.ndarray, person: int) -> tuple[float, float]:
        """Return how much a picture looks like a person's, and like the nearest of all others."""
        scores = self._looks @ _look(pixels)
        return float(scores[person]), float(np.max(np.delete(scores, person), initial=-1))


def _look(pixels: np.ndarray) -> np.ndarray:
    """Turn a picture into a vector of unit length, so that a correlation is a dot product.

    Few pixels of a large picture are read, so that it takes no memory.
    """
    step = max(1, min(pixels.shape[:2]) // (10 * SIDE))
    pixels = np.ascontiguousarray(pixels[::step, ::step])
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    look = (small - small.mean()).ravel()
    return look / (np.linalg.norm(look) or 1)


def one_of_each(folder: Path, n: int) -> list[bytes]:
    """Take a photo of each of n people."""
    found: dict[Path, Path] = {}
    for file in sorted(folder.rglob("*.jpg")):
        found.setdefault(file.parent, file)
    return [file.read_bytes() for file in list(found.values())[:n]]


@dataclass
class Told:
    number: int
    kind: str
    outcome: str
    why: str
    seconds: float
    wrong: str = ""


Asked = tuple[Mutant, bool]  # a photo, and whether it is whole


def wrong_with(people: People, bad: Mutant, photo: Photo, *, is_sound: bool) -> str:
    """Return what is wrong with an answer ('' where nothing is)."""
    if photo.outcome not in ANSWERS | {DIED, TIMEOUT}:
        return "another outcome"
    if photo.pixels is None:
        return "a photo that is whole" if is_sound else ""
    if bad.kind.endswith(" whole") and bad.kind.removesuffix(" whole") in OTHERS:
        return "a format that is not read"
    own, other = people.likeness(photo.pixels, bad.source)
    if is_sound and own < ALIKE:
        return f"not its own picture: {own:.2f}"
    return f"another person's picture: {other:.2f}, its own: {own:.2f}" if other > ALIKE and own < other - APART else ""


def made(photos: Sequence[bytes], n: int, seed: int) -> Iterator[Asked]:
    for number in range(n):
        is_sound = number % SOUND_EVERY == 0
        yield (sound if is_sound else mutant)(photos, seed, number), is_sound


def received(file: IO[bytes], n: int) -> Iterator[Asked]:
    """Yield what another process made."""
    for _ in range(n):
        yield pickle.load(file)


def ask(pool: Decoder, people: People, photos: Iterable[Asked], folder: Path) -> Iterator[Told]:
    """Send bytes and files in turns, several at a time."""
    waiting: deque[tuple[Mutant, bool, float, Future[Photo], list[float]]] = deque()

    def told() -> Told:
        bad, is_sound, began, future, ended = waiting.popleft()
        photo = future.result()
        wrong = wrong_with(people, bad, photo, is_sound=is_sound)
        return Told(bad.number, bad.kind, photo.outcome, photo.why, (ended or [time.monotonic()])[0] - began, wrong)

    for bad, is_sound in photos:
        name = f"{bad.number % 16}.{('jpg', 'png', 'eps', 'heic')[bad.number % 4]}"
        if bad.number % 8 == 1:
            (folder / name).write_bytes(bad.data)
        future = pool.submit(folder, name) if bad.number % 8 == 1 else pool.submit_bytes(name, bad.data)
        ended: list[float] = []
        waiting.append((bad, is_sound, time.monotonic(), future, ended))
        future.add_done_callback(lambda _, ended=ended: ended.append(time.monotonic()))  # type: ignore[misc]
        if len(waiting) > 4:
            yield told()
    while waiting:
        yield told()


@dataclass
class Watch:
    """Sample memory, and the decoders' children where nothing else sees them."""

    memory: list[tuple[float, float]] = field(default_factory=list)  # MB of this process, and of its decoders
    decoders: set[int] = field(default_factory=set)
    children: set[str] = field(default_factory=set)

    def look(self, ended: threading.Event) -> None:
        while not ended.wait(MEMORY_SECONDS):
            found = processes(os.getpid())
            decoders = {pid for pid, line in found.items() if DECODER in line}
            self.decoders |= decoders
            own = found.get(os.getpid())  # a decoder that is just being started has this line, too
            self.children |= {line for pid, line in found.items() if pid not in decoders and line and line != own}
            self.memory.append((held([os.getpid()])["mb"], held(decoders)["mb"]))


@dataclass
class Tally:
    """Count the answers, without what no figure needs."""

    photos: int = 0
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    slowest: list[Told] = field(default_factory=list)
    killed: list[Told] = field(default_factory=list)
    wrong: list[Told] = field(default_factory=list)

    def add(self, told: Told) -> None:
        self.photos += 1
        self.kinds.setdefault(told.kind.partition(" sound")[0], Counter())[told.outcome] += 1
        self.slowest = heapq.nlargest(10, [*self.slowest, told], key=lambda each: each.seconds)
        if told.outcome in (DIED, TIMEOUT):
            self.killed.append(told)
        if told.wrong:
            self.wrong.append(told)


def figures(people: People, photos: Iterable[Asked], seconds: float) -> dict[str, Any]:
    """Send all photos, and return the figures."""
    tally = Tally()
    watch, ended = Watch(), threading.Event()
    watcher = threading.Thread(target=watch.look, args=(ended,))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Decoder(seconds=seconds, most_pixels=MOST_PIXELS) as pool:
        watcher.start()
        try:
            for told in ask(pool, people, photos, Path(folder)):
                tally.add(told)
        finally:
            ended.set()
            watcher.join()
    return {
        "photos": tally.photos,
        "seconds": time.monotonic() - began,
        "formats": sorted({*READ, *OTHERS}),
        "outcomes": dict(sum(tally.kinds.values(), Counter[str]()).most_common()),
        "kinds": {kind: dict(tally.kinds[kind]) for kind in sorted(tally.kinds)},
        "killed": [asdict(each) for each in tally.killed],
        "decoders": len(watch.decoders),
        "memory_mb": {
            name: quarters([each[i] for each in watch.memory]) if len(watch.memory) > 3 else []
            for i, name in enumerate(("own", "decoders"))
        },
        "most_mb": max((sum(each) for each in watch.memory), default=0.0),
        "children": sorted(watch.children),
        "slowest": [asdict(each) for each in tally.slowest],
        "wrong": [asdict(each) for each in tally.wrong],
    }


# signals ---------------------------------------------------------------------


def without_end(people: People, seed: int) -> None:
    """Send photos until a signal comes; stop decoders now and then, as if they hung."""
    pick, stopped = random.Random(seed), 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    with ending_within(END_SECONDS), tempfile.TemporaryDirectory() as folder, Decoder(most_pixels=MOST_PIXELS) as pool:
        print("ready", flush=True)
        for told in ask(pool, people, made(people.photos, sys.maxsize, seed), Path(folder)):
            if told.number % 50 == 49 and stopped < 2 and pool._running:
                os.kill(pick.choice(list(pool._running)).pid, signal.SIGSTOP)
                stopped += 1


def end_of(command: Sequence[str], after: float, number: signal.Signals) -> tuple[float, list[str]]:
    """Return seconds from a signal to the end of a command, and the processes that are left then."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        time.sleep(after)
        children = processes(process.pid).keys() - {process.pid}
        began = time.monotonic()
        process.send_signal(number)
        try:
            process.wait(3 * SIGNAL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        seconds = time.monotonic() - began
    while (
        left := [line for pid in children for line in processes(pid).values()]
    ) and time.monotonic() - began < SIGNAL_SECONDS:
        time.sleep(0.1)
    return seconds, left


def ends(command: Callable[[int], Sequence[str]], rounds: int, seed: int) -> tuple[list[float], list[str]]:
    """Return the seconds of each end, and what was wrong."""
    pick, seconds, wrong = random.Random(seed), list[float](), list[str]()
    for turn in range(rounds):
        number = (signal.SIGTERM, signal.SIGINT)[turn % 2]
        took, left = end_of(command(turn), pick.uniform(0, 4), number)
        seconds.append(took)
        if took > SIGNAL_SECONDS or left:
            wrong.append(
                f"expected an end within {SIGNAL_SECONDS:g} s of {number.name}, it took {took:.1f} s; left over: {left}"
            )
    return seconds, wrong


# the whole ---------------------------------------------------------------------


def faults(found: Mapping[str, Any], seconds: float) -> list[str]:
    wrong = [
        f"{each['kind']}, number {each['number']}: {each['outcome']} ({each['why']}): {each['wrong']}"
        for each in found["wrong"]
    ]
    wrong += [f"a decoder started {line}" for line in found["children"]]
    late = [each for each in found["slowest"] if each["seconds"] > 4 * (seconds + 2)]  # so many are asked before it
    wrong += [f"{each['kind']}, number {each['number']} took {each['seconds']:.1f} s" for each in late]
    for name, mb in found["memory_mb"].items():
        if mb and found["photos"] >= FEW and mb[3] > GROWTH * mb[1] and name == "own":
            wrong.append(f"expected memory of {name} to stay, it grew from {mb[1]:.0f} to {mb[3]:.0f} MB")
    return wrong


def tell(found: Mapping[str, Any]) -> None:
    rate = f"{found['seconds']:.0f} s: {found['photos'] / found['seconds']:.0f}/s"
    click.echo(f"{found['photos']} photos in {rate}; {found['outcomes']}")
    for name, mb in found["memory_mb"].items():
        click.echo(f"memory by quarters, {name}: {', '.join(f'{each:.0f}' for each in mb)} MB")
    click.echo(
        f"memory at most: {found['most_mb']:.0f} MB; decoders: {found['decoders']}, killed: {len(found['killed'])}"
    )
    for each in [*found["slowest"][:3], *found["killed"][:20]]:
        click.echo(
            f"{each['seconds']:.1f} s, {each['kind']}, number {each['number']}: {each['outcome']} ({each['why']})"
        )
    if found["ends"]:
        click.echo(f"seconds from a signal to the end: {', '.join(f'{each:.1f}' for each in found['ends'])}")


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True))
@click.option("--n", default=20_000, show_default=True, help="Photos; every fourth is whole.")
@click.option("--seed", default=0, show_default=True)
@click.option("--people", "n_people", default=12, show_default=True)
@click.option("--seconds", default=30.0, show_default=True, help="That a photo may take.")
@click.option("--ends", "rounds", default=10, show_default=True, help="Signals at random moments.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all figures.")
@click.option("--part", type=click.Choice(("all", "make", "ask", "forever")), default="all", hidden=True)
def main(
    photos: Path, n: int, seed: int, n_people: int, seconds: float, rounds: int, out: Path | None, part: str
) -> None:
    whole = one_of_each(photos, n_people)
    if part == "forever":
        return without_end(People(whole), seed)
    if part == "make":
        for asked in made(whole, n, seed):
            pickle.dump(asked, sys.stdout.buffer)
        return sys.stdout.flush()
    if part == "ask":
        click.echo(json.dumps(figures(People(whole), received(sys.stdin.buffer, n), seconds)))
        return
    again = [
        sys.executable,
        __file__,
        str(photos),
        "--n",
        str(n),
        "--people",
        str(n_people),
        "--seconds",
        str(seconds),
        "--part",
    ]
    with tempfile.TemporaryDirectory() as folder:
        log, (path, marks) = Path(folder) / "log", trap_programs(Path(folder))
        with subprocess.Popen([*again, "make", "--seed", str(seed)], stdout=subprocess.PIPE) as maker:
            command = traced([*again, "ask"], log)
            done = subprocess.run(
                command,
                stdin=maker.stdout,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | FIXED | {"PATH": path},
                check=True,
            )
        found, marked = json.loads(done.stdout.splitlines()[-1]), sorted(each.name for each in marks.iterdir())
        seen = started(log) if log.exists() else None
    found["ends"], late = ends(lambda turn: [*again, "forever", "--seed", str(seed + turn)], rounds, seed)
    wrong = faults(found, seconds) + late + [f"the program {name} was started" for name in marked]
    if seen:
        wrong += [f"started: {line}" for line in (*seen.programs, *seen.by_decoders)]
        wrong += [] if seen.decoders else ["expected strace to see decoders, it saw none"]
    tell(found)
    click.echo(
        "every process was seen by strace" if seen else "strace is not installed: children were looked for in /proc"
    )
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        about = {"command": " ".join(sys.argv), "seed": seed, "strace": seen is not None, "load": os.getloadavg()}
        out.write_text(json.dumps(about | found | {"faults": wrong}, indent=1) + "\n")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
