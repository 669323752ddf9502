"""Does a server withstand damaged photos? Several clients send them to a search, with whole photos in between.

    python benchmarks/server/mutated.py PHOTOS --n 10000 --json benchmarks/results/mutated.json

PHOTOS are JPEGs of different people; `benchmarks/common/mutants.py` damages them. Enrolled are 10,000 made-up faces
and one face of each canary: a photo that is asked before the mutants and between them, and must get the same answer.
Seed and number make a mutant again. Exits with 1 where:

- an answer is neither 200 as in the OpenAPI document nor a problem of the expected kinds (503 `busy` is asked again);
- a canary gets another answer;
- fewer than nine of ten whole photos are recognised in another format (black and white excepted);
- a process of the server, other than a decoder, is not the same at the end;
- memory (PSS, summed) grows by more than a tenth from the second quarter of the run to the last.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import galleries, synthetic  # noqa: E402
from benchmarks.common.mutants import mutant  # noqa: E402
from benchmarks.common.rounds import evenly, files_of  # noqa: E402
from benchmarks.common.served import GROWTH, Server, held, processes, quarters  # noqa: E402
from benchmarks.common.traced import trap_programs  # noqa: E402
from benchmarks.server.canaries import SECONDS, Canaries, Told, ask, read  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402

REPLACED = ("the decoder", "took longer than")  # what is said of a photo whose decoder ended
OURS = ("cli.py", "facegallery/embedder/launch.py", "multiprocessing")  # processes of a server
RECOGNISED = 0.9  # share of whole photos in other formats in which the person is found
END_SECONDS = 10.0  # from SIGTERM at any moment
DECODER = "facegallery.embedder.photos.decode"
LOOK_SECONDS, MEMORY_SECONDS = 0.1, 1.0
CANARY_EVERY = 20  # mutants


@dataclass
class Watch:
    """Sample the server's processes, and its memory."""

    decoders: set[int] = field(default_factory=set)
    at_once: int = 0
    others: set[str] = field(default_factory=set)  # programs that are not the server's
    memory: list[tuple[float, float]] = field(
        default_factory=list
    )  # MB of the processes that last, and of those that decode

    def look(self, server: Server, ended: threading.Event) -> None:
        last = 0.0
        while not ended.wait(LOOK_SECONDS):
            found = processes(server.pid)
            decoders = {pid for pid, line in found.items() if DECODER in line}
            self.decoders |= decoders
            self.others |= {line for line in found.values() if line and not any(part in line for part in OURS)}
            self.at_once = max(self.at_once, len(decoders))
            if time.monotonic() - last >= MEMORY_SECONDS:
                last = time.monotonic()
                self.memory.append((held(found.keys() - decoders)["mb"], held(decoders)["mb"]))

    def quarters(self) -> dict[str, list[float]]:
        """Return the median MB in each quarter of the run."""
        if len(self.memory) < 4:
            raise SystemExit(
                f"expected a run of at least 4 s, memory was looked at {len(self.memory)} times: choose a larger --n"
            )
        parts = {
            "server": [a for a, _ in self.memory],
            "decoders": [b for _, b in self.memory],
            "all": [a + b for a, b in self.memory],
        }
        return {name: quarters(mb) for name, mb in parts.items()}


@contextmanager
def watched(server: Server) -> Iterator[Watch]:
    watch, ended = Watch(), threading.Event()
    thread = threading.Thread(target=watch.look, args=(server, ended))
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def lasting(server: Server) -> set[int]:
    """Return the processes of the server that no photo may end."""
    return {pid for pid, line in processes(server.pid).items() if line and DECODER not in line}


def one(
    server: Server,
    canaries: Canaries,
    connection: http.client.HTTPConnection,
    photos: Sequence[bytes],
    seed: int,
    number: int,
    odd: Path | None,
) -> Told:
    """Send a mutant of a canary; odd: folder that keeps it if its answer is wrong."""
    bad, began = mutant(photos, seed, number), time.monotonic()
    try:
        answer, busy = ask(server, connection, bad.data)
    except TimeoutError:
        connection.close()
        return Told(number, bad.kind, "none", time.monotonic() - began, wrong=f"no answer within {SECONDS:g} s")
    named, wrong = read(answer)
    wrong = wrong or canaries.mistaken(answer, bad.source)
    told = Told(
        number,
        bad.kind,
        named,
        time.monotonic() - began,
        busy,
        any(text.encode() in answer.body for text in REPLACED),
        wrong,
    )
    if wrong and odd:
        odd.mkdir(parents=True, exist_ok=True)
        (odd / f"{seed}-{number}").write_bytes(bad.data)
    return told


