"""Train a model on crops: run a recipe's stages for every network of the source, and write the run's record.

MODEL/spec.json, <16 hex>.safetensors    the model
MODEL/people.json                        salted hashes of the people that it was trained on and chosen by
MODEL/record.json                        arguments, versions, times, scores; written last: the run is complete
MODEL/metrics.jsonl, curves.png          a line for each epoch; the same as a drawing
MODEL/run/                               head, centres, names, checkpoints, views; deleted on completion unless kept
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from facegallery.embedder.compute import AUTO, Compute
from facegallery.embedder.errors import DataError, InputError, from_os_error
from facegallery.embedder.files import drop_stale_temporaries, is_temporary, make_folder
from facegallery.embedder.machine import cores
from facegallery.embedder.names import spelling_notes
from facegallery.embedder.network import keras_network
from facegallery.embedder.network.engines import choose
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.embedder.weights import store, trained_on
from facegallery.trainer import batches, curves, record, replicas
from facegallery.trainer.batches import Data
from facegallery.trainer.checkpoints import RunState
from facegallery.trainer.delivery import Trained
from facegallery.trainer.events import EventLog
from facegallery.trainer.history import NetworkHistory
from facegallery.trainer.recipe import Recipe
from facegallery.trainer.stages import Run, RunSettings
from facegallery.trainer.teacher import sha256s

ARGUMENTS, LOCK = "arguments.json", "lock"  # in MODEL/run

Result = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training.

    validate: crops of other people, by whom the best epoch is chosen. split: names of the splits that train, or 'all';
    without any, `train`, else `gallery`, else the rows of a data set without splits. epochs: instead of the recipe's,
    one number for each stage. seed: 0 to 2147483647. compute: device and precision. keep_run: keep MODEL/run. log_dir:
    a folder for the events of TensorBoard.
    """

    validate: Path | None = None
    split: tuple[str, ...] = ()
    epochs: tuple[int, ...] | None = None
    seed: int = 0
    compute: Compute = AUTO
    keep_run: bool = False
    log_dir: Path | None = None


@dataclass(frozen=True)
class _Job:
    """A training whose inputs were read and checked."""

    out: Path
    model: store.Model
    recipe: Recipe
    data: Data
    settings: RunSettings
    devices: list[str]
    events: EventLog | None

    def history(self, trained: Sequence[Trained], current: RunState | None = None) -> list[NetworkHistory]:
        """Return the epochs of the networks that are trained, and of the one that is trained now."""
        states = [*(t.progress for t in trained), *([current] if current else [])]
        names = [part.name for part in self.model.spec.parts]
        return [NetworkHistory(n, s.before, s.history) for n, s in zip(names, states, strict=False)]

    def report(self, trained: Sequence[Trained], current: RunState | None = None) -> None:
        """Write those epochs: all to metrics.jsonl, new ones to the events."""
        networks = self.history(trained, current)
        record.write_metrics(self.out / trained_on.EPOCHS, [line for n in networks for line in n.lines])
        if self.events:
            self.events.write(networks)


DEFAULT = TrainingOptions()


def train(crops: Path, recipe: Recipe, source: str, out: Path, options: TrainingOptions = DEFAULT) -> Result:
    """Train every network of the model `source` on `crops` into the folder `out`; return the run's record.

    The same call again resumes where it was stopped, and does nothing where the run is complete. Raise InputError for
    options that do not fit, DataError where the crops do not fit or `out` holds another run, ModelError for the
    weights.
    """
    if not 0 <= options.seed < 1 << 31:
        raise InputError(f"expected a seed of 0 to 2147483647, received {options.seed}: give another")
    if options.compute.precision == "int8":
        raise InputError("expected --precision auto, f32 or bf16 to train in, received int8: leave it out")
    recipe, compute = recipe.with_epochs(options.epochs), choose(options.compute)
    model = store.open_model(source)
    model.check_ours("train")
    _check_batch_norm(model, recipe)
    _check_teacher(recipe, model)
    data = batches.read(crops, options.validate, options.seed, options.split)
    model.spec.check_turned(data.spec.detector)
    given = record.arguments(recipe, model.spec, data, options.seed, compute.precision)
    try:
        if done := _completed(out, given):
            log.info("%s is complete: this run has been done before, nothing to do", out)
            return done
        with _locked(_run_folder(out)):
            if done := _completed(out, given):  # by a process that has ended since
                return done
            _prepare(out, given, data)
            events = _events(options.log_dir, model, recipe, record.run_id(given))
            settings = RunSettings(options.seed, options.keep_run, compute)
            job = _Job(out, model, recipe, data, settings, replicas.devices(compute.device, recipe), events)
            head = {
                "arguments": given,
                "crops": str(crops),
                "validate": str(options.validate) if options.validate else None,
                "source": source,
                "overrides": dict(recipe.overrides),
                "device": " ".join(job.devices),
                "keep_run": options.keep_run,
            }
            return _finish(job, _train_parts(job), head)
    except OSError as error:
        raise from_os_error(error) from error


