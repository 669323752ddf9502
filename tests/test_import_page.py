"""The lines of the page about imports, run as they stand against servers that answer as CompreFace and Immich do."""

import json
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from facegallery.workflows import enrol
from facegallery.workflows.indexes import create_gallery
from facegallery.workflows.probes import open_store
from tests import drawn
from tests.conftest import ROOT

PAGE = (ROOT / "docs/howto/import.md").read_text()
NAMES = {"s1": "Ann Lee", "s5": "", "s7": "Cem / Co"}
PHOTO = "11111111-2222-4333-8444-555555555555"
pytestmark = pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="needs jq and curl")


@pytest.fixture
def serve():
    """`serve(answer)`: the address of a server; `answer(path, query, body)` gives bytes or a JSON document."""
    running = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                url, size = urlsplit(self.path), int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                found = answer(url.path, parse_qs(url.query), body) if self.headers["x-api-key"] == "secret" else None
                data = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(404 if found is None else 200)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, *_):
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        running.append(server)
        threading.Thread(target=server.serve_forever).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def run_lines(section, folder, **variables):
    """Run a section's lines in a folder, without the last one, with other values of its variables."""
    text = re.search(r"```bash\n(.*?)```", PAGE.split(f"## {section}\n")[1], re.DOTALL)[1]
    *lines, last = text.strip().splitlines()
    assert last.startswith("facegallery add ") and set(re.findall(r"(\w+)=\S+", lines[0])) == set(variables)
    lines[0] = " ".join(f"{name}={value}" for name, value in variables.items())
    subprocess.run(["bash", "-euo", "pipefail", "-c", "\n".join(lines)], cwd=folder, check=True, timeout=60)
    return folder / last.split()[3]


def people_of(name):
    with open_store(name) as store:
        return {p: [(f["image"], f["box"]) for f in store.list_faces(p)] for p, _ in store.list_people()}


def test_immich(serve, att, tmp_path, own_indexes):
    photo, half = drawn.saved(drawn.collage(att, 1), 6), (drawn.WIDTH // 2, drawn.HEIGHT // 2)

    def face(one, name):
        x0, y0, x1, y1 = (round(side / 2) for side in drawn.boxes()[one])
        sides = {"boundingBoxX1": x0, "boundingBoxY1": y0, "boundingBoxX2": x1, "boundingBoxY2": y1}
        person = {"id": one, "name": name} if one != "s5" else None
        return sides | {"id": one, "imageWidth": half[0], "imageHeight": half[1], "person": person}

    def answer(path, query, body):
        match path:
            case "/api/people":
                return {"people": [{"id": one, "name": name} for one, name in NAMES.items()], "hasNextPage": False}
            case "/api/search/metadata" if body["type"] == "IMAGE":
                items = [{"id": PHOTO}] if set(body["personIds"]) < set(NAMES) else []
                return {"assets": {"items": items, "nextPage": None}}
            case "/api/faces" if query["id"] == [PHOTO]:
                return [face(one, name) for one, name in NAMES.items()]
            case _:
                return photo if path == f"/api/assets/{PHOTO}/original" else None

    source = run_lines("Immich", tmp_path, API=f"{serve(answer)}/api", KEY="secret")
    create_gallery("g")
    done = enrol.add("g", source)
    assert done.added == 2 and done.unnamed == 1
    for one, name in (("s1", "Ann Lee"), ("s7", "Cem / Co")):
        ((image, box),) = people_of("g")[name]
        x0, y0, x1, y1 = drawn.boxes()[one]
        assert image == PHOTO and x0 < (box[0] + box[2]) / 2 < x1 and y0 < (box[1] + box[3]) / 2 < y1


def test_compreface(serve, att, tmp_path, own_indexes):
    photos = {one: (one, name) for one, name in NAMES.items() if name}
    faces = [{"image_id": one, "subject": name} for one, (_, name) in photos.items()]

    def answer(path, query, body):
        if path == "/api/v1/recognition/faces":
            return {"faces": faces, "page_number": 0, "total_pages": 1}
        one = path.split("/")[-2]
        return (att / one / "1.pgm").read_bytes() if path == f"/api/v1/recognition/faces/{one}/img" else None

    source = run_lines("CompreFace", tmp_path, URL=serve(answer), KEY="secret")
    create_gallery("g")
    assert enrol.add("g", source).added == 2 and set(people_of("g")) == {"Ann Lee", "Cem _ Co"}
