"""The names of the package, the functions beside a gallery, and the examples of their documentation."""

import ast
import contextlib
import importlib.util
import inspect
import io
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facegallery as fg
from facegallery import functions, interface, results
from facegallery.embedder.errors import DataError, FaceGalleryError, InputError, ModelError, SystemFault
from tests.command import ROOT

NAMES = [
    "AsyncClient",
    "Client",
    "FaceSpec",
    "Gallery",
    "Model",
    "__version__",
    "align",
    "compare",
    "connect",
    "dedupe",
    "detect",
    "embed",
    "errors",
    "evaluate",
    "open",
    "results",
    "train",
]
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def photo(att) -> Path:
    return att / "s2" / "7.pgm"


@pytest.fixture(scope="module")
def two_faces(att, tmp_path_factory) -> Path:
    """A photo that shows s2, larger, and s3."""
    first, second = (Image.open(att / f"s{i}" / "1.pgm").convert("RGB") for i in (2, 3))
    both = Image.new("RGB", (400, 260), (90, 90, 90))
    both.paste(first.resize((184, 224)), (100, 20))
    both.paste(second, (300, 70))
    both.save(path := tmp_path_factory.mktemp("two") / "both.png")
    return path


# names ----------------------------------------------------------------------


def test_public_names_are_these():
    assert sorted(fg.__all__) == fg.__all__ == NAMES
    assert all(getattr(fg, name) is not None for name in NAMES if name not in ("AsyncClient", "connect"))
    assert set(NAMES) <= set(dir(fg)) and fg.errors.FaceGalleryError is FaceGalleryError and fg.results is results
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        fg.nothing_of_this_name  # noqa: B018
    assert (ROOT / "facegallery" / "py.typed").is_file()


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys; before = set(sys.modules); import facegallery, facegallery.results, facegallery.interface; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["facegallery"]


@pytest.mark.parametrize("name", ["open", "dedupe", "detect", "embed", "align", "train", "evaluate", "compare"])
def test_functions_take_all_but_two_arguments_by_keyword(name):
    parameters = inspect.signature(getattr(fg, name)).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert 1 <= len(positional) <= 2 and all(p.annotation is not p.empty for p in parameters)
    assert (getattr(fg, name).__doc__ or "").split("\n")[0].endswith(".")


# detect, embed, align -------------------------------------------------------


def test_detect_and_embed_find_the_same_faces(photo, two_faces):
    found, embedded = fg.detect([photo, two_faces]), fg.embed([photo, two_faces])
    assert [(f.image, f.face, f.box, f.face_id) for f in found] == [
        (f.image, f.face, f.box, f.face_id) for f in embedded
    ]
    assert [(f.image, f.face) for f in found] == [("7.pgm", 0), ("both.png", 0), ("both.png", 1)]
    assert [photo.outcome for photo in found.photos] == ["ok", "ok"] and len(found.photos[1].faces) == 2
    face = embedded[1]
    assert face.vector is not None and np.linalg.norm(face.vector) == pytest.approx(1, abs=1e-5)
    assert face.vector.dtype == np.float32 and embedded.vectors.shape == (3, 128)
    (right, left, nose, *corners), (x0, y0, x1, y1) = face.landmarks, face.box
    assert right[0] < nose[0] < left[0] and nose[1] > right[1] and all(y > nose[1] for _, y in corners)
    assert all(x0 < x < x1 and y0 < y < y1 for x, y in face.landmarks) and 0.9 < face.confidence <= 1
    assert found[0].vector is None and found[0].crop is None
    with pytest.raises(ValueError, match="array"):
        found.vectors  # noqa: B018
    assert len(fg.detect(two_faces, one_face=True)) == len(fg.embed(two_faces, one_face=True)) == 1


