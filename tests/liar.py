"""A decoder that does what the first line of a photo's bytes says, as one could that a hostile photo has taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from facegallery.embedder import process
from facegallery.embedder.photos.decode import read_from, write_to
from facegallery.embedder.process import channel, frame, greet

SIDE = 20


def main() -> None:
    questions, answers, _ = channel()
    greet(answers)
    while length := read_from(questions, 4):
        head = json.loads(read_from(questions, int.from_bytes(length, "little")))
        what, _, value = read_from(questions, head["size"]).decode().partition(" ")
        said = {"outcome": "ok", "why": "", "sha256": None, "shape": [SIDE, SIDE, 3], "taken": None, "place": None}
        sound = {"id": head["id"]} | said
        pixels = bytes(3 * SIDE * SIDE)
        match what:
            case "print":
                os.system("echo forged; echo forged >&2")
                print("forged", flush=True), os.write(1, b"forged"), os.write(2, b"forged")
                write_to(answers, frame(sound) + pixels)
            case "raw":  # as the answer pipe was once filled by Ghostscript
                write_to(answers, bytes.fromhex(value))
                time.sleep(1000)
            case "change":
                write_to(answers, frame(sound | json.loads(value)) + pixels)
            case "drawn":
                text = value.encode()
                write_to(answers, frame(sound | {"turn": 6, "drawn": len(text)}) + pixels + text)
            case "text":
                text = value.encode()
                write_to(answers, len(text).to_bytes(4, "little") + text + pixels)
            case "deep":
                text = b"[" * 60_000
                write_to(answers, len(text).to_bytes(4, "little") + text + pixels)
            case "twice":
                write_to(answers, 2 * (frame(sound) + pixels))
            case "half":
                write_to(answers, frame(sound) + pixels[:100])
                time.sleep(1000)
            case "die":
                os._exit(int(value))
            case "child":  # a process of its own, which tells what it inherited
                links = "[os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[:-1]]"
                script = f"import os; print(os.getpid(), *{links})"
                told = subprocess.run(
                    [sys.executable, "-c", script], close_fds=False, capture_output=True, text=True
                ).stdout
                subprocess.Popen(["sleep", "1000"])
                write_to(answers, frame(sound | {"outcome": "missing", "why": told[:200].strip(), "shape": None}))
            case "hang":
                subprocess.Popen(["sleep", "1000"])
                time.sleep(1000)
            case _:
                write_to(answers, frame(sound | {"why": f"{os.getpid()}"}) + pixels)


if __name__ == "__main__":
    assert process.__name__ == "facegallery.embedder.process"
    main()
