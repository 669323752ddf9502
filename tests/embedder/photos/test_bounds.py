"""Directories of TIFFs whose lists are longer than those of photos."""

import struct

import pytest

from facegallery.embedder.photos.bounds import MOST_NUMBERS, check_tiff
from facegallery.embedder.photos.kinds import PhotoRefused
from tests.bombs import at, tiff

BYTES, TEXT, SIGNED, UNDEFINED = 1, 2, 6, 7


@pytest.mark.parametrize("kind", [BYTES, TEXT, SIGNED, UNDEFINED])
@pytest.mark.parametrize("tag", [258, 273, 279, 320, 324, 325, 338, 339])
def test_a_tag_that_is_read_as_a_list_is_bounded_whatever_its_kind(tag, kind):
    photo = tiff(64, 64, [(tag, kind, 1_000_000, at(400))], bytes(1_000_000))
    with pytest.raises(PhotoRefused, match=f"tag {tag}"):
        check_tiff(photo, 1 << 20)


def test_bytes_that_are_read_as_a_tuple_are_bounded_in_every_tag():
    with pytest.raises(PhotoRefused, match="tag 50000"):
        check_tiff(tiff(64, 64, [(50000, SIGNED, MOST_NUMBERS + 1, at(400))]), 1 << 20)


@pytest.mark.parametrize("kind", [BYTES, TEXT, UNDEFINED])
@pytest.mark.parametrize("tag", [270, 700, 34377, 34675, 50839])
def test_texts_and_profiles_may_be_long(tag, kind):
    check_tiff(
        tiff(64, 64, [(tag, kind, 1_000_000, at(400)), (273, 4, 1, struct.pack("<I", 400))], bytes(1_000_000)), 1 << 20
    )