def test_crops_and_how_sharp_they_are(photo):
    image = Image.open(photo)
    sharp, blurred = (
        fg.detect(one, crops=True)[0]
        for one in (image, image.resize((46, 56)).resize(image.size, Image.Resampling.BILINEAR))
    )
    assert sharp.crop is not None and sharp.crop.shape == (160, 160, 3) and sharp.crop.dtype == np.uint8
    assert sharp.sharpness > 2 * blurred.sharpness > 0 and 1 > sharp.quality > blurred.quality > 0
    embedded, dark = fg.embed([photo, Image.eval(image, lambda level: level // 4)])
    assert 0 < embedded.quality < 1 and dark.brightness == pytest.approx(embedded.brightness / 4, abs=3)
    assert dark.contrast < embedded.contrast / 3 and abs(embedded.roll) < 20 and abs(embedded.yaw) < 0.3
    assert embedded.crop is None


def test_faces_are_a_table_too(photo, two_faces):
    table = fg.embed([two_faces, b"no photo"]).to_arrow()
    rows = table.to_pylist()
    assert table.column_names == [
        "image",
        "outcome",
        "identity",
        "face",
        "face_id",
        "box",
        "landmarks",
        "confidence",
        "quality",
        "sharpness",
        "brightness",
        "contrast",
        "yaw",
        "pitch",
        "roll",
        "vector",
    ]
    assert [row["outcome"] for row in rows] == ["ok", "ok", "unreadable"] and rows[2]["vector"] is None
    assert len(rows[0]["landmarks"]) == 10 and len(rows[0]["vector"]) == 128 and len(rows[0]["box"]) == 4


def test_embed_gives_the_vectors_of_a_data_set(att, photo, tmp_path):
    for i in (1, 2):
        (tmp_path / "photos" / f"s{i}").mkdir(parents=True)
        shutil.copy(att / f"s{i}" / "1.pgm", tmp_path / "photos" / f"s{i}")
    from facegallery.embedder.dataset.dataset import DataSet
    from facegallery.embedder.dataset.row import to_rows

    seen: list[tuple[int, int]] = []
    done = fg.embed(tmp_path / "photos", out=tmp_path / "v", progress=lambda done, total: seen.append((done, total)))
    assert done.outcomes == {"ok": 2} and seen[-1] == (2, 2)
    rows = [row for table in DataSet(tmp_path / "v").shards() for row in to_rows(table)]
    faces = fg.embed(str(tmp_path / "photos"))
    assert [(f.image, f.identity, f.face_id) for f in faces] == [(r.image, r.identity, r.face_id) for r in rows]
    for face, row in zip(faces, rows, strict=True):
        assert np.abs(np.asarray(face.vector) - row.vector).max() < 2e-3, "another network, ready sooner, made these"
    crops = fg.align(tmp_path / "photos", tmp_path / "c", border=20)
    assert crops.outcomes == {"ok": 2} and fg.embed(tmp_path / "c", out=tmp_path / "w").outcomes == {"ok": 2}
    with pytest.raises(InputError, match="out"):
        fg.embed(tmp_path / "c")
    with pytest.raises(InputError):
        fg.embed(photo.read_bytes(), out=tmp_path / "x")


def test_models_by_name_folder_and_object(photo):
    from facegallery.embedder.weights.store import open_model

    by_name = fg.embed(photo, model="casia")[0].vector
    opened = open_model("casia")
    assert isinstance(opened, fg.Model) and isinstance(opened.spec, fg.FaceSpec)
    assert np.array_equal(by_name, fg.embed(photo, model=opened)[0].vector)
    assert by_name.shape == (opened.spec.dimension,) != fg.embed(photo)[0].vector.shape
    assert not np.array_equal(by_name, fg.embed(photo, model=opened, views="mirror")[0].vector)
    with pytest.raises(ModelError):
        fg.embed(photo, model="nothing")
    with pytest.raises(DataError):
        fg.detect("nowhere.jpg")


def test_networks_stay_loaded_and_few_at_once(photo, monkeypatch):
    functions._let_go()
    made = []
    real = functions.Networks
    monkeypatch.setattr(functions, "Networks", lambda *a, **k: made.append(a) or real(*a, **k))
    for _ in range(2):
        fg.embed(photo), fg.compare(photo, photo), fg.detect(photo)
    assert len(made) == 2 and len(functions._networks) == 2
    fg.embed(photo, model="casia")
    assert len(made) == 3 and len(functions._networks) == functions.KEPT
    functions._let_go()
    assert fg.detect(photo)[0].face == 0


def test_compare_two_photos(att, photo):
    same = fg.compare(photo, np.asarray(Image.open(att / "s2" / "1.pgm").convert("RGB")))
    assert same.score > 0.7 > fg.compare(photo, att / "s5" / "1.pgm").score
    assert same.same is None and same.faces[0].others == 0 and same.faces[0].image == str(photo)


# results --------------------------------------------------------------------


def test_pandas_is_used_where_it_is_and_named_where_it_is_not(photo):
    found = fg.detect(photo)
    if importlib.util.find_spec("pandas") is None:
        with pytest.raises(SystemFault, match="pip install pandas"):
            found.to_pandas()
    else:
        assert list(found.to_pandas()["image"]) == ["7.pgm"]


def test_results_are_documents_and_pydantic_reads_them_again(photo):
    pydantic = pytest.importorskip("pydantic")
    hit = results.Hit(1, "Ann", 0.5, "0" * 32, "a.jpg")
    face = results.FoundFace(0, "1" * 32, (1.0, 2.0, 3.0, 4.0), 0.9, True, 0.1, 0.1, None, None, 0.2, (hit,), "p.jpg")
    found = results.PhotoResult("p.jpg", "ok", faces=(face,))
    adapter = pydantic.TypeAdapter(results.PhotoResult)
    assert adapter.validate_python(results.as_document(found)) == found
    assert adapter.json_schema()["$defs"]["Hit"]["properties"]["rank"]["minimum"] == 1
    wrong = results.as_document(found)
    wrong["faces"][0]["hits"][0]["face_id"] = "x"
    with pytest.raises(pydantic.ValidationError):
        adapter.validate_python(wrong)
    document = results.as_document(fg.embed(photo))
    assert "vector" not in document["photos"][0]["faces"][0]


def test_every_result_is_frozen_and_says_what_it_is():
    kinds = [getattr(results, name) for name in results.__all__ if inspect.isclass(getattr(results, name))]
    assert len(kinds) > 20
    for kind in kinds:
        assert (kind.__doc__ or "").strip(), kind
        assert kind is results.ResultList or kind.__dataclass_params__.frozen, kind


def test_the_interface_documents_each_method():
    for name, method in inspect.getmembers(interface.GalleryInterface, inspect.isfunction):
        assert name.startswith("_") or (method.__doc__ or "").strip(), name


# train ----------------------------------------------------------------------


@pytest.mark.slow
def test_train_makes_a_model_that_embeds(att, photo, tmp_path):
    for i in range(1, 9):
        (tmp_path / "photos" / f"s{i}").mkdir(parents=True)
        for number in range(1, 5):
            shutil.copy(att / f"s{i}" / f"{number}.pgm", tmp_path / "photos" / f"s{i}")
    fg.align(tmp_path / "photos", tmp_path / "crops", border=20)
    done = fg.train(tmp_path / "crops", tmp_path / "model", epochs=(1, 1))
    assert done.people == 8 and done.photos == 32 and done.networks[0].parent
    again = fg.train(tmp_path / "crops", tmp_path / "model", epochs=(1, 1))
    assert again == done, "what is complete is not done again"
    assert fg.embed(photo, model=tmp_path / "model")[0].vector is not None


# the examples ---------------------------------------------------------------


def examples() -> Iterator[tuple[str, str]]:
    """(where, code) of each example in the documentation of public names; those of `train` take minutes."""
    places = {"facegallery": fg, "open": fg.open}
    places |= {f"Gallery.{n}": m for n, m in inspect.getmembers(fg.Gallery, inspect.isfunction) if n[0] != "_"}
    places |= {name: getattr(fg, name) for name in ("dedupe", "detect", "embed", "align", "evaluate", "compare")}
    for place, thing in places.items():
        for i, code in enumerate(EXAMPLE.findall(inspect.getdoc(thing) or "")):
            yield f"{place} {i}", code


@pytest.fixture(scope="module")
def workplace(att, tmp_path_factory) -> Path:
    """A folder with what the examples name: photos/, probes/, unsorted/ and party.jpg."""
    folder = tmp_path_factory.mktemp("workplace")
    for kind, numbers in (("photos", (1, 2)), ("probes", (3,))):
        for person in range(1, 6):
            (folder / kind / f"s{person}").mkdir(parents=True)
            for number in numbers:
                shutil.copy(att / f"s{person}" / f"{number}.pgm", folder / kind / f"s{person}")
    (folder / "unsorted").mkdir()
    for person in range(6, 9):
        for number in range(1, 5):
            shutil.copy(att / f"s{person}" / f"{number}.pgm", folder / "unsorted" / f"{person}-{number}.pgm")
    Image.open(att / "s2" / "8.pgm").convert("RGB").save(folder / "party.jpg", quality=95)
    return folder


def test_examples_run(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("FACEGALLERY_INDEXES", str(workplace / "indexes"))
    found = dict(examples())
    assert len(found) >= 14, found.keys()
    with fg.open("people", create=True) as gallery:
        gallery.add("photos/")
        for place, code in found.items():
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, place, "exec"), {"fg": fg, "gallery": gallery})
            assert "print(" not in code or out.getvalue().strip(), place


def test_log_lines_go_to_the_loggers_of_the_package():
    logger = logging.getLogger("facegallery")
    assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
    for path in [*(ROOT / "facegallery" / "workflows").glob("*.py"), *(ROOT / "facegallery").glob("*.py")]:
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert "print" not in names, path
