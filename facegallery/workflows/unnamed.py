"""Group unnamed faces by person, and let the user name, confirm, reject and ignore them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from facegallery import results
from facegallery.embedder.errors import GalleryError, InputError
from facegallery.embedder.names import person_name
from facegallery.indexer.grouping import kept
from facegallery.indexer.grouping.heap import Heap
from facegallery.indexer.grouping.wrong_pairs import ERROR, TAILS, Chosen, at_cut, choose_cut
from facegallery.indexer.store.reader import floats_of
from facegallery.indexer.store.store import Store
from facegallery.indexer.store.unnamed import LOOSE, Arrangement, Place, Rejection, UnnamedFace
from facegallery.results.base import box_of
from facegallery.workflows.session import Where, session_of

MEASURED = next(iter(TAILS))
UNMEASURED = "how many pairs in a group are two people is not known for this model"
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
            cut = _cut_to_use(store, options)
            heap = Heap.read(store, cut, anew=options.anew)
            start = heap.start(store.rejections())
        if not len(heap.means):
            raise GalleryError(
                f"expected unnamed faces in {store.folder.name}, it has none: add photos that are not in folders of "
                f"people, as `add {store.folder.name} PHOTOS`"
            )
        if cut is None and store.spec.model_name not in TAILS:
            raise InputError(
                f"expected --min-score for faces by {store.spec.model_name}, whose scores were not measured: give the "
                f"score from which two faces are one person's, or `reembed {store.folder.name} --model {MEASURED}`"
            )
        chosen = choose_cut(heap.means, options.error, start) if cut is None else at_cut(heap.means, cut, start)
        with store.writing():
            placed, new = heap.numbered(chosen.groups, store.new_numbers)
            seen = {face.face_id: Place(None, face.number) for face, _ in placed}
            moved = {face.face_id: Place(None, number) for face, number in placed}
        change = results.Change("group", 0, ())
        if moved:
            change = store.arrange("group", Arrangement(moved, seen=seen))
        with store.writing():
            kept.write(store, chosen.cut, options.error)
        return _grouped(store, change, new, chosen)


def _grouped(store: Store, change: results.Change, new: int, chosen: Chosen) -> results.Grouped:
    (groups, faces), ignored = store.grouped, store.ignored
    return results.Grouped(
        index=store.folder.name,
        groups=groups,
        faces=faces,
        new_groups=new,
        moved=change.faces,
        loose=store.unnamed - faces - ignored,
        ignored=ignored,
        cut=round(chosen.cut, 4),
        error=chosen.error.share,
        most_error=chosen.error.high,
        note=str(chosen.error) if store.spec.model_name in TAILS else UNMEASURED,
        command=change.command if change.faces else None,
    )


def _cut_to_use(store: Store, options: GroupOptions) -> float | None:
    """Return the given cut, or that of an earlier grouping where faces stay in their groups; None to choose one."""
    before = None if options.anew or not store.has_groups else kept.read(store)
    return before.cut if before is not None and options.cut is None and before.error == options.error else options.cut


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
