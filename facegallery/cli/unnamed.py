"""The commands for faces without a person: group them, name them, and correct groups."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from facegallery.cli.options import NAME, PATH, SCORE, Output, common
from facegallery.cli.people import show_change

GROUPS_SHOWN = 20
FACE = re.compile(r"[0-9a-f]{32}")


class What(click.ParamType):
    """The number of a group, or the id of a face."""

    name = "group|face_id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return a number or an id."""
        text = str(value).strip().lower()
        if re.fullmatch(r"[1-9]\d{0,11}", text, re.ASCII):
            return int(text)
        if not FACE.fullmatch(text):
            self.fail(f"expected the number of a group, or an id of 32 hex digits, received {value!r}", param, ctx)
        return text


class Pair(click.ParamType):
    """A group or a face, and a person: WHAT=PERSON."""

    name = "what=person"

    @staticmethod
    def is_one(text: str) -> bool:
        """Return whether a text has the form WHAT=PERSON."""
        return re.match(r"([1-9]\d{0,11}|[0-9a-fA-F]{32})=", text, re.ASCII) is not None

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | str, str]:
        """Return the number or the id, and the name."""
        what, equals, person = str(value).partition("=")
        if not equals or not person:
            self.fail(f"expected a group or a face with a person, as 12=Ann, received {value!r}", param, ctx)
        return WHAT.convert(what, param, ctx), person


WHAT, PAIR = What(), Pair()


@click.command()
@NAME
@click.option(
    "--error",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.005,
    show_default=True,
    help="Share of the pairs of faces in a group that may be two people.",
)
@click.option("--min-score", type=SCORE, help="Join groups from this mean score. [default: by --error]")
@click.option("--anew", is_flag=True, help="Open groups that nobody confirmed, and group all unnamed faces again.")
@click.option("--pictures", type=PATH, help="Draw the groups into this PNG, a row for each.")
@common
def group(out: Output, *, name: str, error: float, min_score: float | None, anew: bool, pictures: Path | None) -> None:
    """Group the unnamed faces by person.

    Faces that are in a group stay in it; others join groups or form new ones. What you said of faces holds. The result
    says how many pairs of faces in a group are likely two people.
    """
    from facegallery.results import as_document
    from facegallery.workflows.group_sheet import draw_groups
    from facegallery.workflows.unnamed import GroupOptions
    from facegallery.workflows.unnamed import group as run

    done = run(name, GroupOptions(error, min_score, anew))
    if pictures is not None and done.groups:
        draw_groups(name, pictures)
        out.say(f"{pictures}: the largest groups, a row for each")
    out.result(as_document(done), done.text)


@click.command()
@NAME
@click.argument("number", required=False, type=click.IntRange(min=1))
@click.option("--loose", is_flag=True, help="List the faces that are in no group.")
@click.option("--limit", default=GROUPS_SHOWN, show_default=True, type=click.IntRange(min=1), help="Lines at most.")
@click.option("--pictures", type=PATH, help="Draw what is listed into this PNG.")
@common
def groups(out: Output, *, name: str, number: int | None, loose: bool, limit: int, pictures: Path | None) -> None:
    """List the groups of unnamed faces, or the faces of one.

    With NUMBER the faces of that group, with the ids that `name`, `reject` and `ignore` take.
    """
    from facegallery.results import as_document
    from facegallery.workflows import unnamed as of
    from facegallery.workflows.group_sheet import draw_groups
    from facegallery.workflows.probes import open_store

    if pictures is not None:
        draw_groups(name, pictures, number)
    with open_store(name) as gallery, gallery.reading():
        if number is None and not loose:
            found = of.groups(gallery, limit)
            lines = [f"{one.number:>6}  {one.faces:>6} faces{', confirmed' if one.confirmed else ''}" for one in found]
            out.result([asdict(one) for one in found], lines or f"there are no groups: run `group {name}`")
            return
        faces = [face for face in of.unnamed(gallery, number) if not loose or (face.group is None and not face.ignored)]
    lines = [f"{face.face_id}  {face.image}" for face in faces[:limit]]
    out.result([as_document(face) for face in faces[:limit]], lines or "there are no such faces")
    if len(faces) > limit:
        out.say(f"{limit:,} of {len(faces):,} faces are shown: --limit shows more")