def _events(folder: Path | None, model: store.Model, recipe: Recipe, run: str) -> EventLog | None:
    return EventLog(folder, [part.name for part in model.spec.parts], recipe, run) if folder else None


def _check_batch_norm(model: store.Model, recipe: Recipe) -> None:
    for i, part in enumerate(model.spec.parts):
        if recipe.live_batch_norm and keras_network.is_folded(model.arrays(i)):
            raise InputError(
                f"expected weights with live batch norm for {recipe.name}, {part.name} has it folded: "
                "use another recipe"
            )


def _check_teacher(recipe: Recipe, model: store.Model) -> None:
    others = set(sha256s(recipe.teacher))
    if others and all(others == {part.sha256} for part in model.spec.parts):
        raise InputError(
            f"expected another teacher than {model.spec.model_name} itself for {recipe.name}, received "
            f"{', '.join(recipe.teacher)}: give a stronger one, such as --set teacher=trio, or start --from msceleb"
        )
    if recipe.teacher and not recipe.stages[0].epochs:
        raise InputError(
            f"expected 1 epoch for stage 1 of {recipe.name}, which makes the bottleneck for its teachers, received 0: "
            "skip the other stages only"
        )


def _announce(job: _Job) -> None:
    recipe, data = job.recipe, job.data
    how = f"TensorFlow {tf.__version__}, {job.settings.compute.precision}, {cores()} cores"
    what = f"{len(data.train):,} photos of {len(data.train.people):,} people; {data.why}"
    devices = " ".join(job.devices)
    log.info("training %s with %s on %s (%s): %s", job.model.spec.model_name, recipe.name, devices, how, what)
    log.info("%s", data.chosen)
    if recipe.pull_back < 1:
        log.info("weights will be pulled back towards those before training: %g of their way is kept", recipe.pull_back)
    for note in spelling_notes(data.validation.people if data.validation else (), data.train.people):
        log.warning("%s", note)
    _warn_of_centres(recipe, data)


def _warn_of_centres(recipe: Recipe, data: Data) -> None:
    """Warn where few people make the homework's center step overshoot: it is not divided by a person's photos."""
    for i, stage in enumerate(recipe.stages, 1):
        step = (1 - stage.center_alpha) * stage.batch
        if stage.center_loss and stage.center_update == "homework" and step > len(data.train.people):
            what = "the homework's center step overshoots with fewer than"
            log.warning("stage %d: %s %.0f people: the loss may become infinite", i, what, step)


# the folder -----------------------------------------------------------------


def _completed(out: Path, given: dict[str, Any]) -> Result | None:
    """Return the record of the same run if it is complete, else None; raise DataError for another run."""
    path = out / "record.json"
    if not path.is_file():
        return None
    done = _read_json(path)
    record.check_same(done["arguments"], given, out)
    if not done["keep_run"]:
        _drop_run(out)
    return done


def _run_folder(out: Path) -> Path:
    """Create MODEL/run.

    Raise DataError where MODEL, or MODEL/run without a run's arguments, holds anything else.
    """
    run = out / "run"
    for folder, own in ((out, "run"), (run, LOCK)):
        if not _is_begun(run) and folder.exists() and (not folder.is_dir() or _holds_others(folder, own)):
            raise DataError(
                f"expected an empty folder or a training run for --out, {folder} holds other files: "
                "choose another folder"
            )
    return make_folder(run)


def _is_begun(run: Path) -> bool:
    return (run / ARGUMENTS).is_file()


def _holds_others(folder: Path, own: str) -> bool:
    return any(not is_temporary(p.name) and p.name != own for p in folder.iterdir())


