"""Weights files of formats whose libraries may end the process on a damaged file, read in a process of their own.

Run as `facegallery.embedder.weights.reader_process FILE`: it writes the arrays as safetensors to standard output, or why there are none, as JSON, to standard
error.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from facegallery.embedder.errors import ModelError
from facegallery.embedder.process import command, environment

SECONDS = 300  # to read one file
MOST_MEMORY = 16 << 30  # bytes of address space, of which TensorFlow takes several without using them
Arrays = dict[str, np.ndarray]


def read_apart(path: Path) -> Arrays:
    """Read a weights file in another process; raise ModelError where it is refused, ValueError where the process ended."""
    from safetensors.numpy import load

    try:
        done = subprocess.run(
            command("facegallery.embedder.weights.reader_process", str(path)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            env=environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"not read within {SECONDS} seconds") from None
    if done.returncode == ModelError.exit_code:
        raise ModelError(json.loads(done.stderr.splitlines()[-1]))
    if done.returncode:
        raise ValueError(f"its reader ended with {done.returncode}")
    return load(done.stdout)


def main(readers: dict[str, Callable[[Path], Arrays]], path: Path) -> int:
    """Read `path` by the reader of its suffix and return an exit code."""
    from safetensors.numpy import save

    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    try:
        data = save(readers[path.suffix](path))
    except Exception as error:  # each library has its own way to say that a file is damaged
        from facegallery.embedder.network.shapes import damaged

        fault = error if isinstance(error, ModelError) else damaged(path, error)
        sys.stderr.write(f"\n{json.dumps(str(fault))}\n")
        return ModelError.exit_code
    with answer:
        answer.write(data)
    return 0


if __name__ == "__main__":
    from facegallery.embedder.weights.hdf5_file import read_keras_h5

    os._exit(main({".h5": read_keras_h5}, Path(sys.argv[1])))
