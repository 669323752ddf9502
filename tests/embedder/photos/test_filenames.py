import os

from hypothesis import given
from hypothesis import strategies as st

from facegallery.embedder.photos.filenames import to_file, to_text


@given(st.one_of(st.binary().map(os.fsdecode), st.text(alphabet="\\x5c89aefé\udce9", max_size=12)))
def test_every_name_is_text_and_comes_back(name):
    text = to_text(name)
    assert text.encode() and to_file(text) == name if name else text == ""


def test_what_it_looks_like():
    assert to_text(os.fsdecode(b"Jos\xe9/1.jpg")) == r"Jos\xe9/1.jpg"
    assert to_text("José.jpg") == "José.jpg" and to_text(r"a\b.jpg") == r"a\b.jpg"
    assert to_text(r"Jos\xe9.jpg") == r"Jos\x5cxe9.jpg", "a name that looks like another's text"
    assert to_file(r"Jos\xe9.jpg").encode("utf-8", "surrogateescape") == b"Jos\xe9.jpg"
    assert to_text("a\ud800") == r"a\xed\xa0\x80"
