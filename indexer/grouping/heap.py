"""The unnamed faces of a gallery, as grouping sees them: groups that stay, by their means, and single faces."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from facegallery.indexer.grouping import kept
from facegallery.indexer.grouping.linkage import Start
from facegallery.indexer.store.group_sums import Single
from facegallery.indexer.store.store import Store
from facegallery.indexer.store.unnamed import Rejection

MOST_OF_PHOTO = 1000  # faces of a photo that are kept apart


@dataclass
class Heap:
    """Groups that stay, then single faces: those that are in no such group. Ignored faces are not among them.

    numbers: of the groups, ascending. means: float32 (g + s, d). sizes: faces, int64 (g + s,). asked: bool (g + s,),
    those that were not compared with all the others at the last grouping. photos: of each group, those of its photos
    that show single faces, too.
    """

    numbers: list[int]
    singles: list[Single]
    means: np.ndarray
    sizes: np.ndarray
    asked: np.ndarray
    photos: dict[int, set[str]]

    @classmethod
    def read(cls, store: Store, cut: float | None, *, anew: bool) -> Heap:
        """Read the unnamed faces of a gallery; with `anew` only groups that the user confirmed stay.

        cut: by which they will be grouped; None where it is not known yet, and all are asked.
        """
        numbers = store.held_numbers(confirmed=anew)
        sums, sizes, known = store.group_sums(numbers)
        singles, xb = store.singles(confirmed=anew)
        compared = kept.compared(store, cut)
        ids = np.array([one.id for one in singles], np.int64)
        if compared is None:
            asked = np.ones(len(numbers) + len(singles), bool)
        else:
            asked = np.concatenate([~known, np.isin(ids, compared, invert=True)])
        means = np.concatenate([sums, xb])
        means[: len(sizes)] /= sizes[:, None]
        return cls(
            numbers,
            singles,
            means,
            np.concatenate([sizes, np.ones(len(singles), np.int64)]),
            asked,
            store.photos_of_groups({one.photo for one in singles}, confirmed=anew) if numbers else {},
        )

    def start(self, rejections: Sequence[Rejection]) -> Start:
        """Return what grouping starts from: what the user said, and that faces of one photo are several people."""
        held = len(self.numbers)
        shown = Counter(face.photo for face in self.singles)
        also = set().union(*self.photos.values())
        of_photo: dict[str, list[int]] = defaultdict(list)
        for node, face in enumerate(self.singles, held):
            if shown[face.photo] <= MOST_OF_PHOTO and (shown[face.photo] > 1 or face.photo in also):
                of_photo[face.photo].append(node)
        apart = [(a, b) for nodes in of_photo.values() for i, a in enumerate(nodes) for b in nodes[:i]]
        for node, number in enumerate(self.numbers):
            apart += [(node, face) for photo in self.photos.get(number, ()) for face in of_photo.get(photo, ())]
        face_of = {face.face_id: node for node, face in enumerate(self.singles, held)} if rejections else {}
        in_group = self._nodes_of({said.number for said in rejections})
        for said in rejections:
            if (face_node := face_of.get(said.face_id)) is not None:
                apart += [(face_node, node) for node in in_group.get(said.number, ()) if node != face_node]
        return Start(self.sizes, held, np.array(apart, np.int64).reshape(-1, 2), self.asked)

    def _nodes_of(self, numbers: set[int | None]) -> dict[int | None, list[int]]:
        """Return the nodes that are, or are in, the groups of these numbers."""
        every = enumerate((*self.numbers, *(face.number for face in self.singles)))
        found: dict[int | None, list[int]] = defaultdict(list)
        for node, number in every:
            if number is not None and number in numbers:
                found[number].append(node)
        return found

    def numbered(
        self, groups: np.ndarray, new_numbers: Callable[[int], int]
    ) -> tuple[list[tuple[Single, int | None]], int]:
        """Return the single faces whose group is another than before, with its number, and how many groups are new.

        groups: int64 (g + s,), as `group` returns them. Faces that join a group that stays get its number; other groups
        get that of most of their faces, or a new one. new_numbers: returns the first of so many new numbers.
        """
        held, placed = len(self.numbers), list[tuple[Single, int | None]]()
        others: dict[int, list[Single]] = defaultdict(list)
        alone = np.bincount(groups, minlength=len(groups))[groups[held:]] == 1
        for face, group, by_itself in zip(self.singles, groups[held:].tolist(), alone.tolist(), strict=True):
            if group < held:
                placed.append((face, self.numbers[group]))
            elif by_itself:
                placed.append((face, None))
            else:
                others[group].append(face)
        taken, fresh = set(self.numbers), []
        for faces in sorted(others.values(), key=len, reverse=True):
            number = _most_common((face.number for face in faces), taken)
            if number is None:
                fresh.append(faces)
            else:
                taken.add(number)
                placed += [(face, number) for face in faces]
        for number, faces in enumerate(fresh, new_numbers(len(fresh))):
            placed += [(face, number) for face in faces]
        return [(face, number) for face, number in placed if number != face.number], len(fresh)


def _most_common(numbers: Iterable[int | None], taken: set[int]) -> int | None:
    """Return the number of most faces that no other group has; the largest of several; None where there is none."""
    free = [(n, number) for number, n in Counter(numbers).items() if number is not None and number not in taken]
    return max(free)[1] if free else None
