"""Does a server stay right, and its memory level, under mixed load? Is all that it acknowledged there after kill -9?

    python benchmarks/server/soak.py PHOTOS --minutes 30 --kills 3 --json benchmarks/results/soak.json

PHOTOS is a folder of LFW. The commands enrol some people's photos with their crops, and made-up faces beside them
(`benchmarks/common/synthetic.py`). Two processes serve them. Clients (`benchmarks/common/clients.py`) search by photo
and by vector, enrol faces of other people's photos, correct and forget them, compact and calibrate, and read lists,
crops and metrics, all at once. The next question must see every acknowledged change, and no answer may name a person
who is gone. A request that is refused for now (429, 503) is counted and sent again; any other unexpected answer is an
error, and makes the run fail at its end.

Memory is that of all processes of the server, shared pages counted once (PSS). The first quarter is left out as
warming up. Memory is flat where the median of the last quarter is at most 10 % above that of the second.

Then, while all clients ask on, all processes are killed at once, and the server starts again over what is on the
disk. Every person must have exactly the acknowledged faces. An unanswered change must be done wholly or not at all,
and can be sent again. No byte of a forgotten name or face may be in any file, and `verify` must find the index sound.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import galleries  # noqa: E402
from benchmarks.common.callers import Caller, hits_of  # noqa: E402
from benchmarks.common.clients import Clients, named  # noqa: E402
from benchmarks.common.ledger import Ledger, Tally, World  # noqa: E402
from benchmarks.common.served import GROWTH, Server, held, processes, quarters  # noqa: E402
from benchmarks.server.after_kill import INDEX, check_all, command  # noqa: E402
from facegallery.accounts import Accounts  # noqa: E402
from facegallery.client import Client  # noqa: E402
from facegallery.embedder.dataset.dataset import DataSet  # noqa: E402
from facegallery.indexer.opening import open_store  # noqa: E402
from facegallery.indexer.upkeep.compact import compact_and_drop  # noqa: E402
from facegallery.results import as_document  # noqa: E402

EACH = 3  # photos of a person, at most
HOPELESS = 1000  # wrong answers after which a run ends
SETTLED = 10  # minutes from which a run's memory must be flat


# what is served -------------------------------------------------------------


def build(photos: Path, root: Path, people: int, pool: int, extra: int) -> World:
    """Build an index of `people` people and `extra` made-up faces, and keep photos of `pool` others to enrol later."""
    folders = sorted(folder for folder in photos.iterdir() if folder.is_dir())
    if len(folders) < people + pool:
        raise SystemExit(
            f"expected {people + pool} people or more in {photos}, found {len(folders)}: "
            "give fewer --people or a smaller --pool"
        )
    chosen = random.Random(0).sample(folders, people + pool)
    for folder in chosen[:people]:
        (root / "photos" / folder.name).mkdir(parents=True)
        for photo in sorted(folder.glob("*.jpg"))[:EACH]:
            shutil.copy(photo, root / "photos" / folder.name)
    environment = os.environ | {"FACEGALLERY_INDEXES": str(root)}
    for arguments in (
        ("embed", str(root / "photos"), "--out", str(root / "vectors")),
        ("build-index", str(root / "vectors"), "--name", INDEX),
    ):
        if command(*arguments, environment=environment)["status"]:
            raise SystemExit(f"expected `{arguments[0]}` to end well, it did not")
    rows = [
        row for row in DataSet(root / "vectors").table(["image", "identity", "vector"]).to_pylist() if row["vector"]
    ]
    with open_store(root / INDEX, write=True) as made:
        if extra:
            made.add(galleries.rows(extra, made.spec.dimension))
        compact_and_drop(made, 0)
    known = [(row["identity"], (root / "photos" / row["image"]).read_bytes()) for row in rows]
    vectors = [(row["identity"], np.asarray(row["vector"], np.float32).tolist()) for row in rows]
    return World(INDEX, known, vectors, [min(folder.glob("*.jpg")).read_bytes() for folder in chosen[people:]])


def with_faces(client: Client, photos: list[bytes]) -> list[bytes]:
    """Keep the photos whose first face is found."""
    found = client.gallery(INDEX).search(photos).photos
    return [photo for photo, answer in zip(photos, found, strict=True) if hits_of(as_document(answer))]


# load -----------------------------------------------------------------------


def watch(server: Server, tally: Tally, seconds: float, every: float) -> list[dict[str, float]]:
    """Sample the memory of the server while clients run."""
    samples: list[dict[str, float]] = []
    began, said, first = time.monotonic(), 0.0, list(processes(server.pid))
    while (now := time.monotonic() - began) < seconds:
        if tally.wrongs > HOPELESS:
            raise SystemExit("\n".join(["expected a server that answers, all too much is wrong:", *tally.wrong[:10]]))
        alive = list(processes(server.pid))
        samples.append({"seconds": now, "processes": len(alive), **held(alive)})
        if lost := set(first) - set(alive):
            tally.note("processes", AssertionError(f"expected those that serve to live, {lost} ended"))
            first = alive
        if now - said >= 60:
            said = now
            requests = sum(map(len, tally.times.values()))
            click.echo(
                f"{now / 60:.0f} min: {requests:,} answers, {tally.wrongs} wrong, {samples[-1]['mb']:.0f} MB", err=True
            )
        time.sleep(min(every, max(0.0, seconds - now)))
    return samples


def level(samples: list[dict[str, float]]) -> dict[str, float]:
    """Return the medians of the quarters, the most, and the growth from the second quarter to the last."""
    found = {
        f"{key}_{name}": median
        for key in ("mb", "anonymous_mb", "files", "processes")
        for name, median in zip(
            ("first", "second", "third", "last"), quarters([one[key] for one in samples]), strict=True
        )
    }
    return found | {"mb_most": max(one["mb"] for one in samples), "growth": found["mb_last"] / found["mb_second"]}


# the run --------------------------------------------------------------------


def soak(
    world: World, server: Server, root: Path, minutes: float, kills: int, round_seconds: float, every: float
) -> dict[str, Any]:
    """Run the load over a server that is ready; return all figures."""
    with Client(f"http://127.0.0.1:{server.port}", server.key) as client:
        world = World(INDEX, world.people, world.vectors, with_faces(client, list(world.photos)))
        base = {one.identity: one.faces for one in client.gallery(INDEX).people()}
    accounts = Accounts(server.data / "server.db")
    keys = {name: accounts.make_key(name, role.scope, role.rate) for name, role in named()}
    after = accounts.make_key("after", "admin", 0)
    accounts.close()
    ledger, tally = Ledger(len(world.photos)), Tally()
    clients = Clients(server.port, keys, world, ledger, tally)
    samples = watch(server, tally, 60 * minutes, every)
    found: dict[str, Any] = {
        "pool": len(world.photos),
        "requests": tally.summary(),
        "refused": dict(tally.refused),
        "memory": level(samples),
        "samples": samples,
        "rounds": [],
    }
    for i in range(max(1, kills)):
        began = time.monotonic()
        if i:
            clients = Clients(server.port, keys, world, ledger, tally)
            time.sleep(round_seconds)
        if kills:
            clients.kill(server.kill)
            began = time.monotonic()
            server.start()
        else:
            clients.end()
        told: dict[str, Any] = {"killed": bool(kills), "ready_s": time.monotonic() - began}
        checker = Caller("after", server.port, after, world, ledger, tally)
        found["rounds"].append(told | check_all(checker, server, root, base))
        checker.close()
        ledger.lay_open()
    server.stop()
    if minutes >= SETTLED and found["memory"]["growth"] > GROWTH:
        tally.note("memory", AssertionError(f"expected it to be flat, it grew {found['memory']['growth']:.2f} x"))
    return found | {
        "acknowledged": dict(ledger.acknowledged),
        "checks": dict(tally.checks),
        "wrongs": tally.wrongs,
        "wrong": tally.wrong,
    }


def tell(found: dict[str, Any]) -> None:
    for kind, one in found["requests"].items():
        click.echo(f"{kind}: {one['answers']:,}, p50 {one['p50_ms']:.0f} ms, p99 {one['p99_ms']:.0f} ms")
    click.echo(f"refused for now: {found['refused'] or 'none'}")
    m = found["memory"]
    quarters_mb = ", ".join(f"{m[f'mb_{quarter}']:.0f}" for quarter in ("first", "second", "third", "last"))
    verdict = "flat" if m["growth"] <= GROWTH else "it grows"
    click.echo(
        f"memory by quarters: {quarters_mb} MB (last / second {m['growth']:.3f}: {verdict}), "
        f"at most {m['mb_most']:.0f}; "
        f"in no file: {m['anonymous_mb_second']:.0f} and {m['anonymous_mb_last']:.0f} MB; "
        f"files open: {m['files_second']:.0f} and {m['files_last']:.0f}"
    )
    click.echo(f"acknowledged: {', '.join(f'{n:,} {verb}' for verb, n in sorted(found['acknowledged'].items()))}")
    for check, n in sorted(found["checks"].items()):
        click.echo(f"{check}: {n:,}")
    for i, one in enumerate(found["rounds"]):
        how = f"kill {i + 1}: ready after {one['ready_s']:.1f} s" if one["killed"] else "at the end"
        click.echo(
            f"{how}; without an answer: {', '.join(one['flights']) or 'none'}; "
            f"{one['people']:,} people as acknowledged, "
            f"{one['ours']} of them face by face; {one['searches']} searches; "
            f"running jobs: {', '.join(f'{job} {end}' for job, end in one['jobs'].items()) or 'none'}; "
            f"unfinished builds: {one['left_over']}"
        )
        if files := one["files"]:
            click.echo(
                f"  {files['forgotten']} forgotten names without a trace in {files['files']} files, "
                f"nor by the last {files['receipts']} receipts; {files['faces']:,} faces, sound"
            )
    click.echo(f"wrong: {found['wrongs'] or 'nothing'}")
    for line in found["wrong"]:
        click.echo(f"  {line}")
    click.echo(f"the server said: {found['log'].strip() or 'nothing'}")


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--minutes", default=30.0, show_default=True, help="Of the load, before the first kill.")
@click.option("--kills", default=3, show_default=True, help="Rounds of load that end with kill -9; 0: it ends without.")
@click.option(
    "--round-seconds", default=15.0, show_default=True, help="Of load, before the second kill and those that follow."
)
@click.option("--people", default=500, show_default=True, help="Enrolled, who stay.")
@click.option(
    "--pool", default=300, show_default=True, help="Other people, who are enrolled and forgotten again and again."
)
@click.option("--extra", default=20_000, show_default=True, help="Made-up faces beside them.")
@click.option("--workers", default=2, show_default=True, help="Processes that serve.")
@click.option("--every", default=10.0, show_default=True, help="Seconds from one look at the memory to the next.")
@click.option("--port", default=8710, show_default=True)
@click.option("--log", type=click.Path(path_type=Path), help="What the server says of faults; else its end is printed.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all figures.")
def main(
    photos: Path,
    minutes: float,
    kills: int,
    round_seconds: float,
    people: int,
    pool: int,
    extra: int,
    workers: int,
    every: float,
    port: int,
    log: Path | None,
    out: Path | None,
) -> None:
    if 60 * minutes < 8 * every:
        raise click.UsageError(
            f"expected time for 8 looks at the memory, received {minutes:g} minutes: give a smaller --every"
        )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world = build(photos, root, people, pool, extra)
        said = log or root / "log"
        server = Server(root, INDEX, port, ("--workers", str(workers)), said)
        asked = {
            "command": " ".join(sys.argv),
            "minutes": minutes,
            "people": people,
            "extra": extra,
            "workers": workers,
        }
        try:
            found = asked | {"load": os.getloadavg()} | soak(world, server, root, minutes, kills, round_seconds, every)
        finally:
            server.kill()
        found["log"] = said.read_text()[-4000:]
    tell(found)
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n")
    if found["wrongs"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
