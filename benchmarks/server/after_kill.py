"""Check that a server holds what it acknowledged, and nothing else, after it was killed and started again."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common.callers import Caller, search_photo
from benchmarks.common.clients import check_receipt, check_refused, faces_of, headers_of
from benchmarks.common.ledger import NOBODY, Tally, Write
from benchmarks.common.served import ROOT, Server
from facegallery.indexer.upkeep.traces import files_below

INDEX = "soak"
SAMPLED = 40  # people and photos that are searched for after a kill
RECEIPTS = 3  # the last ones, by which traces are looked for again after a kill
NAMES, IDS = re.compile(rb"soak \d{8}"), re.compile(rb"[0-9a-f]{32}")


def command(*arguments: str, environment: dict[str, str]) -> dict[str, Any]:
    """Run a command; return its JSON answer, with its exit status as `status`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments, "--json"], capture_output=True, text=True, env=environment
    )
    try:
        return json.loads(done.stdout) | {"status": done.returncode}
    except ValueError:
        raise SystemExit(
            f"expected `{arguments[0]}` to answer, it ended with {done.returncode}: {done.stderr[-1000:]}"
        ) from None


@contextmanager
def noted(tally: Tally, what: str) -> Iterator[None]:
    """Note an error and continue with the next check."""
    try:
        yield
    except Exception as error:
        tally.note(what, error)


def settle(c: Caller, write: Write) -> str:
    """Find whether an unanswered change was 'done' wholly, or 'not done' at all.

    Then send it again, as the docs say, until it is done.
    """
    found = {name: faces_of(c, name) for name in write.before}
    assert found in (write.before, write.after), (
        f"{write.verb} was done by half: {write.before} -> {found}, not {write.after}"
    )
    was_done = found == write.after
    answer = c.ask(
        write.verb, "POST", write.path, write.body, ("200", "409 in-work", "409 done"), headers_of(write, write.mark)
    )
    if answer.label == "409 in-work" and (write.verb == "forget" or not was_done):
        answer = c.ask(write.verb, "POST", write.path, write.body, headers=headers_of(write, write.mark[::-1]))
    found = {name: faces_of(c, name) for name in write.before}
    assert found == write.after, f"{write.verb} was asked for again: expected {write.after}, received {found}"
    c.ledger.acknowledge(write)
    if write.verb == "forget":
        check_receipt(c, NOBODY if was_done else write.lost, answer)  # the ids of who is gone already are nowhere
    return "done" if was_done else "not done"


def check_people(c: Caller, base: dict[str, int]) -> int:
    """Check that the people are those acknowledged, with as many faces, and ours with exactly those faces."""
    expected = base | {name: len(faces) for name, faces in c.ledger.faces.items()}
    found = {one.identity: one.faces for one in c.gallery.people()}
    differing = {
        name: (expected.get(name), found.get(name))
        for name in expected.keys() | found.keys()
        if expected.get(name) != found.get(name)
    }
    assert not differing, f"expected people with so many faces, received others: {differing}"
    for name, faces in c.ledger.faces.items():
        assert (theirs := faces_of(c, name)) == faces, (
            f"expected {name!r} to have {sorted(faces)}, received {sorted(theirs)}"
        )
    lines = c.ask("metrics", "GET", "/metrics").body.decode().splitlines()
    counted = next(
        float(line.split()[-1]) for line in lines if line.startswith(f'facegallery_faces{{index="{INDEX}"}}')
    )
    assert counted == sum(expected.values()), (
        f"expected {sum(expected.values())} faces in the metrics, received {counted}"
    )
    return len(found)


def check_searches(c: Caller) -> int:
    """Search for people who stay, for ours, and for forgotten ones, who must be refused and not be found."""
    for person, photo in random.sample(c.world.people, min(SAMPLED, len(c.world.people))):
        search_photo(c, photo, person)
    ours = random.sample(sorted(c.ledger.faces), min(SAMPLED, len(c.ledger.faces)))
    for name in ours:
        search_photo(c, c.world.photos[c.ledger.photo_of[min(c.ledger.faces[name])][0]], name)
    for number, stamp in c.ledger.refused:
        check_refused(c, number, stamp)
    return min(SAMPLED, len(c.world.people)) + len(ours) + len(c.ledger.refused)


def check_jobs(c: Caller) -> dict[str, str]:
    """Check that no job of before the kill still runs."""
    found = {id: c.typed.job(id) for id in c.ledger.jobs}
    assert all(job.state != "running" for job in found.values()), f"expected jobs that have ended, received {found}"
    c.ledger.jobs.clear()
    return {f"{job.kind} {id}": f"{job.state}: {job.detail}" for id, job in found.items()}


def check_files(c: Caller, server: Server, root: Path) -> dict[str, Any]:
    """Check by the command and by all bytes that the index is sound and that it and server.db hold nobody forgotten."""
    sound = command("verify", INDEX, environment=server.environment)
    assert not sound["status"] and not sound["problems"] and not sound["rebuilt"], (
        f"expected an index that is sound, received {sound}"
    )
    receipts = sorted(root.glob(f"{INDEX}-forgotten-*.json"), key=lambda path: path.stat().st_mtime)[-RECEIPTS:]
    for receipt in receipts:
        looked = command("verify", INDEX, "--forgotten", str(receipt), environment=server.environment)
        assert not looked["status"] and not looked["found"], f"expected no trace by {receipt.name}, received {looked}"
    names, ids = (
        {name.encode() for name in c.ledger.forgotten_names},
        {face.encode() for face in c.ledger.forgotten_faces},
    )
    files = files_below(root / INDEX)
    left: dict[str, list[str]] = {}
    for path in [*files, *server.data.glob("server.db*")]:
        data = path.read_bytes()
        traces = names.intersection(NAMES.findall(data)) | (
            ids.intersection(IDS.findall(data)) if path in files else set()
        )
        left |= {path.name: sorted(trace.decode() for trace in traces)} if traces else {}
    assert not left, f"expected no trace of those who were forgotten, found {left}"
    return {"forgotten": len(names), "files": len(files), "receipts": len(receipts), "faces": sound["faces"]}


def check_all(c: Caller, server: Server, root: Path, base: dict[str, int]) -> dict[str, Any]:
    """Check all that must hold while no client asks; note what does not."""
    told: dict[str, Any] = {"flights": [], "people": 0, "ours": 0, "searches": 0, "jobs": {}, "files": {}}
    told["left_over"] = len(
        list((root / INDEX).glob("_tmp-*"))
    )  # by a build that was killed; the next change removes it
    for write in list(c.ledger.flights.values()):
        with noted(c.tally, f"a {write.verb} without an answer"):
            told["flights"].append(f"{write.verb}: {settle(c, write)}")
    with noted(c.tally, "people"):
        told["people"] = check_people(c, base)
    with noted(c.tally, "searches"):
        told["searches"] = check_searches(c)
    with noted(c.tally, "jobs"):
        told["jobs"] = check_jobs(c)
    with noted(c.tally, "files"):
        told["files"] = check_files(c, server, root)
    return told | {"ours": len(c.ledger.faces)}
