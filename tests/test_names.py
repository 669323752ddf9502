from embedder.names import spelling_notes, spelt_otherwise


def test_names_that_differ_by_case_or_form_are_told():
    enrolled = ["Ann Lee", "Bob", "BOB", "Jos\u00e9", "Cy"]
    names = ["ann lee", "Ann Lee", "JOS\u00c9", "\uff23\uff59", "Dan", "ann lee"]
    assert spelt_otherwise(names, enrolled) == [("Bob", "BOB"), ("ann lee", "Ann Lee"), ("JOS\u00c9", "Jos\u00e9"), ("\uff23\uff59", "Cy")]


def test_composed_and_decomposed_are_one():
    assert spelt_otherwise([], ["Jos\u00e9", "Jose\u0301"]) == [("Jos\u00e9", "Jose\u0301")]


def test_the_note_is_one_line_with_a_few_of_many():
    (note,) = spelling_notes([], [f"{name}{i}" for name in ("ann", "Ann") for i in range(9)])
    assert note.startswith("9 names differ only by case or form") and note.count(" and 'Ann") == 3 and "\n" not in note
    assert spelling_notes(["Cy"], ["Ann", "Bob"]) == []
