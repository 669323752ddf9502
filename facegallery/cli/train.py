"""The command that finetunes a model."""

from __future__ import annotations

from pathlib import Path

import click

from facegallery.cli.options import NUMBERS, PATH, Output, common, computing
from facegallery.embedder.compute import Compute


@click.command()
@click.argument("crops", type=PATH)
@click.option(
    "--recipe",
    default="quick",
    show_default=True,
    help="A shipped recipe (quick, homework, margin, distil) or a TOML file.",
)
@click.option(
    "--from",
    "source",
    default="sface",
    show_default=True,
    help="Model to start from: a known name or a model's folder.",
)
@click.option("--out", "folder", type=PATH, required=True, help="Folder of the new model.")
@click.option("--validate", type=PATH, help="Crops of other people: keep the epoch that retrieves them best.")
@click.option(
    "--split",
    multiple=True,
    help="Splits to train on, such as train,val, or `all` rows; may be repeated. [default: `train`, else `gallery`]",
)
@click.option("--epochs", type=NUMBERS, help="Epochs of each stage instead of the recipe's, such as 2,1.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A key of the recipe, such as stage.2.learning_rate=1e-4, augmentation.mirror=0.3, pull_back=0.5 or "
    "teacher=sface,itself; may be repeated.",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, (1 << 31) - 1), help="Seed of all random choices."
)
@click.option("--keep-run", is_flag=True, help="Keep checkpoints, the head and the model after each stage in OUT/run.")
@click.option("--log-dir", type=PATH, help="Folder for the run's events, which TensorBoard shows.")
@computing
@common
def train(
    out: Output,
    *,
    crops: Path,
    recipe: str,
    source: str,
    folder: Path,
    validate: Path | None,
    split: tuple[str, ...],
    epochs: tuple[int, ...] | None,
    overrides: tuple[str, ...],
    seed: int,
    keep_run: bool,
    log_dir: Path | None,
    compute: Compute,
) -> None:
    """Finetune a model on crops, in two stages.

    The first stage trains the classification head, the second the layers below it. Run the same command again to
    resume an interrupted training.

    --set changes keys of the recipe for this run: KEY, augmentation.KEY or stage.N.KEY, with a value of TOML whose
    quotes and brackets may be left out.
    """
    from facegallery.embedder.network.quiet import import_tensorflow
    from facegallery.trainer.overrides import parse
    from facegallery.trainer.recipe import read as read_recipe

    plan = read_recipe(recipe).with_overrides(parse(overrides))
    import_tensorflow()
    from facegallery.trainer.train import TrainingOptions
    from facegallery.trainer.train import train as run

    names = tuple(name.strip() for given in split for name in given.split(","))
    options = TrainingOptions(validate, names, epochs, seed, compute, keep_run, log_dir)
    done = run(crops, plan, source, folder, options)
    out.result(done, [f"{folder}: {network['name']}, {network['delivered']}" for network in done["networks"]])