def _drop_run(out: Path) -> None:
    """Remove MODEL/run, its arguments last, so that what a kill leaves is recognised.

    A user's folder of that name stays.
    """
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
    """Begin a run, or check that it is the run that was begun; the caller holds its lock."""
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
    """Hold the lock of a run; raise DataError where another process holds it. The kernel frees it."""
    with open(os.open(run / LOCK, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"expected to train alone in {run.parent}, another process does so: wait, or choose another --out"
            ) from None
        yield


# the parts ------------------------------------------------------------------


def _train_parts(job: _Job) -> list[Trained]:
    """Train every network of the model, or read the result where it was trained before."""
    _announce(job)
    keras.utils.set_random_seed(job.settings.seed)
    tf.config.experimental.enable_op_determinism()
    trained: list[Trained] = []
    for i, part in enumerate(job.model.spec.parts):
        folder = make_folder(job.out / "run" / f"part-{i}")
        done = _read_done(folder)
        if done is None:
            settings = replace(job.settings, report=partial(job.report, list(trained)))
            with replicas.placed(job.devices):
                done = Run(folder, part, job.model.arrays(i), job.recipe, job.data, settings).train()
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
    after = tuple(Part(**fields) for fields in done["after"])
    return Trained(Part(**done["part"]), after, done["delivered"], RunState(**done["progress"]))


def _spec(source: FaceSpec, data: Data, parts: list[Part]) -> FaceSpec:
    """Return the source's contract with the crops' rule and the new parts.

    The rule has no border, which only training uses, and windows only where the source has them.
    """
    spec = source.with_crop(data.spec)
    parts = [replace(part, weight=before.weight) for part, before in zip(parts, source.parts, strict=True)]
    rule = replace(spec.crop, border=0, window=source.crop.window)
    return replace(spec, parts=tuple(parts), crop=rule, runtime="", precision="")


def _finish(job: _Job, trained: list[Trained], head: dict[str, Any]) -> Result:
    """Write the model, then the curves, last the record; drop the run's folder unless it is kept."""
    out, source, data, stages = job.out, job.model.spec, job.data, job.recipe.stages
    _record_people(out, source, head["source"], trained, data)
    _record_epochs(source, trained)
    store.write_model(out, _spec(source, data, [t.part for t in trained]))
    for k in range(len(stages)):
        if all(len(t.after) == len(stages) for t in trained):
            store.write_model(out / "run" / f"after-stage-{k + 1}", _spec(source, data, [t.after[k] for t in trained]))
    job.report(trained)
    curves.draw(out / "curves.png", job.recipe, job.history(trained))
    if job.events:
        job.events.close()
    counts = {
        "photos": len(data.train),
        "people": len(data.train.people),
        "validation": data.why,
        "chosen": data.chosen,
    }
    done = {
        **head,
        "data": counts,
        "micro_batches": record.micro_batches(job.recipe),
        **record.environment(),
        "networks": [_summary(t) for t in trained],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    record.write_json(out / "record.json", done)
    if not head["keep_run"]:
        _drop_run(out)
    seconds = sum(sum(t.progress.seconds) for t in trained)
    log.info("%s is complete after %.1f minutes", out, seconds / 60)
    return done


def _record_people(out: Path, source: FaceSpec, reference: str, trained: list[Trained], data: Data) -> None:
    """Write the people of this run, and of those before it, beside the new weights and into `out`."""
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
    """Write the epochs of each network beside its new weights."""
    for old, t in zip(source.parts, trained, strict=True):
        if t.part.sha256 != old.sha256:
            record.write_metrics(store.stored_file(t.part).parent / trained_on.EPOCHS, t.progress.history)


def _summary(trained: Trained) -> dict[str, Any]:
    """Return one network's part of the record."""
    p = trained.progress
    lines = [(line["validation_top1"], line["validation_tar"]) for line in p.history if "validation_top1" in line]
    return {
        "name": trained.part.name,
        "sha256": trained.part.sha256,
        "parent": trained.part.parent,
        "delivered": trained.delivered,
        "stages": [{"seconds": round(s, 1), "softmax_accuracy": a} for s, a in zip(p.seconds, p.softmax, strict=True)],
        "validation_top1": {
            "before": p.before,
            "best": p.best,
            "epochs": [top1 for top1, _ in lines],
            "tars": [tar for _, tar in lines],
        }
        if p.best
        else None,
    }
