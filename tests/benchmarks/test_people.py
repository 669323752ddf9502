"""The table of people: its figures against plain loops, on made-up vectors."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy import people as bench
from benchmarks.common.pages import put
from benchmarks.common.people_sets import PeopleSet, SetVectors, lfw_set, read_set, read_sets, vectors
from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import DataError, InputError
from facegallery.workflows.photos import embed, make_embedder
from tests import synthetic

PEOPLE, PHOTOS, STRANGERS = 30, 4, 40


def made_up(name: str = "made", strangers: int = 0, seed: int = 0) -> SetVectors:
    """A gallery photo and three probes a person, of two kinds; some photos have no face."""
    x = synthetic.vectors(PEOPLE, PHOTOS, seed=seed)
    x = np.concatenate([x, synthetic.vectors(strangers, 1, seed=9)]) if strangers else x
    names = [f"p{i // PHOTOS}" for i in range(PEOPLE * PHOTOS)] + [f"s{i}" for i in range(strangers)]
    splits = ["probe" if i % PHOTOS else "gallery" for i in range(PEOPLE * PHOTOS)] + ["stranger"] * strangers
    kinds = [("a", "b")[i % 2 if name != "lfw" else i // PHOTOS % 2] for i in range(PEOPLE * PHOTOS)] + [""] * strangers
    found = np.ones(len(x), bool)
    found[[1, PHOTOS * 3, PHOTOS * 7 + 2]] = False  # a probe, a gallery photo and another probe
    columns = (np.array(column) for column in (names, splits, kinds))
    return SetVectors(PeopleSet(name, Path("made.csv"), np.array(names), *columns), x * found[:, None], found)


def plain(made: SetVectors, rows: list[int], gallery: list[int]) -> list[tuple[str, float]]:
    """The best person and score of each row, a face at a time; nobody without a face."""
    best = []
    for i in rows:
        scores = {made.people.people[j]: float(made.vectors[i] @ made.vectors[j]) for j in gallery if made.found[j]}
        name = max(scores, key=lambda n: scores[n])
        best.append((str(name), scores[name]) if made.found[i] else ("", -np.inf))
    return best


@pytest.mark.parametrize(("name", "strangers"), [("made", 0), ("lfw", STRANGERS)])
def test_figures_against_plain_loops(name, strangers):
    made, of = made_up(name, strangers), [(i, j) for i in range(PEOPLE * PHOTOS) for j in [i % PHOTOS]]
    gallery, probes = [i for i, j in of if not j], [i for i, j in of if j]
    other = made_up(name, strangers, seed=1)
    lines = {line.kind: line for line in bench.lines_of("m", made, other)}
    assert set(lines) == ({"a", "b"} if name == "lfw" else {"all", "a", "b"})
    for kind, line in lines.items():
        asked = [i for i in probes if kind in ("all", made.people.kinds[i])]
        names = made.people.people
        right = [who == names[i] for i, (who, _) in zip(asked, plain(made, asked, gallery), strict=True)]
        assert line.top1.value == pytest.approx(np.mean(right)) and line.top1.low <= line.top1.value <= line.top1.high
        assert line.probes == len(asked) and line.no_face == pytest.approx(np.mean(~made.found[asked]))
        crowd = asked if name == "lfw" else probes
        enrolled = bench.first_half(names[crowd])
        assert len(enrolled) == len(set(names[crowd])) // 2
        few = [i for i in gallery if names[i] in enrolled]
        others = [i for i in crowd if names[i] not in enrolled] + list(range(PEOPLE * PHOTOS, len(names)))
        against = sorted((score for _, score in plain(made, others, few)), reverse=True)
        limit = against[int(bench.FPIR * len(against))]
        own = [i for i in asked if names[i] in enrolled]
        known = [w == names[i] and s > limit for i, (w, s) in zip(own, plain(made, own, few), strict=True)]
        assert line.dir.value == pytest.approx(np.mean(known)) and line.strangers == len(others)
        before = [who == names[i] for i, (who, _) in zip(asked, plain(other, asked, gallery), strict=True)]
        assert line.against is not None
        assert line.against.difference == pytest.approx(np.mean(right) - np.mean(before))
    assert "| made, a |" in "\n".join(bench.table(list(lines.values()))) or name == "lfw"
    assert f"| {name}, b | {lines['b'].people} / {lines['b'].probes} | " in "\n".join(
        bench.overview(list(lines.values()), ["m"], "top1")
    )


def test_sets_are_read_from_their_folder(tmp_path):
    (tmp_path / "few.csv").write_text("image,identity,split,kind\na/1.jpg,a,gallery,\na/2.jpg,a,probe,x\n")
    (tmp_path / "boxes.csv").write_text("image,identity,x0\na/1.jpg,a,1\n")
    (only,) = read_sets(tmp_path)
    assert (only.name, only.kinds.tolist(), only.splits.tolist()) == ("few", ["", "x"], ["gallery", "probe"])
    (tmp_path / "twice.csv").write_text("image,identity,split,kind\na/1.jpg,a,gallery,\na/2.jpg,a,gallery,\n")
    for name in ("twice", "boxes"):
        with pytest.raises(DataError, match=f"{name}.csv"):
            read_set(tmp_path / f"{name}.csv")


def test_lfw_gets_its_roles_and_strangers(tmp_path):
    for name, photos in (("Ann", 3), ("Bob", 2), ("Cy", 1), ("Di", 2)):
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for i in range(1, photos + 1):
            (tmp_path / "lfw" / name / f"{name}_{i:04d}.jpg").write_bytes(b"")
    lines = [f"{n},{s},{n}/{n}_000{i}.jpg\n" for n in ("Ann", "Bob") for i, s in ((1, "gallery"), (2, "probe"))]
    (tmp_path / "one.csv").write_text("identity,split,image\n" + "".join(lines))
    (tmp_path / "roles.csv").write_text("identity,role\nAnn,dev\nBob,test\n")
    found = lfw_set(tmp_path / "lfw", tmp_path / "one.csv", tmp_path / "roles.csv", tmp_path / "work")
    assert found.images.tolist()[-1] == "Cy/Cy_0001.jpg" and all((found.file.parent / i).exists() for i in found.images)
    assert found.splits.tolist() == ["gallery", "probe"] * 2 + ["stranger"]
    assert found.kinds.tolist() == ["dev", "dev", "test", "test", ""]


def test_a_page_takes_what_was_measured(tmp_path):
    (page := tmp_path / "page.md").write_text("a\n<!-- measured: people -->\nold\n<!-- end -->\nb\n")
    for _ in range(2):
        put(page, "people", ["| new |"])
        assert page.read_text() == "a\n<!-- measured: people -->\n\n| new |\n\n<!-- end -->\nb\n"
    with pytest.raises(InputError, match="measured: other"):
        put(page, "other", [])


def test_networks_embed_once_and_models_are_joined_from_them(att, tmp_path):
    """What is joined is what `embed` makes by the joined model, photos without a face included."""
    lines = ["image,identity,split,kind\n"]
    for i in range(1, 7):
        (tmp_path / f"{i}.pgm").write_bytes((att / f"s{i}" / "1.pgm").read_bytes())
        lines.append(f"{i}.pgm,s{i},gallery,\n")
    Image.new("L", (92, 112)).save(tmp_path / "black.png")
    (tmp_path / "att.csv").write_text("".join([*lines, "black.png,s1,probe,\n"]))
    people = read_set(tmp_path / "att.csv")
    found = vectors("casia+msceleb:0.7", people, tmp_path / "work")
    assert found.found.tolist() == [True] * 6 + [False] and not found.vectors[6].any()
    embed(people.file, tmp_path / "v", make_embedder("casia+msceleb:0.7"))
    rows = {row["image"]: row["vector"] for row in DataSet(tmp_path / "v").table(["image", "vector"]).to_pylist()}
    np.testing.assert_allclose(found.vectors[:6], np.array([rows[i] for i in people.images[:6]]), atol=1e-4)
    again = vectors("msceleb", people, tmp_path / "work").vectors[:6]
    part = found.vectors[:6, 512:]
    np.testing.assert_allclose(part / np.linalg.norm(part, axis=1, keepdims=True), again, atol=1e-6)
    assert len(list((tmp_path / "work" / "vectors").iterdir())) == 2
