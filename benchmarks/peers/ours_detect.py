"""Detect and crop photos by this project. Arguments: files."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.rounds import listing_of, serve  # noqa: E402
from facegallery.embedder.faces.mtcnn import MtcnnDetector  # noqa: E402
from facegallery.embedder.photos.decoder import Decoder  # noqa: E402
from facegallery.embedder.pipeline import Options, PhotoStage  # noqa: E402
from facegallery.embedder.spec import FaceSpec  # noqa: E402

listing = listing_of(sys.argv[1:])
entries = {entry.path: entry for entry in listing.entries}
stage = PhotoStage(FaceSpec(), MtcnnDetector(), None, Options(keep_crops=False, keep_pixels=True))
decoder = Decoder()


def work() -> dict:
    rows = [row for _, rows in stage.rows(decoder.stream(listing.root, entries), entries) for row in rows]
    return {"photos": len(entries), "crops": sum(row.pixels is not None for row in rows)}


serve(work)
