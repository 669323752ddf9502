import asyncio
import base64
import itertools
import json
import os
import time
from itertools import accumulate
from unittest.mock import AsyncMock, Mock

import numpy as np
import pytest
from fastapi import Request

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import to_rows
from facegallery.embedder.errors import DataError
from facegallery.results import PhotoResult
from facegallery.server import problems
from facegallery.server.guard import HeldBytes
from facegallery.server.routes import stream
from facegallery.server.routes.stream import _in_order, _split
from facegallery.server.settings import Settings
from facegallery.workflows.probes import Question
from facegallery.workflows.search import search
from tests.served import running as serving


@pytest.fixture
def client(server):
    with server.client() as found:
        yield found


@pytest.fixture
def asked(server, monkeypatch):
    """`search` as the command asks it: the oracle."""
    monkeypatch.setenv("FACEGALLERY_INDEXES", str(server.indexes))

    def call(path, **question):
        (probe,) = search("att", [path], Question(**question)).result()["probes"]
        return probe

    return call


def problem(answer, status, kind):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (
        body["status"] == status
        and body["type"] == f"urn:facegallery:problem:{kind}"
        and body["title"]
        and "\n" not in body["detail"]
    )
    return body


def enrolled(client, identity):
    answer = client.get("/v1/indexes/att/faces", params={"identity": identity})
    return [face["face_id"] for face in answer.json()["faces"]] if answer.status_code == 200 else []


# search ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "question",
    [
        {"k": 3},
        {"k": 2, "faces": True},
        {"k": 2, "score": "mean"},
        {"k": 2, "where": ("identity!=s7",)},
        {"min_score": 0.3},
    ],
)
def test_a_photo_is_answered_as_the_command_answers_it(server, client, asked, question):
    found = client.post("/v1/indexes/att/search", content=server.probe(7), params={**question, "image": "2.pgm"}).json()
    wanted = asked(server.photos / "probe" / "s7" / "2.pgm", **question)
    (face,), (true,) = found["faces"], wanted["faces"]
    assert found["image"] == "2.pgm" and found["outcome"] == wanted["outcome"] == "ok" and found["left_out"] == 0
    assert face["face_id"] == true["face_id"] and face["box"] == pytest.approx(true["box"], abs=0.02)
    assert [hit["identity"] for hit in face["hits"]] == [hit["identity"] for hit in true["hits"]]
    np.testing.assert_allclose(
        [hit["score"] for hit in face["hits"]], [hit["score"] for hit in true["hits"]], atol=1e-5
    )


def test_vectors_are_answered_as_photos_are(server, client):
    rows = [row for table in DataSet(server.photos.parent / "vectors").shards() for row in to_rows(table)][:3]
    body = {"vectors": [list(row.vector) for row in rows], "k": 1}
    answers = client.post("/v1/indexes/att/search/vectors", json=body).json()["answers"]
    assert [a["hits"][0]["face_id"] for a in answers] == [row.face_id for row in rows]
    assert all(
        a["hits"][0]["score"] == pytest.approx(1, abs=1e-6) and a["known"] is None and a["margin"] > 0.2
        for a in answers
    )


def test_many_photos_are_answered_line_by_line_in_order(server, client):
    lines = [json.dumps({"id": f"s{i}", "photo": base64.b64encode(server.probe(i)).decode()}) for i in range(1, 41)]
    lines[3], lines[5:5] = "no json", ["", "  "]
    with client.stream(
        "POST", "/v1/indexes/att/search/stream", content="\n".join(lines).encode(), params={"k": 1}
    ) as answer:
        found = [json.loads(line) for line in answer.iter_lines()]
    assert [line["id"] for line in found] == [None if i == 3 else f"s{i + 1}" for i in range(40)]
    assert found[3]["problem"]["status"] == 422
    right = [line["answer"]["faces"][0]["hits"][0]["identity"] == line["id"] for line in found if "answer" in line]
    assert sum(right) >= 35


def test_a_stream_is_answered_while_it_arrives():
    async def first_before_second() -> list[bytes]:
        go, found = asyncio.Event(), []

        async def answer(text: bytes) -> bytes:
            return text

        async def tasks():
            yield asyncio.create_task(answer(b"1"))
            await go.wait()
            yield asyncio.create_task(answer(b"2"))

        async for line in _in_order(tasks(), 4, asyncio.Event().wait):
            found.append(line)
            go.set()
        return found

    assert asyncio.run(asyncio.wait_for(first_before_second(), 5)) == [b"1", b"2"]