def run(
    server: Server, photos: Sequence[bytes], canaries: Canaries, n: int, seed: int, clients: int, odd: Path | None
) -> list[Told]:
    """Let each client send the next photo when the last one is answered."""
    numbers, told, lock = iter(range(n)), list[Told](), threading.Lock()

    def work() -> None:
        connection = server.connect(SECONDS)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            told.append(one(server, canaries, connection, photos, seed, number, odd))
            if number % CANARY_EVERY == 0:
                told.append(canaries.ask(connection, number // CANARY_EVERY))
            if number % CANARY_EVERY == CANARY_EVERY // 2:
                told.append(canaries.ask_in_any_format(connection, seed, number))

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(work) for _ in range(clients)]:
            done.result()
    return told


def figures_of(told: Sequence[Told], watch: Watch, canaries: Canaries, seconds: float) -> dict[str, Any]:
    mutants = [each for each in told if not each.kind.startswith("canary")]
    kinds: dict[str, Counter[str]] = {}
    for each in mutants:
        kinds.setdefault(each.kind, Counter())[each.answer] += 1
    return {
        "mutants": len(mutants),
        "seconds": seconds,
        "rate": len(told) / seconds,
        "answers": dict(Counter(each.answer for each in mutants).most_common()),
        "kinds": {kind: dict(kinds[kind]) for kind in sorted(kinds)},
        "busy": sum(each.busy for each in told),
        "canaries": canaries.asked,
        "canary_scores_apart": canaries.worst,
        "in_other_formats": canaries.in_other_formats,
        "missed": sorted(canaries.missed),
        "recognised": 1 - len(canaries.missed) / max(1, canaries.in_other_formats),
        "others": sorted(watch.others),
        "decoders": len(watch.decoders),
        "decoders_replaced": len(watch.decoders) - watch.at_once,
        "answers_of_replaced": sum(each.replaced for each in told),
        "memory_mb": {"quarters": watch.quarters(), "most": max(map(sum, watch.memory))},
        "slowest": [asdict(each) for each in sorted(told, key=lambda each: -each.seconds)[:10]],
        "wrong": [asdict(each) for each in told if each.wrong],
    }


def faults(found: Mapping[str, Any], before: set[int], after: set[int], ready: int) -> list[str]:
    """List what was not as expected."""
    told = [f"{each['kind']}, number {each['number']}: {each['answer']}: {each['wrong']}" for each in found["wrong"]]
    if before != after or ready != 200:
        told.append(
            f"expected the processes {sorted(before)} at the end and /readyz to be 200, "
            f"received {sorted(after)} and {ready}"
        )
    told += [f"a program that is not the server's was started: {line}" for line in found["others"]]
    if found["recognised"] < RECOGNISED:
        told.append(
            f"expected {RECOGNISED:.0%} of whole photos in other formats to be recognised, "
            f"received {found['recognised']:.0%}"
        )
    _, second, _, last = found["memory_mb"]["quarters"]["all"]
    if last > GROWTH * second:
        told.append(
            f"expected memory to stay below {GROWTH:g} times that of the second quarter, {second:.0f} MB; "
            f"it was {last:.0f} MB in the last"
        )
    return told


def ends(root: Path, port: int, photos: Sequence[bytes], rounds: int, seed: int) -> list[float]:
    """Return seconds from SIGTERM to the end, for servers that start or answer mutants at that moment."""
    pick, took = random.Random(seed), list[float]()
    for turn in range(rounds):
        ready = turn % 3 > 0
        with Server(root, "made", port, ready=ready) as server, ThreadPoolExecutor(4) as pool:
            numbers = itertools.count()

            def send(server: Server = server, numbers: Iterator[int] = numbers) -> None:
                connection = server.connect(SECONDS)
                with suppress(OSError, http.client.HTTPException):
                    while server.answer(
                        connection, "POST", server.path, mutant(photos, seed, next(numbers)).data, "image/jpeg"
                    ).status:
                        pass

            for _ in range(4 if ready else 0):
                pool.submit(send)
            time.sleep(pick.uniform(0, 5))
            began = time.monotonic()
            server.stop()
            took.append(time.monotonic() - began)
    return took


def tell(found: Mapping[str, Any]) -> None:
    rate = f"{found['seconds']:.0f} s: {found['rate']:.1f}/s"
    click.echo(f"{found['mutants']} mutants and {found['canaries']} canaries in {rate}")
    for answer, count in found["answers"].items():
        click.echo(f"{answer}: {count}")
    click.echo(
        f"503 busy, asked again: {found['busy']}; canaries' scores at most {found['canary_scores_apart']:.4f} apart"
    )
    click.echo(f"decoders replaced: {found['decoders_replaced']}, which {found['answers_of_replaced']} answers say")
    memory = found["memory_mb"]
    for name, medians in memory["quarters"].items():
        click.echo(f"memory by quarters, {name}: {', '.join(f'{mb:.0f}' for mb in medians)} MB")
    click.echo(f"memory, all, at most: {memory['most']:.0f} MB")
    click.echo(f"whole photos in other formats: {found['in_other_formats']}, recognised: {found['recognised']:.0%}")
    for missed, count in Counter(found["missed"]).items():
        click.echo(f"not recognised: {missed} ({count})")
    click.echo(f"seconds from SIGTERM to the end: {', '.join(f'{took:.1f}' for took in found['ends'])}")
    for each in found["slowest"][:3]:
        click.echo(f"slowest: {each['seconds']:.1f} s, {each['kind']}, number {each['number']}: {each['answer']}")


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True))
@click.option("--n", default=10_000, show_default=True, help="Mutants.")
@click.option("--seed", default=0, show_default=True)
@click.option("--clients", default=8, show_default=True)
@click.option("--canaries", "n_canaries", default=20, show_default=True, help="Photos that are asked between them.")
@click.option("--model", default="msceleb", show_default=True)
@click.option("--faces", default=10_000, show_default=True, help="Enrolled.")
@click.option("--workers", default=1, show_default=True, help="Processes of the server.")
@click.option("--port", default=8740, show_default=True)
@click.option(
    "--ends", "rounds", default=6, show_default=True, help="Servers that are sent SIGTERM at random moments afterwards."
)
@click.option("--odd", type=click.Path(path_type=Path), help="Keep mutants whose answers are wrong in this folder.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all figures.")
def main(
    photos: Path,
    n: int,
    seed: int,
    clients: int,
    n_canaries: int,
    model: str,
    faces: int,
    workers: int,
    port: int,
    rounds: int,
    odd: Path | None,
    out: Path | None,
) -> None:
    files = [file for file in files_of(photos) if file.endswith(".jpg")]
    whole = [Path(file).read_bytes() for file in evenly(files, n_canaries)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PATH"], marks = trap_programs(Path(folder))
        galleries.make(Path(folder) / "made", faces, synthetic.profile(model).d, open_model(model).spec)
        with Server(Path(folder), "made", port, ("--workers", str(workers))) as server:
            canaries = Canaries(server, whole)
            before, began = lasting(server), time.monotonic()
            with watched(server) as watch:
                told = run(server, whole, canaries, n, seed, clients, odd)
            seconds = time.monotonic() - began
            after, ready = lasting(server), server.ask(server.connect(SECONDS), "GET", "/readyz")
        marked = sorted(mark.name for mark in marks.iterdir())
        late = ends(Path(folder), port, whole, rounds, seed)
    found = figures_of(told, watch, canaries, seconds) | {"ends": late}
    wrong = faults(found, before, after, ready) + [f"the program {name} was started" for name in marked]
    wrong += [
        f"expected an end within {END_SECONDS:g} s of SIGTERM, it took {took:.1f} s"
        for took in late
        if took > END_SECONDS
    ]
    tell(found)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "command": " ".join(sys.argv),
            "seed": seed,
            "clients": clients,
            "faces": faces,
            "model": model,
            "load": os.getloadavg(),
        }
        out.write_text(json.dumps(about | found | {"faults": wrong}, indent=1) + "\n")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
