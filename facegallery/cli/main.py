"""The command line: its commands, how they fail, and the entry point."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from facegallery import __version__
from facegallery.cli.groups import Entry, SectionGroup
from facegallery.embedder.errors import FaceGalleryError, SystemFault, from_os_error
from facegallery.embedder.text import printable

END_SECONDS = 8.5  # from Ctrl-C to the end of the process, whatever is running
INTERRUPTED = 130
MISSING = {"tensorflow": "TensorFlow", "keras": "TensorFlow", "faiss": "FAISS"}

# by what one wants to do, first steps first; a test compares each line with the command's own help
SECTIONS = {
    "First steps": {
        "demo": Entry("search:demo", "Run every step on 400 photos of 40 people."),
        "weights": Entry("weights:weights", "List, fetch, import, export, quantise and verify models."),
        "add": Entry("gallery:add", "Enrol the faces of photos; --create begins a gallery."),
        "search": Entry("search:search", "Find the people whom each face in photos resembles most."),
        "list": Entry("people:list_", "List the indexes, the people of one, or a person's faces."),
    },
    "Find people in photos": {
        "who": Entry("search:who", "Name the people in photos, and count the strangers."),
        "where": Entry("search:where", "Find all photos of one person."),
        "photos": Entry("library:photos", "Find the photos of people, of a time and of a place."),
        "tracks": Entry("videos:tracks", "Say who appears when in videos."),
        "compare": Entry("search:compare", "Compare the faces of two photos."),
        "calibrate": Entry("gallery:calibrate", "Fit the score from which a face counts as known."),
    },
    "Name the people in unsorted photos": {
        "group": Entry("unnamed:group", "Group the unnamed faces by person."),
        "groups": Entry("unnamed:groups", "List the groups of unnamed faces, or the faces of one."),
        "suggest": Entry("unnamed:suggest", "Suggest what to name next, with the commands to type."),
        "name": Entry("unnamed:name_", "Enrol groups, or unnamed faces, under a person's name."),
        "confirm": Entry("unnamed:confirm", "Note that a group, or several, are one person."),
        "reject": Entry("unnamed:reject", "Take faces out of their group or person, for good."),
        "ignore": Entry("unnamed:ignore", "Leave groups, or unnamed faces, alone; undo brings them back."),
    },
    "Correct a gallery": {
        "doubtful": Entry("doubtful:doubtful", "List enrolled faces that may be wrong."),
        "rename": Entry("people:rename", "Give a person another name."),
        "set": Entry("people:set_", "Keep a note and your own metadata of a person."),
        "merge": Entry("people:merge", "Give all faces of one person to another."),
        "split": Entry("people:split", "Give chosen faces to another person."),
        "remove": Entry("people:remove", "Remove faces; undo brings them back."),
        "undo": Entry("gallery:undo", "Take back the last change."),
        "forget": Entry("people:forget", "Remove a person for good, and write a receipt."),
    },
    "Look after an index": {
        "sync": Entry("library:sync", "Take in the new and changed photos of a folder."),
        "watch": Entry("library:watch", "Take in the photos of a folder as they come."),
        "info": Entry("gallery:info", "Show what an index holds and what state it is in."),
        "verify": Entry("gallery:verify", "Check every row and file of an index."),
        "compact": Entry("gallery:compact", "Rebuild an index from all changes."),
        "backup": Entry("gallery:backup", "Write a whole index to one file."),
        "restore": Entry("gallery:restore", "Make an index from a backup."),
        "export": Entry("gallery:export", "Write an index as a data set, or as sidecars of photos."),
        "reembed": Entry("gallery:reembed", "Give an index another model, from its stored crops."),
        "delete": Entry("gallery:delete", "Delete an index."),
    },
    "Make data sets, models and large indexes": {
        "prepare": Entry("photos:prepare", "Lay out photos as one folder for each person."),
        "dedupe": Entry("photos:dedupe", "Find copies of photos and bursts, and which photo to keep."),
        "align": Entry("photos:align", "Find the faces of photos and crop them."),
        "embed": Entry("photos:embed", "Turn photos or crops into unit vectors."),
        "build-index": Entry("search:build_index", "Build an index from vectors."),
        "train": Entry("train:train", "Finetune a model on crops, in two stages."),
    },
    "Measure": {
        "evaluate": Entry("evaluate:evaluate", "Measure how well an index answers."),
        "evaluate-pairs": Entry("evaluate:evaluate_pairs", "Measure verification of pairs by LFW's protocol."),
    },
    "Serve": {
        "serve": Entry("serve:serve", "Serve indexes over HTTP, with a page for the browser."),
        "keys": Entry("serve:keys", "Make, list and revoke the keys of the server."),
    },
}


@click.group(
    cls=SectionGroup,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, message="facegallery %(version)s", help="Show the version.")
def cli() -> None:
    """Find people in photos: face retrieval as a vector database.

    \b
    facegallery demo                          # run every step on fetched photos
    facegallery weights fetch sface           # once
    facegallery add people PHOTOS --create    # one folder for each person
    facegallery search people PHOTO
    """


# errors ---------------------------------------------------------------------


def one_line(error: BaseException) -> FaceGalleryError:
    """Return any error as one of ours."""
    if isinstance(error, FaceGalleryError):
        return error
    if isinstance(error, ModuleNotFoundError) and (package := MISSING.get((error.name or "").split(".")[0])):
        return SystemFault(
            f"expected {package}, it is not installed: run `pip install 'facegallery[cpu]'`, "
            "or 'facegallery[gpu]' on a machine with a GPU"
        )
    if isinstance(error, OSError):
        return from_os_error(error)
    if isinstance(error, MemoryError):
        return SystemFault(
            "expected more free memory, there was none left: close other programs and run the same command again"
        )
    reason = (str(error).splitlines() or [""])[0][:200]
    return FaceGalleryError(
        f"this is a fault of the program ({type(error).__name__}: {reason}): run the command with --debug and report it"
    )


def main() -> int:
    """Run the command of this process's arguments, and return its exit code; an interrupted one ends in seconds."""
    from facegallery.embedder.process import ending_within

    with ending_within(END_SECONDS):
        return run_command(sys.argv[1:])


def run_command(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; an error becomes one line on stderr."""
    debug = "--debug" in arguments
    if debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")
    try:
        cli.main(list(arguments), prog_name="facegallery", standalone_mode=False, obj=tuple(arguments))
        return 0
    except SystemExit as error:
        return int(error.code or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        click.echo(printable(f"error: {error.format_message()}"), err=True)
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: run the same command again to resume", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if debug:
            click.echo("\n".join(map(printable, traceback.format_exc().splitlines())), err=True)
        fault = one_line(error)
        click.echo(printable(f"error: {fault}"), err=True)
        return fault.exit_code