def test_no_more_of_a_stream_run_than_may_and_they_come_in_order():
    running, most = 0, 0

    async def answer(i: int) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01 * (i % 3))
        running -= 1
        return b"%d" % i

    async def tasks():
        for i in range(50):
            yield asyncio.create_task(answer(i))

    async def all_of_them() -> list[bytes]:
        return [line async for line in _in_order(tasks(), 4, asyncio.Event().wait)]

    assert asyncio.run(all_of_them()) == [b"%d" % i for i in range(50)] and 2 <= most <= 5


def test_the_tasks_of_a_stream_end_with_its_client():
    async def gone_while_one_waits() -> tuple[list[bytes], bool]:
        gone, ended = asyncio.Event(), asyncio.Event()

        async def busy() -> bytes:
            try:
                await asyncio.sleep(1000)
                return b"late"
            except asyncio.CancelledError:
                ended.set()
                raise

        async def tasks():
            yield asyncio.create_task(busy())

        asyncio.get_running_loop().call_later(0.1, gone.set)
        found = [line async for line in _in_order(tasks(), 4, gone.wait)]
        await asyncio.wait_for(ended.wait(), 5)
        return found, ended.is_set()

    assert asyncio.run(asyncio.wait_for(gone_while_one_waits(), 10)) == ([], True)


def test_a_photo_of_a_stream_is_tried_again_less_and_less_often_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(stream, "GIVE_UP_SECONDS", 1.0)
    monkeypatch.setattr(stream, "LONGEST_PAUSE", 0.4)
    asked: list[float] = []

    async def busy() -> None:
        asked.append(time.monotonic())
        raise problems.busy("more photos wait than may: try again")

    async def refused() -> None:
        raise problems.HttpProblem(422, "invalid", "no")

    async def twice() -> str:
        asked.append(0)
        if len(asked) < 2:
            raise problems.HttpProblem(429, "rate", "wait")
        return "done"

    with pytest.raises(problems.HttpProblem, match="503"):
        asyncio.run(stream._retry_busy(busy))
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert (
        3 <= len(asked) <= 5
        and pauses == sorted(pauses, key=lambda pause: round(pause, 1))
        and asked[-1] - asked[0] < 1.1
    )
    asked.clear()
    assert asyncio.run(stream._retry_busy(twice)) == "done"
    with pytest.raises(problems.HttpProblem, match="422"):
        asyncio.run(stream._retry_busy(refused))


def test_a_line_that_comes_in_pieces_is_one_and_one_too_long_is_cut():
    async def parts():
        for part in (b"ab", b"c\nd", b"\n\n  \ne", b"f\n", b"x" * 30, b"y" * 30, b"\nlast"):
            yield part

    async def lines() -> list[bytes]:
        return [line async for line in _split(parts(), 20, held.append)]

    held: list[int] = []
    assert asyncio.run(lines()) == [b"abc", b"d", b"ef", b"x" * 21, b"last"]
    assert list(accumulate(held)) == [2, 1, 1, 0, 21, 21, 4]


@pytest.mark.parametrize(
    "most, outcomes", [(1000, ["answer"] * 4), (130, ["answer"] * 2 + ["problem"]), (50, ["problem"])]
)
def test_photos_of_a_stream_are_held_while_they_run(monkeypatch, most, outcomes):
    async def answer(*_):
        await asyncio.sleep(0.1)
        return PhotoResult("", "ok")

    monkeypatch.setattr(stream, "search_photo", answer)
    held, lines = (
        HeldBytes(most),
        [json.dumps({"id": str(i), "photo": base64.b64encode(bytes(60)).decode()}).encode() + b"\n" for i in range(4)],
    )

    async def receive():
        if not lines:  # the client waits for the answers
            await asyncio.Event().wait()
        return {"type": "http.request", "body": lines.pop(0), "more_body": bool(lines)}

    async def found() -> list[dict]:
        request = Request({"type": "http", "state": {"hold": held.add}}, receive)
        state = Mock(settings=Settings(("att",)), desk=Mock(admit=AsyncMock()))
        said = await stream.search_many_photos(request, state, Mock(), Mock(), Question())
        return [json.loads(line) async for line in said.body_iterator]

    answers = asyncio.run(found())
    assert [answer.keys() - {"id"} for answer in answers] == [{outcome} for outcome in outcomes] and held.bytes == 0
    assert all(answer["problem"]["type"].endswith(":busy") for answer in answers if "problem" in answer)


