"""Group unnamed faces by person, and let the user name, confirm, reject and ignore them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facegallery import results
from facegallery.embedder.errors import GalleryError, InputError
from facegallery.embedder.names import person_name
from facegallery.indexer.grouping import kept
from facegallery.indexer.grouping.linkage import Bindings
from facegallery.indexer.grouping.linkage import group as group_vectors
from facegallery.indexer.grouping.wrong_pairs import ERROR, TAILS, choose_cut, pair_error
from facegallery.indexer.store.reader import floats_of
from facegallery.indexer.store.store import Store
from facegallery.indexer.store.unnamed import LOOSE, Arrangement, Place, Rejection, UnnamedFace
from facegallery.results.base import box_of
from facegallery.workflows.session import Where, session_of

MEASURED = next(iter(TAILS))
UNMEASURED = "how many pairs in a group are two people is not known for this model"
MOST_OF_PHOTO = 1000  # faces of a photo that are kept apart
What = int | str  # the number of a group, or the id of a face


@dataclass(frozen=True)
class GroupOptions:
    """How unnamed faces are grouped."""

    error: float = ERROR  # share of the pairs of faces in a group that may be two people
    cut: float | None = None  # the mean score from which groups are joined; None: by `error`
    anew: bool = False  # also open groups; else faces stay in the groups that they are in

    def __post_init__(self) -> None:
        if not 0 < self.error < 1:
            raise InputError(f"expected an --error between 0 and 1, received {self.error}")
        if self.cut is not None and not 0 < self.cut < 1:
            raise InputError(f"expected a --min-score between 0 and 1, received {self.cut}")


# grouping -------------------------------------------------------------------


def group(where: Where, options: GroupOptions = GroupOptions()) -> results.Grouped:  # noqa: B008
    """Group the unnamed faces of a gallery by person.

    Faces that are in a group stay there, and its number stays; others join groups or form new ones. What the user said
    holds. Raises GalleryError where there are no unnamed faces.
    """
    with session_of(where) as session, session.store(write=True) as store:
        with store.reading():
            heap = Heap.read(store)
            rejections = store.rejections()
            cut = _cut_to_use(store, options)
        if not heap.faces:
            raise GalleryError(
                f"expected unnamed faces in {store.folder.name}, it has none: add photos that are not in folders of "
                f"people, as `add {store.folder.name} PHOTOS`"
            )
        if cut is None and store.spec.model_name not in TAILS:
            raise InputError(
                f"expected --min-score for faces by {store.spec.model_name}, whose scores were not measured: give the "
                f"score from which two faces are one person's, or `reembed {store.folder.name} --model {MEASURED}`"
            )
        bindings = heap.bindings(rejections, anew=options.anew)
        if cut is None:
            cut, labels = choose_cut(heap.vectors, options.error, bindings)
        else:
            labels = group_vectors(heap.vectors, cut, bindings)
        stated = pair_error(heap.vectors, labels, cut)
        with store.writing():
            kept.write(store, cut, options.error)
            numbering = Numbering(heap, labels, rejections, anew=options.anew)
            places = numbering.places(store.new_numbers)
        seen = {face.face_id: face.place for face in heap.faces}
        moved = {face_id: place for face_id, place in places.items() if place != seen[face_id]}
        change = results.Change("group", 0, ())
        if moved:
            change = store.arrange("group", Arrangement(moved, seen=seen))
        return _grouped(store, change, numbering.new, cut, stated)


def _grouped(store: Store, change: results.Change, new: int, cut: float, stated: Any) -> results.Grouped:
    groups = store.list_groups()
    faces = sum(one.faces for one in groups)
    ignored = store.ignored
    return results.Grouped(
        index=store.folder.name,
        groups=len(groups),
        faces=faces,
        new_groups=new,
        moved=change.faces,
        loose=store.unnamed - faces - ignored,
        ignored=ignored,
        cut=round(cut, 4),
        error=stated.share,
        most_error=stated.high,
        note=str(stated) if store.spec.model_name in TAILS else UNMEASURED,
        command=change.command if change.faces else None,
    )


def _cut_to_use(store: Store, options: GroupOptions) -> float | None:
    """Return the given cut, or that of an earlier grouping where faces stay in their groups; None to choose one."""
    before = None if options.anew or not store.list_groups(1) else kept.read(store)
    return before.cut if before is not None and options.cut is None and before.error == options.error else options.cut


@dataclass
class Heap:
    """Unnamed faces that are not ignored, and their vectors, float32 (n, d)."""

    faces: list[UnnamedFace]
    vectors: np.ndarray

    @classmethod
    def read(cls, store: Store) -> Heap:
        """Read the unnamed faces of a gallery."""
        faces = [face for face in store.unnamed_faces() if face.place.state != "ignored"]
        wanted = np.array([face.id for face in faces], np.int64)
        nothing = np.empty((0, store.spec.dimension), np.float32)
        vectors = (xb[np.isin(ids, wanted)] for ids, xb in store.unnamed_vectors())
        return cls(faces, np.concatenate([nothing, *vectors]))

    def bindings(self, rejections: Sequence[Rejection], *, anew: bool) -> Bindings:
        """Return the pairs of faces that must be, or must not be, in one group."""
        together = [pair for some in self.held(anew=anew).values() for pair in zip(some, some[1:], strict=False)]
        apart = [(a, b) for some in self._photos().values() for i, a in enumerate(some) for b in some[:i]]
        members, rows = self.members(), {face.face_id: row for row, face in enumerate(self.faces)}
        for said in rejections:
            if said.number is not None and (row := rows.get(said.face_id)) is not None:
                apart += [(row, other) for other in members.get(said.number, ())]
        return Bindings(_pairs(together), _pairs(apart))

    def members(self) -> dict[int, list[int]]:
        """Return the rows of each group."""
        found: dict[int, list[int]] = defaultdict(list)
        for row, face in enumerate(self.faces):
            if face.place.number is not None:
                found[face.place.number].append(row)
        return found

    def held(self, *, anew: bool) -> dict[int, list[int]]:
        """Return the rows of each group that stays; with `anew` only the user's word holds a group together."""
        confirmed = {face.place.number for face in self.faces if face.place.state == "confirmed"}
        return {number: rows for number, rows in self.members().items() if not anew or number in confirmed}

    def _photos(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for row, face in enumerate(self.faces):
            found[face.columns["image_sha256"] or face.image].append(row)
        return {photo: rows for photo, rows in found.items() if 1 < len(rows) <= MOST_OF_PHOTO}

    def photo(self, row: int) -> str:
        """Return what tells the photo of a face from others."""
        return self.faces[row].columns["image_sha256"] or self.faces[row].image


def _pairs(pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    return np.array(list(pairs), np.int64).reshape(-1, 2)


class Numbering:
    """Give groups their numbers: those that stay keep theirs, and others get that of most of their faces, or a new one.

    new: how many got a new one.
    """

    def __init__(self, heap: Heap, labels: np.ndarray, rejections: Sequence[Rejection], *, anew: bool):
        """labels: int64 (n,), the group of each face as `group` returns it."""
        self.heap, self.new = heap, 0
        self._held = heap.held(anew=anew)
        self._rejected = {(said.face_id, said.number) for said in rejections}
        order = np.argsort(labels, kind="stable")
        starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
        self._groups = [rows.tolist() for rows in np.split(order, starts[1:])] if len(labels) else []

    def places(self, new_numbers: Any) -> dict[str, Place]:
        """Return where each face is to be. new_numbers: returns the first of so many new numbers."""
        number_of = {row: number for number, rows in self._held.items() for row in rows}
        found: dict[int, int | None] = {}
        unnumbered = []
        for rows in self._groups:
            numbers = {number_of[row] for row in rows if row in number_of}
            if numbers:
                found |= self._joined(rows, numbers, number_of)
            elif len(rows) > 1:
                unnumbered.append(rows)
            else:
                found[rows[0]] = None
        taken: set[int] = set(self._held)
        fresh = []
        for rows in sorted(unnumbered, key=len, reverse=True):
            before = Counter(self.heap.faces[row].place.number for row in rows)
            free = [(n, number) for number, n in before.items() if number is not None and number not in taken]
            if free:
                number = max(free)[1]
                taken.add(number)
                found |= dict.fromkeys(rows, number)
            else:
                fresh.append(rows)
        self.new, first = len(fresh), new_numbers(len(fresh))
        for number, rows in enumerate(fresh, first):
            found |= dict.fromkeys(rows, number)
        return {face.face_id: self._place(row, found[row]) for row, face in enumerate(self.heap.faces)}

    def _place(self, row: int, number: int | None) -> Place:
        before = self.heap.faces[row].place
        return before if before.number == number else Place(None, number, "open")

    def _joined(self, rows: Sequence[int], numbers: set[int], number_of: Mapping[int, int]) -> dict[int, int | None]:
        """Return the number of each face of a group with one or more that stay: each new face joins the nearest."""
        means = {number: self.heap.vectors[self._held[number]].mean(axis=0) for number in numbers}
        photos = {number: {self.heap.photo(row) for row in self._held[number]} for number in numbers}
        found: dict[int, int | None] = {}
        for row in rows:
            if row in number_of:
                found[row] = number_of[row]
                continue
            free = [number for number in numbers if self._may_join(row, number, photos[number])]
            nearest = max(free, key=lambda number: float(means[number] @ self.heap.vectors[row]), default=None)
            found[row] = nearest
            if nearest is not None:
                photos[nearest].add(self.heap.photo(row))
        return found

    def _may_join(self, row: int, number: int, photos: set[str]) -> bool:
        return self.heap.photo(row) not in photos and (self.heap.faces[row].face_id, number) not in self._rejected


# what the user says ---------------------------------------------------------


def as_several(what: What | Sequence[What]) -> Sequence[What]:
    """Return groups and faces, of which one may be given alone."""
    return (what,) if isinstance(what, int | str) else tuple(what)


def name(store: Store, what: Sequence[What], identity: str) -> results.Change:
    """Enrol unnamed faces, or groups of them, under a person's name; faces that were said not to be theirs stay.

    Raises Unknown for a group or face that is not here, GalleryError where every face was said not to be theirs.
    """
    return name_each(store, dict.fromkeys(what, identity))


def name_each(store: Store, people: Mapping[What, str], wrong: Iterable[tuple[What, str]] = ()) -> results.Change:
    """Enrol each group or unnamed face under its own person's name; one `undo` takes all back.

    wrong: groups and faces, each with a person who they are not; no answer of `suggest` says so again. Raises as
    `name` does, and InputError for a face that is given to two people.
    """
    before, named = store.rejections(), [(one, _spelled(store, person)) for one, person in people.items()]
    said = [
        Rejection(face_id, None, _spelled(store, person))
        for one, person in wrong
        for face_id in _faces_of(store, [one])
    ]
    refused = {(one.face_id, one.identity) for one in (*before, *said)}
    places: dict[str, Place] = {}
    for one, person in named:
        said += [_about(earlier, identity=person) for earlier in before if earlier.number == one]
        for face_id in _faces_of(store, [one]):
            if (face_id, person) in refused:
                continue
            if places.setdefault(face_id, Place(person)) != Place(person):
                raise InputError(
                    f"expected one person for a face, received {places[face_id].identity} and {person} for {face_id}: "
                    "leave one out"
                )
    if named and not places:
        who = " or ".join(dict.fromkeys(person for _, person in named))
        raise GalleryError(
            f"expected faces that may be {who}'s, you rejected each of these: name them otherwise, or `undo` that"
        )
    return store.arrange("name", Arrangement(places, said), dict.fromkeys(person for _, person in named))


def _spelled(store: Store, person: str) -> str:
    return store.spelled(person_name(person))


def confirm(store: Store, numbers: Sequence[int]) -> results.Change:
    """Note that the faces of a group, or of several, are one person; the first keeps its number.

    Raises Unknown for a group that is not here, GalleryError where a face of one was said not to be of another.
    """
    into, groups = numbers[0], {number: store.group(number) for number in dict.fromkeys(numbers)}
    rejections = store.rejections()
    for number, faces in groups.items():
        against = {said.face_id for said in rejections if said.number in groups and said.number != number}
        if wrong := [face.face_id for face in faces if face.face_id in against]:
            raise GalleryError(
                f"expected groups of one person, you said that face {wrong[0]} is not of one of them: leave group "
                f"{number} out, or name each by itself"
            )
    places = {face.face_id: Place(None, into, "confirmed") for faces in groups.values() for face in faces}
    said = [_about(one, number=into) for one in rejections if one.number in groups and one.number != into]
    return store.arrange("confirm", Arrangement(places, said))


def reject(store: Store, face_ids: Sequence[str], of: str | None = None) -> results.Change:
    """Take faces out of their groups, or from their people, and never put them back there.

    of: the person that they are not; None: the group or person that each is in. Raises Unknown for a face that is not
    here, InputError for one that is in no group where `of` is None.
    """
    identity = None if of is None else store.spelled(of)
    places, said = {}, []
    for face_id, place in store.places(face_ids).items():
        if identity is not None:
            said.append(Rejection(face_id, None, identity))
            places[face_id] = LOOSE if place.identity == identity else place
        elif place.identity is not None or place.number is not None:
            said.append(Rejection(face_id, place.number, place.identity))
            places[face_id] = LOOSE
        else:
            raise InputError(
                f"expected a face that is in a group or is a person's, {face_id} is neither: say of whom it is not, "
                "with --of PERSON"
            )
    return store.arrange("reject", Arrangement(places, said), identity)


def ignore(store: Store, what: Sequence[What]) -> results.Change:
    """Leave faces, or groups of them, alone: they are no faces, or nobody's who matters. `undo` brings them back."""
    places = dict.fromkeys(_faces_of(store, what), Place(None, None, "ignored"))
    return store.arrange("ignore", Arrangement(places))


def _about(said: Rejection, *, number: int | None = None, identity: str | None = None) -> Rejection:
    """Return the same word about another group or person."""
    return Rejection(said.face_id, number, identity)


def _faces_of(store: Store, what: Sequence[What]) -> list[str]:
    """Return the face_ids of groups and faces; raises Unknown for what is not here or is a person's."""
    found: list[str] = []
    for one in what:
        found += [face.face_id for face in store.group(one)] if isinstance(one, int) else [one]
    places = store.places(found)
    if named := next((face_id for face_id, place in places.items() if place.identity is not None), None):
        raise GalleryError(
            f"expected unnamed faces, {named} is {places[named].identity}'s: give it to another person with `split`"
        )
    return list(dict.fromkeys(found))


# reading --------------------------------------------------------------------


def groups(store: Store, limit: int = -1) -> results.FaceGroups:
    """Return the groups, largest first."""
    found = (results.FaceGroup(one.number, one.faces, one.confirmed, one.face_id) for one in store.list_groups(limit))
    return results.FaceGroups(tuple(found))


def unnamed(store: Store, number: int | None = None) -> results.UnnamedFaces:
    """Return the unnamed faces, or those of a group. Raises Unknown where there is no such group."""
    faces = store.unnamed_faces() if number is None else store.group(number)
    return results.UnnamedFaces(tuple(map(_shown, faces)))


def page(store: Store, number: int | None, after: int, limit: int) -> tuple[results.UnnamedFaces, int | None]:
    """Return unnamed faces, or those of a group, whose ids follow `after`, and the last id where there are more.

    Raises Unknown where there is no such group.
    """
    if number is not None:
        store.group(number)
    faces = store.unnamed_after(after, limit + 1, number)
    following = faces[limit - 1].id if len(faces) > limit else None
    return results.UnnamedFaces(tuple(map(_shown, faces[:limit]))), following


def _shown(face: UnnamedFace) -> results.UnnamedFace:
    box = box_of(floats_of(face.columns["box"]))
    return results.UnnamedFace(face.face_id, face.image, box, face.place.number, face.place.state == "ignored")
