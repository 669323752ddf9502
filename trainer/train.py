"""Crops -> a finetuned model: runs a recipe's stages for every network of the source, and writes the run's record.

MODEL/spec.json, <16 hex>.safetensors    the model
MODEL/people.json                        salted hashes of the people it was trained on, and chosen by
MODEL/record.json                        arguments, versions, times, scores; written last: the run is complete
MODEL/metrics.jsonl, curves.png          a line an epoch; the same drawn
MODEL/run/                               head, centres, names, checkpoints, views; deleted on completion unless kept
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError, InputError, from_os_error
from facegallery.embedder.files import drop_stale_temporaries, is_temporary, make_folder
from facegallery.embedder.machine import cores
from facegallery.embedder.names import spelling_notes
from facegallery.embedder.network import keras_network
from facegallery.embedder.network.engines import choose
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.embedder.weights import store, trained_on
from facegallery.trainer import batches, record, replicas
from facegallery.trainer.batches import Data
from facegallery.trainer.recipe import Recipe
from facegallery.trainer.stages import Progress, Run, Trained

ARGUMENTS, LOCK = "arguments.json", "lock"  # in MODEL/run

Say = Callable[[str], None]
Result = dict[str, Any]


def quiet(_: str) -> None:
    """Says nothing."""


def train(
    crops: Path,
    recipe: Recipe,
    source: str,
    out: Path,
    validate: Path | None = None,
    epochs: tuple[int, ...] | None = None,
    seed: int = 0,
    compute: Compute = Compute(),
    keep_run: bool = False,
    say: Say = quiet,
) -> Result:  # noqa: B008
    """Trains every network of `source` on `crops` into the model folder `out`; returns the run's record.

    The same call again goes on where it was stopped, and does nothing where it is complete. epochs: other numbers, one a
    stage. validate: crops of people to choose the best epoch by. Raises DataError where `out` holds another run.
    """
    if not 0 <= seed < 1 << 31:
        raise InputError(f"expected a seed of 0 to 2147483647, received {seed}: give another")
    if compute.precision == "int8":
        raise InputError("expected --precision auto, f32 or bf16 to train in, received int8: leave it out")
    recipe, compute = recipe.with_epochs(epochs), choose(compute)
    model = store.open_model(source)
    _check_batch_norm(model, recipe)
    _check_teacher(recipe)
    data = batches.read(crops, validate, seed)
    given = record.arguments(recipe, model.spec, data, seed, compute.precision)
    try:
        if done := _completed(out, given):
            say(f"{out} is complete: this run has been done before, nothing to do")
            return done
        with _locked(_run_folder(out)):
            if done := _completed(out, given):  # by a process that ended meanwhile
                return done
            _prepare(out, given, data)
            names = replicas.devices(compute.device, recipe)
            _announce(model, recipe, data, compute, names, say)
            keras.utils.set_random_seed(seed)
            tf.config.experimental.enable_op_determinism()
            trained = _train_parts(model, recipe, data, seed, compute, names, keep_run, out, say)
            paths = {"crops": str(crops), "validate": str(validate) if validate else None}
            head = {"arguments": given, **paths, "source": source, "device": " ".join(names), "keep_run": keep_run}
            return _finish(out, model.spec, trained, data, recipe, head, say)
    except OSError as error:
        raise from_os_error(error) from error


def _check_batch_norm(model: store.Model, recipe: Recipe) -> None:
    for i, part in enumerate(model.spec.parts):
        if recipe.live_batch_norm and keras_network.is_folded(model.arrays(i)):
            raise InputError(
                f"expected weights with live batch norm for {recipe.name}, {part.name} has it folded: use another recipe"
            )


def _check_teacher(recipe: Recipe) -> None:
    if recipe.teacher and not recipe.stages[0].epochs:
        raise InputError(
            f"expected 1 epoch for stage 1 of {recipe.name}, which makes the bottleneck for its teachers, received 0: skip the other stages only"
        )


def _announce(model: store.Model, recipe: Recipe, data: Data, compute: Compute, names: list[str], say: Say) -> None:
    say(
        f"training {model.spec.model_name} with {recipe.name} on {' '.join(names)} (TensorFlow {tf.__version__}, {compute.precision}, {cores()} cores): "
        f"{len(data.train):,} photos of {len(data.train.people):,} people; {data.why}"
    )
    say(data.chosen)
    if recipe.pull_back < 1:
        say(f"weights will be pulled back towards those before training: {recipe.pull_back:g} of their way is kept")
    for note in spelling_notes(data.validation.people if data.validation else (), data.train.people):
        say(f"warning: {note}")
    _warn_of_centres(recipe, data, say)


def _warn_of_centres(recipe: Recipe, data: Data, say: Say) -> None:
    """The homework's center step is not divided by a person's photos in the batch: with few people it overshoots."""
    for i, stage in enumerate(recipe.stages, 1):
        step = (1 - stage.center_alpha) * stage.batch
        if stage.center_loss and stage.center_update == "homework" and step > len(data.train.people):
            say(
                f"stage {i}: the homework's center step overshoots with fewer than {step:.0f} people: the loss may become infinite"
            )


# the folder -----------------------------------------------------------------


def _completed(out: Path, given: dict[str, Any]) -> Result | None:
    """The record of the same run, where it is complete; raises DataError where it was another."""
    path = out / "record.json"
    if not path.is_file():
        return None
    done = _read_json(path)
    record.check_same(done["arguments"], given, out)
    if not done["keep_run"]:
        _drop_run(out)
    return done


def _run_folder(out: Path) -> Path:
    """Make MODEL/run; raise DataError where MODEL, or MODEL/run without a run's arguments, holds anything else."""
    run = out / "run"
    for folder, own in ((out, "run"), (run, LOCK)):
        if not _is_begun(run) and folder.exists() and (not folder.is_dir() or _holds_others(folder, own)):
            raise DataError(
                f"expected an empty folder or a training run for --out, {folder} holds other files: choose another folder"
            )
    return make_folder(run)


