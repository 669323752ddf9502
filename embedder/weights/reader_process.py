"""Read weights files in a process of their own, for formats whose libraries may crash on a damaged file.

Run as `facegallery.embedder.weights.reader_process FILE`: it writes the arrays as safetensors to standard output, or
the reason why there are none, as JSON, to standard error.
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
MOST_MEMORY = 16 << 30  # bytes of address space; TensorFlow reserves several GB without using them
Arrays = dict[str, np.ndarray]


def read_apart(path: Path) -> Arrays:
    """Read a weights file in another process.

    Raise ModelError where the file is refused, ValueError where the process ended or took longer than SECONDS.
    """
    from safetensors.numpy import load

    return load(run_apart("facegallery.embedder.weights.reader_process", str(path)))


def run_apart(module: str, *arguments: str, data: bytes = b"") -> bytes:
    """Run a module that answers by `answer` in another process; return what it wrote.

    data: its standard input. Raise ModelError where it refused, ValueError where it ended or took longer than SECONDS.
    """
    try:
        done = subprocess.run(
            command(module, *arguments),
            input=data,
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
    return done.stdout


def main(readers: dict[str, Callable[[Path], Arrays]], path: Path) -> int:
    """Read `path` by the reader of its suffix, write the answer, and return an exit code."""
    from safetensors.numpy import save

    return answer(lambda: save(readers[path.suffix](path)), path)


def answer(make: Callable[[], bytes], path: Path) -> int:
    """Write what `make` returns to standard output, with a limit on memory; return an exit code.

    path: the file, for the message of a refusal.
    """
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that what a library prints does not mix with the answer
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    try:
        data = make()
    except Exception as error:  # each library reports damage by errors of its own
        from facegallery.embedder.network.shapes import damaged

        fault = error if isinstance(error, ModelError) else damaged(path, error)
        sys.stderr.write(f"\n{json.dumps(str(fault))}\n")
        return ModelError.exit_code
    with output:
        output.write(data)
    return 0


if __name__ == "__main__":
    from facegallery.embedder.weights.hdf5_file import read_keras_h5

    os._exit(main({".h5": read_keras_h5}, Path(sys.argv[1])))
