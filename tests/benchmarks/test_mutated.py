"""Run `benchmarks/server/mutated_pool.py` with few photos, and check that it would see what it looks for."""

import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from benchmarks.common import format_damage, forms, mutants, traced
from facegallery.embedder.photos.decoder import Photo
from facegallery.embedder.photos.pixels import PhotoRefused, decode
from tests.conftest import ROOT
from tests.doses import doses

PEOPLE = 6


@pytest.fixture(scope="module")
def photos(att, tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    for i in range(1, PEOPLE + 1):
        (folder / f"s{i}").mkdir()
        with Image.open(att / f"s{i}" / "1.pgm") as image:
            image.convert("RGB").save(folder / f"s{i}" / "1.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def people(photos):
    from benchmarks.server.mutated_pool import People, one_of_each

    return People(one_of_each(photos, PEOPLE))


def test_every_format_that_is_read_shows_its_own_person_and_no_other_format_is_read(people):
    for person, data in enumerate(people.photos):
        for form, ways in forms.READ.items():
            for way in range(len(ways)):
                own, other = people.likeness(decode(forms.photo_in(data, form, way)), person)
                assert own > 0.85 and own > other, (form, way)
    for form in forms.OTHERS:
        with pytest.raises(PhotoRefused):
            decode(forms.photo_in(people.photos[0], form, 0))


def test_a_mutant_is_the_same_again_and_each_change_is_made():
    data = [forms._by("JPEG")(Image.effect_mandelbrot((60, 50), (-2, -1.5, 1, 1.5), 50))]
    assert mutants.mutant(data, 1, 5) == mutants.mutant(data, 1, 5)
    for form, changes in format_damage.OWN.items():
        for name, change in (changes if form in forms.READ else {}).items():
            made = [change(forms.photo_in(data[0], form, 0), np.random.default_rng(seed)) for seed in range(3)]
            assert any(each != forms.photo_in(data[0], form, 0) for each in made), (form, name)


def test_an_answer_with_another_persons_picture_is_found(people):
    from benchmarks.server.mutated_pool import wrong_with

    mine, others = (decode(people.photos[i]) for i in (0, 1))
    whole, bad = mutants.Mutant(0, "JPEG sound 0", b"", 0), mutants.Mutant(1, "JPEG head", b"", 0)
    assert wrong_with(people, whole, Photo("x", "ok", pixels=mine), is_sound=True) == ""
    assert "another person" in wrong_with(people, bad, Photo("x", "ok", pixels=others), is_sound=False)
    assert "not its own" in wrong_with(people, whole, Photo("x", "ok", pixels=others), is_sound=True)
    assert wrong_with(people, whole, Photo("x", "unreadable"), is_sound=True) and not wrong_with(
        people, bad, Photo("x", "unreadable"), is_sound=False
    )


def test_the_process_whose_memory_is_measured_keeps_nothing_of_what_was_asked(people):
    from benchmarks.server.mutated_pool import figures

    held = {}

    def asked():
        for number in range(1600):
            if number in (600, 1500):
                held[number] = tracemalloc.get_traced_memory()[0]
            yield mutants.Mutant(number, "JPEG cut", b"\xff\xd8" + bytes(1000 + number), 0), False

    tracemalloc.start()
    try:
        found = figures(people, asked(), 30)
    finally:
        tracemalloc.stop()
    assert found["photos"] == 1600 and found["outcomes"] == {"unreadable": 1600} and len(found["slowest"]) == 10
    assert held[1500] - held[600] < 100_000


def test_a_photo_in_black_and_white_counts_for_no_recognition(people):
    from benchmarks.server.canaries import is_black_and_white

    ways = [
        (form, way)
        for form in forms.READ
        for way in range(len(forms.READ[form]))
        if is_black_and_white(forms.photo_in(people.photos[0], form, way))
    ]
    assert ways == [("TIFF", 7), ("PNM", 2)]


def test_a_program_that_a_decoder_starts_is_seen(tmp_path):
    """By its mark, and by strace where there is one."""
    path, marks = traced.trap_programs(tmp_path)
    script = "import subprocess, sys; sys.argv[1:]; subprocess.run(['gs'], capture_output=True)"
    line = [sys.executable, "-c", script, "facegallery/embedder/launch.py", "facegallery.embedder.photos.decode"]
    log = tmp_path / "log"
    outer = [sys.executable, "-c", f"import subprocess; subprocess.run({line!r})"]
    subprocess.run(traced.traced(outer, log), env=os.environ | {"PATH": path}, check=True)
    assert [mark.name for mark in marks.iterdir()] == ["gs"]
    if log.exists():
        seen = traced.started(log)
        assert seen.decoders >= 1 and any("gs" in line for line in seen.programs) and seen.by_decoders


@pytest.mark.parametrize("n", doses(60, 300))
def test_decoders_stand_mutants_of_every_format_and_end_in_time(photos, tmp_path, n):
    out = tmp_path / "found.json"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "server" / "mutated_pool.py"),
        str(photos),
        "--n",
        str(n),
        "--people",
        str(PEOPLE),
        "--ends",
        "2",
    ]
    done = subprocess.run([*command, "--seed", "7", "--json", str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert (
        found["photos"] == n
        and found["outcomes"]["ok"] >= n // 4
        and found["outcomes"]["unreadable"] > n // 6
        and len(found["ends"]) == 2
    )