@click.command("name")
@NAME
@click.argument("what", nargs=-1, required=True)
@click.option("--not", "wrong", type=PAIR, multiple=True, help="A group or face that is not PERSON's.")
@common
def name_(out: Output, *, name: str, what: tuple[str, ...], wrong: tuple[tuple[int | str, str], ...]) -> None:
    """Enrol groups, or unnamed faces, under a person's name.

    WHAT are numbers of groups and ids of faces, and at last the PERSON, enrolled already or new; or WHAT=PERSON for
    each, as `suggest` asks. Put --not before what is wrong there: it is not asked again. One undo takes all back.
    """
    from facegallery.workflows.probes import open_store
    from facegallery.workflows.unnamed import name_each

    with open_store(name, write=True) as gallery:
        show_change(out, name_each(gallery, _people(what), wrong))


def _people(words: tuple[str, ...]) -> dict[int | str, str]:
    """Return the person of each group and face: WHAT=PERSON ..., or WHAT ... PERSON."""
    if all(PAIR.is_one(word) for word in words):
        return dict(PAIR.convert(word, None, None) for word in words)
    *what, person = words
    if not what:
        raise click.UsageError("expected groups or faces and a person, as `name club 12 Ann`, received one word")
    return {WHAT.convert(one, None, None): person for one in what}


@click.command()
@NAME
@click.argument("numbers", nargs=-1, required=True, type=click.IntRange(min=1))
@common
def confirm(out: Output, *, name: str, numbers: tuple[int, ...]) -> None:
    """Note that a group, or several, are one person.

    They become one group with the first number, which no later `group` opens.
    """
    from facegallery.workflows.probes import open_store
    from facegallery.workflows.unnamed import confirm as run

    with open_store(name, write=True) as gallery:
        show_change(out, run(gallery, numbers))


@click.command()
@NAME
@click.argument("face_ids", nargs=-1, required=True)
@click.option("--of", "identity", help="The person that they are not. [default: the group or person they are in]")
@common
def reject(out: Output, *, name: str, face_ids: tuple[str, ...], identity: str | None) -> None:
    """Take faces out of their group or person, for good.

    They become unnamed, and never come back there by themselves.
    """
    from facegallery.workflows.probes import open_store
    from facegallery.workflows.unnamed import reject as run

    with open_store(name, write=True) as gallery:
        show_change(out, run(gallery, face_ids, identity))


@click.command()
@NAME
@click.argument("what", nargs=-1, required=True, type=WHAT)
@common
def ignore(out: Output, *, name: str, what: tuple[int | str, ...]) -> None:
    """Leave groups, or unnamed faces, alone; undo brings them back.

    For what is no face, and for people who do not matter.
    """
    from facegallery.workflows.probes import open_store
    from facegallery.workflows.unnamed import ignore as run

    with open_store(name, write=True) as gallery:
        show_change(out, run(gallery, what))


@click.command()
@NAME
@click.option("--limit", default=5, show_default=True, type=click.IntRange(min=1), help="Questions at most.")
@click.option("--pictures", type=PATH, help="Draw the faces of the first question into this PNG.")
@common
def suggest(out: Output, *, name: str, limit: int, pictures: Path | None) -> None:
    """Suggest what to name next, with the commands to type.

    The question that settles most faces comes first. One may be about several people, each with what looks like them:
    its command names all at once. Put --not before what is wrong there, and it is not asked again.
    """
    from facegallery.results import as_document
    from facegallery.workflows.group_sheet import draw_question
    from facegallery.workflows.suggest import suggest as run

    found = run(name, limit)
    if pictures is not None and found:
        draw_question(name, pictures, found[0])
    out.result(as_document(found), [line for one in found for line in _asked(one)] or "there is nothing to ask")


def _asked(one: Any) -> tuple[str, str]:
    """Return a question and its command as lines."""
    chance = "" if one.chance is None else f", {100 * one.chance:.0f} % likely each"
    return f"{one.question} ({one.faces} faces{chance})", f"  facegallery {one.command}"
