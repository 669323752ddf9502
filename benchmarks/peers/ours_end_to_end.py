"""Turn photos into a Parquet data set by this project, as `embed` does. Arguments: model, files."""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.rounds import listing_of, serve  # noqa: E402
from facegallery.embedder.pipeline import Options, PhotoStage, process_photos  # noqa: E402
from facegallery.workflows.photos import make_detector, make_embedder  # noqa: E402

listing = listing_of(sys.argv[2:])
embedder = make_embedder(sys.argv[1])
stage = PhotoStage(embedder.spec, make_detector({}, embedder.compute), embedder, Options())
scratch = Path(tempfile.mkdtemp())


def work() -> dict:
    shutil.rmtree(scratch)
    done = process_photos(listing, scratch, stage, "embed", lambda done, total: None)
    return {"photos": done.photos, "crops": done.outcomes["ok"]}


serve(work)
