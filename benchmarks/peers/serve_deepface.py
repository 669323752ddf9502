"""Serve DeepFace's own API by gunicorn with one worker, as its image does: `POST /search` among registered faces.

Arguments: .npz with vectors (n, 512) and the names of their people, folder of its weights and its database, port. The
vectors go straight into the database (SQLite), as `/register` would leave them. Missing weights are made at random
(`deepface_find`): the time is the same, the answers mean nothing. Ask with `search_method` `ann`, which uses its
FAISS index. `exact` reads all faces from the database for each photo and compares lists of Python, which would be
unfairly slow.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from deepface_find import DETECTOR, MODEL, home


def register(file: str, database: str) -> None:
    """Register all faces, and index them."""
    import numpy as np
    from deepface import DeepFace
    from deepface.modules.database.sqlite import SqliteClient

    faces, client = np.load(file), SqliteClient(database)
    said = {
        "face": np.zeros((1, 1, 3)),
        "model_name": MODEL,
        "detector_backend": DETECTOR,
        "aligned": True,
        "l2_normalized": True,
    }
    rows = zip(faces["names"].tolist(), faces["vectors"].tolist(), strict=True)
    client.insert_embeddings([said | {"img_name": name, "embedding": vector} for name, vector in rows])
    client.close()
    DeepFace.build_index(MODEL, DETECTOR, l2_normalize=True, database_type="sqlite", connection_details=database)


def main() -> None:
    folder, port = Path(sys.argv[2]), int(sys.argv[3])
    database = str(folder / "faces.sqlite")
    home(folder)
    register(sys.argv[1], database)
    os.environ |= {
        "DEEPFACE_DATABASE_TYPE": "sqlite",
        "DEEPFACE_SQLITE_PATH": database,
        "DEEPFACE_FACE_RECOGNITION_MODELS": MODEL,
        "DEEPFACE_FACE_DETECTION_MODELS": DETECTOR,
    }
    command = [
        "gunicorn",
        "--workers=1",
        "--timeout=7200",
        f"--bind=127.0.0.1:{port}",
        "deepface.api.src.app:create_app()",
    ]
    os.execv(sys.executable, [sys.executable, "-m", *command])


main()
