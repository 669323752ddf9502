"""Readers that search an index while a writer changes it.

As a script, `python -m tests.many FOLDER SECONDS` prints how many answers were no commit's.
"""

from __future__ import annotations

import bisect
import json
import os
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from facegallery.indexer.opening import open_store
from facegallery.indexer.search.searcher import Hit, Searcher
from tests import crash, synthetic, writer
from tests.crash import fork
from tests.writer import FIRST, ROWS, XB, Model, Owners

READERS, K, ANEW = 8, 3, 200  # a reader opens the index anew after so many questions
QUERIES = np.concatenate([XB[::67], synthetic.vectors(4, 1, seed=12)])
SCORES = np.stack([np.sum(XB.astype(np.float64) * q.astype(np.float64), axis=1).astype(np.float32) for q in QUERIES])
ORDER = np.lexsort(
    (np.tile([row.face_id for row in ROWS], (len(QUERIES), 1)), -SCORES)
)  # of all faces there are, for each query
ANSWER = np.dtype(
    [("began", "f8"), ("ended", "f8"), ("question", "i4"), ("face", "i4", K), ("person", "u4", K), ("score", "f4", K)]
)
Line = tuple[int, int, float]  # face number, mark of the person, score


def mark(identity: str) -> int:
    return zlib.crc32(identity.encode())


def line(hit: Hit) -> Line:
    return writer.NUMBER[hit.face_id], mark(hit.identity), hit.score


def expected(owners: Owners, question: int) -> list[Line]:
    """By NumPy: for each query the K nearest people, then for each query the K nearest faces."""
    query, by_face = question % len(QUERIES), question >= len(QUERIES)
    found, seen = [], set()
    for face in ORDER[query].tolist():
        if face in owners and (by_face or owners[face] not in seen):
            seen.add(owners[face])
            found.append((face, mark(owners[face]), float(SCORES[query, face])))
            if len(found) == K:
                break
    return padded(found)


def padded(found: list[Line]) -> list[Line]:
    """Always K, where there are fewer people or faces."""
    return found + [(-1, 0, 0.0)] * (K - len(found))


def read(folder: Path, out: Path, seed: int, until: float) -> None:
    """Asks and keeps the answers, each with when it was asked and answered."""
    rng, answers = np.random.default_rng(seed), []
    while time.monotonic() < until:
        with Searcher(folder) as searcher:
            for _ in range(ANEW):
                question, began = int(rng.integers(2 * len(QUERIES))), time.monotonic()
                xq = QUERIES[question % len(QUERIES)][None]
                hits = searcher.search(xq, K, faces=question >= len(QUERIES))[0]
                ended = time.monotonic()
                answers.append((began, ended, question, *zip(*padded([line(hit) for hit in hits]), strict=True)))
                if ended > until:
                    break
    np.save(out, np.array(answers, ANSWER))


def change(folder: Path, out: Path, until: float) -> None:
    """Writes, and keeps when each change began and when it was done."""
    with open(out, "w") as file:
        writer.write(
            folder,
            Model(FIRST),
            1,
            lambda *note: print(json.dumps([time.monotonic(), *note]), file=file),
            lambda: time.monotonic() > until,
        )


def commits(journal: Path) -> tuple[list[Owners], list[float], list[float], Counter[str]]:
    """What was true after each change, when each began and when it was done, and how many there were of each verb."""
    model, states, begun, done, verbs = Model(FIRST), [FIRST], [], [], Counter[str]()
    for text in journal.read_text().splitlines():
        at, kind, what = json.loads(text)
        if kind == "begin":
            begun.append(at)
            continue
        done.append(at)
        model = model.after(what)
        states.append(model.owners)
        verbs[what[0]] += 1
    return states, begun, done, verbs


def wrong(answers: np.ndarray, states: list[Owners], begun: list[float], done: list[float]) -> int:
    """Count a reader's answers that are of no commit current at that time, or of one before the last answer's."""
    known: dict[tuple[int, int], list[Line]] = {}
    count, last = 0, 0
    for began, ended, question, *hits in answers.tolist():
        got = list(zip(*hits, strict=True))
        for state in range(max(last, bisect.bisect_right(done, began)), bisect.bisect_right(begun, ended) + 1):
            if (state, question) not in known:
                known[state, question] = expected(states[state], question)
            if got == known[state, question]:
                last = state
                break
        else:
            count += 1
    return count


def main() -> None:
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    crash.warm_up()
    club = folder / "club"
    assert crash.forked(lambda: writer.start(club)) == 0
    until = time.monotonic() + seconds
    pids = [fork(lambda: change(club, folder / "journal", until))]
    pids += [fork(lambda i=i: read(club, folder / f"answers-{i}.npy", i, until)) for i in range(READERS)]
    errors = sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    if errors:
        sys.exit(f"{errors} processes failed")
    states, begun, done, verbs = commits(folder / "journal")
    answers = [np.load(folder / f"answers-{i}.npy") for i in range(READERS)]
    with open_store(club) as gallery:
        generations = gallery.generation
    print(
        json.dumps(
            {
                "searches": sum(map(len, answers)),
                "wrong": sum(wrong(a, states, begun, done) for a in answers),
                "changes": len(done),
                "generations": generations,
                "verbs": verbs,
                "most faces": max(map(len, states)),
                "fewest searches of a reader": min(map(len, answers)),
                "answers across a commit": sum(
                    int(np.sum(np.searchsorted(done, a["began"]) != np.searchsorted(done, a["ended"]))) for a in answers
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