def test_questions_of_different_sizes_spoil_no_others(server, monkeypatch):
    """Asked at once, they are answered each as alone."""
    from facegallery.server.served_index import PendingQuestion, ServedIndex

    monkeypatch.setenv("FACEGALLERY_INDEXES", str(server.indexes))

    right, wrong, question = np.eye(1, 128, dtype=np.float32), np.ones((1, 1), np.float32), Question(k=2)
    answer = ServedIndex("att")._make_search()
    first, second, third = answer(
        [PendingQuestion(right, question), PendingQuestion(wrong, question), PendingQuestion(right, question)]
    )
    assert first == third and len(first[0].hits) == 2 and isinstance(second, DataError)


def test_two_photos_are_compared(server, client):
    def score(a, b):
        files = {"first": ("a.pgm", a), "second": ("b.pgm", b)}
        return client.post("/v1/indexes/att/verify", files=files)

    same, other = score(server.probe(5), server.probe(5, 3)).json(), score(server.probe(5), server.probe(6)).json()
    assert same["score"] > 0.6 > other["score"] and [face["others"] for face in same["faces"]] == [0, 0]
    problem(score(server.probe(5), b"no photo"), 422, "unreadable")


def test_what_is_no_photo_is_one_clear_problem(client):
    problem(client.post("/v1/indexes/att/search", content=b"no photo"), 422, "unreadable")
    heic = b"\0\0\0\x18ftypheic" + bytes(100)
    problem(client.post("/v1/indexes/att/search", content=heic), 422, "unreadable")
    problem(client.post("/v1/indexes/att/search"), 422, "invalid")
    blank = b"P5 100 100 255\n" + bytes(10_000)
    assert client.post("/v1/indexes/att/search", content=blank).json()["outcome"] == "no_face"
    body = problem(client.post("/v1/indexes/att/faces", content=blank, params={"identity": "x"}), 422, "no_face")
    assert body["outcome"] == "no_face"
    vast = b"P5 10000 10000 255\n" + bytes(1000)
    problem(client.post("/v1/indexes/att/search", content=vast), 422, "too_large")


@pytest.mark.parametrize(
    "vectors, detail",
    [
        ([[0.1] * 128], "length 1"),
        ([[1.0] + [0.0] * 126], "127"),
        ([[1.0] * 128, [1.0] * 4], "one of 4"),
        ([[]], "one of 0"),
        ([[1e300] * 128], "length 1"),
    ],
)
def test_vectors_that_cannot_be_are_refused_and_spoil_no_others(client, vectors, detail):
    assert (
        detail
        in problem(client.post("/v1/indexes/att/search/vectors", json={"vectors": vectors}), 422, "invalid")["detail"]
    )


def test_a_wrong_question_is_refused(client):
    photo = b"P5 1 1 255\n0"
    for params in ({"k": 0}, {"k": "x"}, {"score": "worst"}, {"k": 10**9}):
        problem(client.post("/v1/indexes/att/search", content=photo, params=params), 422, "invalid")
    problem(client.post("/v1/indexes/att/search/vectors", content=b"{"), 422, "invalid")
    problem(client.post("/v1/indexes/att/search/vectors", json={"vectors": [[1.0]], "other": 1}), 422, "invalid")
    problem(client.get("/v1/indexes/nobody"), 404, "index")
    problem(client.get("/v1/nothing"), 404, "http")
    problem(client.put("/v1/indexes"), 405, "http")


def test_a_filter_on_a_column_that_nobody_has_is_refused(server, client):
    answer = client.post("/v1/indexes/att/search", content=server.probe(7), params={"where": "year>=1999"})
    assert "year" in problem(answer, 422, "invalid")["detail"]


def test_a_filter_has_a_limit_that_the_openapi_document_says(client):
    asked = client.post("/v1/indexes/att/search/vectors", json={"vectors": [[1.0] * 128], "where": ["s=" + "1" * 999]})
    assert "1000" in problem(asked, 422, "invalid")["detail"]
    question = client.get("/openapi.json").json()["paths"]["/v1/indexes/{index}/search/vectors"]["post"]["requestBody"]
    assert question["content"]["application/json"]["schema"]["properties"]["where"]["items"]["maxLength"] == 1000