def _is_begun(run: Path) -> bool:
    return (run / ARGUMENTS).is_file()


def _holds_others(folder: Path, own: str) -> bool:
    return any(not is_temporary(p.name) and p.name != own for p in folder.iterdir())


def _drop_run(out: Path) -> None:
    """Remove MODEL/run, its arguments last, so that what is left after a kill is known as ours; a user's folder of that name stays."""
    run = out / "run"
    if not run.is_dir() or (not _is_begun(run) and _holds_others(run, LOCK)):
        return
    for path in run.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != ARGUMENTS:
            path.unlink(missing_ok=True)
    shutil.rmtree(run, ignore_errors=True)


def _prepare(out: Path, given: dict[str, Any], data: Data) -> None:
    """Begin a run, or check that it is the one that was begun; with its lock held."""
    run = out / "run"
    for folder in (out, run, *run.glob("part-*")):
        drop_stale_temporaries(folder)
    if _is_begun(run):
        record.check_same(_read_json(run / ARGUMENTS), given, out)
    else:
        record.write_json(run / ARGUMENTS, given)
    record.write_json(run / "people.json", list(data.train.people))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise DataError(f"expected the record of a training run, {path} is damaged: train into another --out") from None


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """One process a run; the lock goes with the process, however it ends."""
    with open(os.open(run / LOCK, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"expected to train alone in {run.parent}, another process does so: wait, or choose another --out"
            ) from None
        yield


# the parts ------------------------------------------------------------------


def _train_parts(
    model: store.Model,
    recipe: Recipe,
    data: Data,
    seed: int,
    compute: Compute,
    names: list[str],
    keep: bool,
    out: Path,
    say: Say,
) -> list[Trained]:
    trained: list[Trained] = []
    for i, part in enumerate(model.spec.parts):
        folder = make_folder(out / "run" / f"part-{i}")
        before = [line for t in trained for line in t.progress.history]

        def report(history: list[dict[str, Any]], before: list[dict[str, Any]] = before) -> None:
            record.write_metrics(out / trained_on.EPOCHS, before + history)

        done = _read_done(folder)
        if done is None:
            with replicas.placed(names):
                done = Run(folder, part, model.arrays(i), recipe, data, seed, keep, say, report, compute).train()
            record.write_json(folder / "done.json", asdict(done))
            keras.backend.clear_session()
        for view in folder.glob("*-view-*.npy"):
            view.unlink()
        trained.append(done)
    return trained


def _read_done(folder: Path) -> Trained | None:
    if not (folder / "done.json").is_file():
        return None
    done = _read_json(folder / "done.json")
    return Trained(
        Part(**done["part"]), tuple(Part(**p) for p in done["after"]), done["delivered"], Progress(**done["progress"])
    )


def _spec(source: FaceSpec, data: Data, parts: list[Part]) -> FaceSpec:
    """The source's contract with the crops' rule (without the border, which is training's) and the new parts."""
    spec = source.with_crop(data.spec)
    parts = [replace(part, weight=before.weight) for part, before in zip(parts, source.parts, strict=True)]
    return replace(spec, parts=tuple(parts), crop=replace(spec.crop, border=0), runtime="", precision="")


def _finish(
    out: Path, source: FaceSpec, trained: list[Trained], data: Data, recipe: Recipe, head: dict[str, Any], say: Say
) -> Result:
    """Writes the model, then the curves, last the record; drops the run's folder unless it is kept."""
    _record_people(out, source, head["source"], trained, data)
    _record_epochs(source, trained)
    store.write_model(out, _spec(source, data, [t.part for t in trained]))
    for k in range(len(recipe.stages)):
        if all(len(t.after) == len(recipe.stages) for t in trained):
            store.write_model(out / "run" / f"after-stage-{k + 1}", _spec(source, data, [t.after[k] for t in trained]))
    history = [line for t in trained for line in t.progress.history]
    record.write_metrics(out / trained_on.EPOCHS, history)
    record.draw_curves(out / "curves.png", history)
    counts = {
        "photos": len(data.train),
        "people": len(data.train.people),
        "validation": data.why,
        "chosen": data.chosen,
    }
    done = {
        **head,
        "data": counts,
        "micro_batches": record.micro_batches(recipe),
        **record.environment(),
        "networks": [_summary(t) for t in trained],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    record.write_json(out / "record.json", done)
    if not head["keep_run"]:
        _drop_run(out)
    seconds = sum(sum(t.progress.seconds) for t in trained)
    say(f"{out} is complete after {seconds / 60:.1f} minutes")
    return done


def _record_people(out: Path, source: FaceSpec, reference: str, trained: list[Trained], data: Data) -> None:
    """Beside all weights that came of this run, and in `out`: its people, and those of the trainings before it."""
    before = trained_on.of_model(source, Path(reference))
    own = trained_on.Training.of(data.train.people, data.validation.people if data.validation else ())
    made = [
        part
        for old, t in zip(source.parts, trained, strict=True)
        for part in (t.part, *t.after)
        if part.sha256 != old.sha256
    ]
    for part in made:
        trained_on.write(store.stored_file(part).parent, [*before, own])
    if made or before:
        trained_on.write(out, [*before, own] if made else before)


def _record_epochs(source: FaceSpec, trained: list[Trained]) -> None:
    """Beside the weights that each network came to."""
    for old, t in zip(source.parts, trained, strict=True):
        if t.part.sha256 != old.sha256:
            record.write_metrics(store.stored_file(t.part).parent / trained_on.EPOCHS, t.progress.history)


def _summary(trained: Trained) -> dict[str, Any]:
    """One network's part of the record."""
    p = trained.progress
    lines = [(line["validation_top1"], line["validation_tar"]) for line in p.history if "validation_top1" in line]
    return {
        "name": trained.part.name,
        "sha256": trained.part.sha256,
        "parent": trained.part.parent,
        "delivered": trained.delivered,
        "stages": [{"seconds": round(s, 1), "softmax_accuracy": a} for s, a in zip(p.seconds, p.softmax, strict=True)],
        "validation_top1": {"best": p.best, "epochs": [top1 for top1, _ in lines], "tars": [tar for _, tar in lines]}
        if p.best
        else None,
    }
