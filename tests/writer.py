"""A writer that changes an index by chance, and the model of what the index must hold after each commit."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from facegallery.embedder.dataset.row import Row
from facegallery.indexer.build import build
from facegallery.indexer.derived import derive
from facegallery.indexer.opening import open_store
from facegallery.indexer.store.store import Store
from tests import crash, synthetic
from tests.crash import fork

FACES, MOST = 400, 150  # faces there are in the world, and about so many that are enrolled at once
XB = synthetic.vectors(FACES // 4, 4, seed=11)
ROWS = [synthetic.row(f"world/{i}.jpg", None, x) for i, x in enumerate(XB)]
NUMBER = {row.face_id: i for i, row in enumerate(ROWS)}
NOT_DONE, DONE = 0, 10  # exit codes of a look at what is left
Owners = dict[int, str]  # face number -> its person
FIRST: Owners = {i: f"person {i // 4}" for i in range(MOST // 2)}  # what an index begins with
Change = list  # verb, then what it is about: JSON


def rows(owners: Owners) -> list[Row]:
    """These faces as `add` takes them."""
    return [
        synthetic.row(ROWS[i].image, name, XB[i], crop=synthetic.png(b"png" * (50 + i))) for i, name in owners.items()
    ]


class Model:
    """Who has which face, now and before each change that `undo` could take back."""

    def __init__(self, owners: Owners):
        self.states = [owners]

    @property
    def owners(self) -> Owners:
        return self.states[-1]

    def after(self, change: Change) -> Model:
        """Of the same index, one change later."""
        new = Model(self.owners)
        verb, *about = change
        new.states = (
            self.states[:-1]
            if verb == "undo"
            else self.states
            if verb == "compact"
            else [*self.states, self._changed(verb, about)]
        )
        return new

    def _changed(self, verb: str, about: list) -> Owners:
        match verb, about:
            case "add", [faces, name]:
                return self.owners | dict.fromkeys(faces, name)
            case "remove", [name]:
                return {i: owner for i, owner in self.owners.items() if owner != name}
            case "remove_face", [face]:
                return {i: owner for i, owner in self.owners.items() if i != face}
            case (("rename" | "merge"), [old, new]):
                return {i: new if owner == old else owner for i, owner in self.owners.items()}
        raise ValueError(verb)

    def draw(self, rng: np.random.Generator) -> Change:
        """A change that could be next."""
        people, spare = sorted(set(self.owners.values())), sorted(set(range(FACES)) - set(self.owners))
        few = len(people) < 6 or len(self.owners) < MOST / 2
        if spare and (few or (rng.random() < 0.4 and len(self.owners) < MOST)):
            faces = rng.choice(spare, min(len(spare), rng.integers(1, 12)), replace=False).tolist()
            return ["add", faces, f"person {rng.integers(60)}"]
        if len(people) < 2:
            return ["compact"]
        one, other = rng.choice(people, 2, replace=False).tolist()
        verb = rng.choice(["remove", "remove_face", "rename", "merge", "undo", "compact"])
        match verb:
            case "remove":
                return ["remove", one]
            case "remove_face":
                return ["remove_face", int(rng.choice(list(self.owners)))]
            case "rename":
                return ["rename", one, f"renamed {rng.integers(1 << 30)}"]
            case "merge":
                return ["merge", one, other]
        return [str(verb)] if verb == "compact" or len(self.states) > 1 else ["compact"]


def perform(gallery: Store, change: Change) -> None:
    """The change itself."""
    match change:
        case ["add", faces, name]:
            assert gallery.add(rows(dict.fromkeys(faces, name))).added == len(faces)
        case ["remove_face", face]:
            gallery.remove(face_id=ROWS[face].face_id)
        case ["compact"]:
            derive.compact(gallery)
        case [verb, *names]:
            getattr(gallery, verb)(*names)


def write(
    folder: Path,
    model: Model,
    seed: int,
    note: Callable[[str, Change], object],
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Change the index until `until` holds or the process is killed; note a change before ("begin") and after ("done").

    By its seed, in one connection or in one for each change; compacts by itself, often.
    """
    rng = np.random.default_rng(seed)
    derive.LEAST = 20
    galleries = _galleries(folder, one=bool(seed % 2))
    while not until():
        change = model.draw(rng)
        note("begin", change)
        perform(next(galleries), change)
        note("done", change)
        model = model.after(change)
    galleries.close()


def _galleries(folder: Path, one: bool) -> Iterator[Store]:
    while True:
        with open_store(folder, write=True) as gallery:
            yield gallery
            while one:
                yield gallery


def start(folder: Path) -> None:
    """A new index of FIRST."""
    build(synthetic.write(folder.parent / "first", rows(FIRST)), folder)


# killed at random moments -----------------------------------------------------


def kills(folder: Path, seeds: range, seconds: float = 0.12) -> Counter[str]:
    """Start a writer for each seed and kill it at a random moment; raise AssertionError if the index is wrong."""
    assert crash.forked(lambda: start(folder)) == 0
    model, counts = Model(FIRST), Counter[str]()
    for seed in seeds:
        lines, pending = _killed(folder, model, seed, np.random.default_rng(seed).uniform(0, seconds)), None
        for kind, change in lines:
            model, pending = (model.after(change), None) if kind == "done" else (model, change)
        counts["kills"] += 1
        counts["acknowledged"] += len(lines) // 2
        counts[f"during {pending[0]}" if pending else "in between"] += 1
        took_place = os.waitstatus_to_exitcode(os.waitpid(fork(lambda m=model, p=pending: _check(folder, m, p)), 0)[1])
        assert took_place in (NOT_DONE, DONE), f"kill {seed}, during {pending}"
        if took_place == DONE and pending:
            model = model.after(pending)
            counts["committed, unacknowledged"] += pending[0] != "compact"
    return counts


def _killed(folder: Path, model: Model, seed: int, after: float) -> list[tuple[str, Change]]:
    """What a writer noted before it was killed."""
    receive, send = os.pipe()
    pid = fork(lambda: write(folder, model, seed, lambda *line: os.write(send, json.dumps(line).encode() + b"\n")))
    os.close(send)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    with os.fdopen(receive) as file:
        return [json.loads(line) for line in file]


def _check(folder: Path, model: Model, pending: Change | None) -> None:
    """Ends this process with DONE where the pending change took place, NOT_DONE where it did not."""
    held = crash.content(folder)
    assert held is not None
    now = {NUMBER[line[1]]: line[2] for line in held["faces"]}
    done = pending is not None and now != model.owners
    assert now == (model.after(pending) if done else model).owners, pending
    assert all(line[9] == XB[NUMBER[line[1]]].tobytes() for line in held["faces"])
    assert len(held["log"]) == len((model.after(pending) if done else model).states) - 1
    crash.is_sound(folder, held)
    os._exit(DONE if done else NOT_DONE)


def main() -> None:
    folder, n = Path(sys.argv[1]), int(sys.argv[2])
    crash.warm_up()
    print(json.dumps(crash.in_lanes(lambda lane: kills(folder / str(lane) / "club", range(lane, n, crash.LANES)))))


if __name__ == "__main__":
    main()
