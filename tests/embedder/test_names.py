import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.names import name_or_none, person_name, spelling, spelling_notes, spelt_otherwise

ANN = [
    "Ann Lee",
    "Ann Lee ",
    " Ann  Lee",
    "Ann\tLee",
    "Ann\nLee",
    "Ann\r\nLee",
    "Ann\u00a0Lee",
    "\ufeffAnn Lee",
    "Ann\u200b Lee",
    "Ann Lee\u200b",
    "A\u00adnn Lee",
    "\u202aAnn Lee\u202c",
    "Ann\u2028Lee",
    "Ann\u3000Lee",
    "Ann\u2060 Lee",
    "Ann Lee\u200d",
    "An\u200cn Lee",
    "Ann\ufe0f Lee",
    "Ann \u2800Lee",
    "\x0bAnn Lee\x85",
    "Ann\u034f Lee",
    "Ann \U000e0041Lee",
    "Ann\u3164 Lee",
]
SHOWING = [
    "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",  # Alireza in Persian, with a non-joiner
    "\u0d05\u0d28\u0d4d\u200d",  # Malayalam, an old chillu at the end
    "\u0d85\u0db4\u0dca\u200d\u0dbb",  # Sinhala, a conjunct
    "\u845b\U000e0100\u98fe",  # a Japanese form of a character
    "\U0001f469\u200d\U0001f52c",
]


@pytest.mark.parametrize("name", ANN)
def test_what_looks_the_same_is_one_name(name):
    assert person_name(name) == "Ann Lee"


@pytest.mark.parametrize("name", SHOWING)
def test_what_a_script_needs_stays(name):
    assert person_name(name) == name == person_name(f" {name}\u200b")


def test_forms_of_one_letter_are_one_name():
    assert person_name("Jose\u0301") == person_name("Jos\u00e9") == person_name("Jose\u200b\u0301") == "Jos\u00e9"
    assert person_name("ANN") != person_name("Ann")
    assert spelling("\u0301\ufe0f\u0d4d\u200c") == spelling(spelling("\u0301\ufe0f\u0d4d\u200c"))


@pytest.mark.parametrize(
    "name",
    ["", " ", "\n", "\u200b", "\u200d", "\ufe0f", "A\x00nn", "A\x07nn", "A\x1bnn", "A\x9bnn", "Jos\udce9", "x" * 501],
)
def test_a_name_that_cannot_be_is_refused_in_one_line(name):
    with pytest.raises((DataError, InputError), match="line 7 of x.csv") as error:
        person_name(name, "line 7 of x.csv")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300 and name_or_none(name) is None
    assert not any(unicodedata.category(c) == "Cc" for c in str(error.value))


@given(st.text())
def test_the_spelling_is_its_own_spelling(name):
    clean = spelling(name)
    assert spelling(clean) == clean == unicodedata.normalize("NFC", clean) == clean.strip() and "  " not in clean


@given(
    st.text("ab\u0301 \t\n\u200b\u200c\u200d\ufe0f\u00ad\u0627\u064e\u0d4d\u0d28\U0001f469\U000e0100\u1100\u1161\u115f")
)
def test_the_spelling_is_its_own_spelling_where_marks_meet(name):
    assert spelling(spelling(name)) == spelling(name)


def test_names_that_differ_by_case_or_form_are_told():
    enrolled = ["Ann Lee", "Bob", "BOB", "Jos\u00e9", "Cy"]
    names = ["ann lee", "Ann Lee", "JOS\u00c9", "\uff23\uff59", "Dan", "ann lee"]
    assert spelt_otherwise(names, enrolled) == [
        ("Bob", "BOB"),
        ("ann lee", "Ann Lee"),
        ("JOS\u00c9", "Jos\u00e9"),
        ("\uff23\uff59", "Cy"),
    ]


def test_composed_and_decomposed_are_one():
    assert spelt_otherwise([], ["Jos\u00e9", "Jose\u0301"]) == [("Jos\u00e9", "Jose\u0301")]


def test_the_note_is_one_line_with_a_few_of_many():
    (note,) = spelling_notes([], [f"{name}{i}" for name in ("ann", "Ann") for i in range(9)])
    assert note.startswith("9 names differ only by case or form") and note.count(" and 'Ann") == 3 and "\n" not in note
    assert spelling_notes(["Cy"], ["Ann", "Bob"]) == []