def test_what_is_no_filter_is_refused_before_a_stream_begins(client):
    answer = client.post("/v1/indexes/att/search/stream", content=b"", params={"where": "false"})
    assert "filter" in problem(answer, 422, "invalid")["detail"]


# people ---------------------------------------------------------------------


def test_people_come_page_by_page_with_a_face_each(client):
    names, cursor = [], None
    while True:
        page = client.get(
            "/v1/indexes/att/people", params={"limit": 17} | ({"cursor": cursor} if cursor else {})
        ).json()
        names += page["people"]
        if (cursor := page["next"]) is None:
            break
    assert sorted(p["identity"] for p in names) == [p["identity"] for p in names] and len(names) == 40
    png = client.get(f"/v1/indexes/att/faces/{names[0]['face_id']}/thumbnail")
    assert (
        png.headers["content-type"] == "image/png"
        and png.content.startswith(b"\x89PNG")
        and png.headers["cache-control"] == "no-store"
    )
    found = client.get("/v1/indexes/att/people", params={"containing": "S3"}).json()["people"]
    assert {p["identity"] for p in found} == {"s3", *(f"s3{i}" for i in range(10))}
    problem(client.get("/v1/indexes/att/people", params={"cursor": "%%%"}), 422, "invalid")
    problem(client.get(f"/v1/indexes/att/faces/{'0' * 32}/thumbnail"), 404, "unknown")
    problem(client.get("/v1/indexes/att/faces", params={"identity": "nobody"}), 404, "unknown")


def test_a_face_is_enrolled_found_renamed_merged_split_removed_and_all_taken_back(server, client):
    def change(path, **body):
        answer = client.post(f"/v1/indexes/att/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    before = enrolled(client, "s11")
    done = client.post("/v1/indexes/att/faces", content=server.probe(11), params={"identity": "Ada"}).json()
    face_id = done["face"]["face_id"]
    assert done["added"] == 1 and enrolled(client, "Ada") == [face_id]
    assert client.get(f"/v1/indexes/att/faces/{face_id}/thumbnail").status_code == 200
    hit = client.post("/v1/indexes/att/search", content=server.probe(11)).json()["faces"][0]["hits"][0]
    assert hit["identity"] == "Ada" and hit["score"] == pytest.approx(1, abs=1e-5)
    again = client.post("/v1/indexes/att/faces", content=server.probe(11), params={"identity": "Ada"}).json()
    assert (again["added"], again["again"]) == (0, 1)
    problem(client.post("/v1/indexes/att/faces", content=server.probe(11), params={"identity": "Bob"}), 409, "conflict")

    renamed = change("people/rename", old="Ada", new="Ada L.")
    assert (renamed["verb"], renamed["faces"], renamed["people"]) == ("rename", 1, ["Ada", "Ada L."])
    problem(client.post("/v1/indexes/att/people/rename", json={"old": "Ada L.", "new": "s12"}), 409, "conflict")
    problem(client.post("/v1/indexes/att/people/rename", json={"old": "Ada", "new": "x"}), 404, "unknown")
    change("people/merge", source="Ada L.", into="s11")
    assert enrolled(client, "s11") == [*before, face_id]
    change("people/split", face_ids=[face_id], to="Eve")
    change("people/remove", face_id=face_id)
    assert enrolled(client, "Eve") == [] and enrolled(client, "s11") == before
    problem(client.post("/v1/indexes/att/people/remove", json={}), 422, "invalid")
    problem(client.post("/v1/indexes/att/undo", json={"command": renamed["command"]}), 409, "conflict")
    for left, command in (
        ("remove", None),
        ("split", None),
        ("merge", None),
        ("rename", renamed["command"]),
        ("add", done["command"]),
    ):
        assert [line["verb"] for line in client.post("/v1/indexes/att/undo", json={"command": command}).json()] == [
            left
        ]
    assert again["command"] is None
    assert enrolled(client, "Ada") == [] and enrolled(client, "s11") == before


def test_of_two_faces_one_must_be_named(server, client):
    a, b = (np.frombuffer(server.probe(i).split(b"255\n", 1)[1], np.uint8).reshape(112, 92) for i in (13, 14))
    both = b"P5 184 112 255\n" + np.hstack([a, b]).tobytes()
    found = problem(
        client.post("/v1/indexes/att/faces", content=both, params={"identity": "Two"}), 422, "several-faces"
    )
    assert len(found["faces"]) == 2 and enrolled(client, "Two") == []
    problem(client.post("/v1/indexes/att/faces", content=both, params={"identity": "Two", "face": 2}), 422, "invalid")
    done = client.post("/v1/indexes/att/faces", content=both, params={"identity": "Two", "face": 1}).json()
    assert done["added"] == 1 and done["face"]["face_id"] == found["faces"][1]["face_id"]
    assert {face["face"] for face in client.post("/v1/indexes/att/search", content=both).json()["faces"]} == {0, 1}
    client.post("/v1/indexes/att/undo")


def test_the_same_change_sent_again_is_done_once(server, client):
    def enrol(photo, mark="m1"):
        return client.post(
            "/v1/indexes/att/faces", content=photo, params={"identity": "s15"}, headers={"Idempotency-Key": mark}
        )

    first = enrol(server.probe(15))
    client.post("/v1/indexes/att/people/remove", json={"face_id": first.json()["face"]["face_id"]})
    again = enrol(server.probe(15))
    assert (
        again.json() == first.json()
        and again.headers["idempotency-replayed"] == "true"
        and len(enrolled(client, "s15")) == 1
    )
    problem(enrol(server.probe(15, 3)), 422, "mark")
    problem(
        client.post(
            "/v1/indexes/att/faces", content=b"x", params={"identity": "s15"}, headers={"Idempotency-Key": "m2"}
        ),
        422,
        "unreadable",
    )
    assert enrol(server.probe(15), "m2").status_code == 200  # what was refused may be asked again


def test_who_is_forgotten_is_gone_from_every_file_and_refused(server, client):
    name = "Wilhelmina Forgettable"
    client.post("/v1/indexes/att/people/rename", json={"old": "s16", "new": name}, headers={"Idempotency-Key": "f1"})
    receipt = client.post(
        "/v1/indexes/att/people/forget", json={"identity": name}, headers={"Idempotency-Key": "f2"}
    ).json()
    assert len(receipt["face_ids"]) == 1 and any("original photos" in line for line in receipt["not_cleaned"])
    deadline = time.monotonic() + 20
    while receipt["pending"]:  # while a reader of an older state holds the log
        assert time.monotonic() < deadline
        time.sleep(0.2)
        receipt = client.post("/v1/indexes/att/people/forget", json={"identity": name}).json()
    assert receipt["found"] == 0
    files = [
        path
        for folder in (server.indexes, server.root)
        for path in folder.rglob("*")
        if path.is_file() and "models" not in path.parts
    ]
    deadline = time.monotonic() + 20
    while holding := [path for path in files if path.exists() and name.encode() in path.read_bytes()]:
        assert time.monotonic() < deadline, holding
        time.sleep(0.2)
    photo = (server.photos / "gallery" / "s16" / "1.pgm").read_bytes()
    problem(client.post("/v1/indexes/att/faces", content=photo, params={"identity": "s16"}), 409, "forgotten")
    assert client.post("/v1/indexes/att/people/forget", json={"identity": name}).json()["found"] == 0  # looks again
    problem(client.post("/v1/indexes/att/people/forget", json={"identity": "Nobody Ever"}), 404, "unknown")
    back = client.post("/v1/indexes/att/faces", content=photo, params={"identity": "s16", "readmit": True})
    assert back.json()["added"] == 1


def test_a_removed_person_can_still_be_forgotten(server, client):
    face_id = enrolled(client, "s17")[0]
    client.post("/v1/indexes/att/people/remove", json={"identity": "s17"})
    receipt = client.post("/v1/indexes/att/people/forget", json={"identity": "s17"}).json()
    assert receipt["face_ids"] == [face_id] and receipt["found"] == 0


# the whole ------------------------------------------------------------------


def wait_for(client, job):
    until = time.monotonic() + 120
    while (found := client.get(f"/v1/jobs/{job['id']}").json())["state"] == "running":
        assert time.monotonic() < until
        time.sleep(0.1)
    return found


def test_a_calibration_and_a_rebuild_are_jobs_and_from_then_on_faces_are_known_or_not(server, client):
    job = client.post("/v1/indexes/att/calibrate", json={"fpir": 0.1})
    assert job.status_code == 202 and wait_for(client, job.json())["state"] == "done"
    info = client.get("/v1/indexes/att").json()
    assert info["fpir"] == 0.1 and 0 < info["threshold"] < 1
    face = client.post("/v1/indexes/att/search", content=server.probe(20)).json()["faces"][0]
    assert face["known"] is (face["hits"][0]["score"] >= info["threshold"]) and 0 < face["chance"] <= 1
    assert (
        face["chance_limit"] == 1 / (info["people"] + 1) <= face["chance"] and face["weak"] == info["calibration_weak"]
    )
    assert info["column_kinds"] == {} and face["stale"] is None
    done = wait_for(client, client.post("/v1/indexes/att/compact").json())
    assert done["state"] == "done" and done["done"] == done["total"] == client.get("/v1/indexes/att").json()["faces"]
    assert client.get("/v1/indexes/att").json()["generation"] == info["generation"] + 1
    problem(client.get("/v1/jobs/" + "0" * 16), 404, "unknown")


def test_the_state_is_told_to_a_supervisor_and_to_prometheus(server, client):
    assert client.get("/healthz").json() == client.get("/readyz").json() == {"status": "ok"}
    client.post("/v1/indexes/att/search", content=server.probe(20))
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    info = client.get("/v1/indexes/att").json()
    for what in ("faces", "people", "generation"):
        assert float(lines[f'facegallery_{what}{{index="att"}}']) == info[what]
    assert float(lines["facegallery_batch_photos_count"]) >= 1
    assert (
        float(lines['facegallery_request_seconds_count{method="POST",route="/v1/indexes/{index}/search",status="200"}'])
        >= 1
    )


def test_changes_by_other_programs_are_seen_at_once(server, client, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_INDEXES", str(server.indexes))
    from facegallery.workflows.probes import open_store

    with open_store("att", write=True) as gallery:
        gallery.rename("s30", "Thirty")
    assert (
        client.post("/v1/indexes/att/search", content=server.probe(30)).json()["faces"][0]["hits"][0]["identity"]
        == "Thirty"
    )
    assert enrolled(client, "Thirty") and not enrolled(client, "s30")


def test_every_answer_is_as_the_openapi_document_says(server, client):
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1") and len(document["paths"]) >= 20
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for name, method in methods.items():
            assert method["description"], (name, path)


def test_another_model_is_taken_up_while_it_serves(att_gallery, tmp_path):
    with serving(att_gallery(tmp_path)) as server, server.client() as client:
        before = client.post("/v1/indexes/att/search", content=server.probe(7)).json()
        server.command("reembed", "att", "--model", "casia", "--quiet")
        assert client.get("/v1/indexes/att").json()["model"] == "casia"
        for _ in range(4):
            after = client.post("/v1/indexes/att/search", content=server.probe(7))
            assert after.status_code == 200 and after.json()["faces"][0]["hits"][0]["identity"] == "s7"
        assert before["faces"][0]["hits"][0]["score"] != after.json()["faces"][0]["hits"][0]["score"]
        assert (
            client.post("/v1/indexes/att/faces", content=server.probe(7), params={"identity": "s7"}).json()["added"]
            == 1
        )


def test_told_to_end_it_answers_what_it_has_begun(att_gallery, tmp_path):
    with serving(att_gallery(tmp_path)) as server, server.client() as client:
        photos = [base64.b64encode(server.probe(i)).decode() for i in range(1, 41)]
        lines = "\n".join(json.dumps({"id": str(i), "photo": photo}) for i, photo in enumerate(photos)).encode()
        with client.stream("POST", "/v1/indexes/att/search/stream", content=lines) as answer:
            each = answer.iter_lines()
            first = next(each)
            server.process.terminate()
            found = [first, *each]
        assert len(found) == 40 and all("answer" in json.loads(line) for line in found)
        assert server.process.wait(60) == 0
        secret = server.key
    with serving(tmp_path) as server:  # the key was for that run
        with server.client(secret) as client:
            assert client.get("/v1/indexes").status_code == 401
        assert os.stat(server.root / "server.db").st_mode & 0o77 == 0
