import pytest

from facegallery.embedder.photos.folders import labels_of


@pytest.mark.parametrize(
    ("path", "level", "labels"),
    [
        ("a.jpg", None, (None, None)),
        ("Ann/a.jpg", None, (None, "Ann")),
        ("probe/Ann/a.jpg", None, ("probe", "Ann")),
        ("probe/a.jpg", None, ("probe", None)),
        ("2019/Ann/a.jpg", None, (None, "Ann")),
        ("train/2019/Ann/a.jpg", None, ("train", "Ann")),
        ("Ann/2019/a.jpg", None, (None, "2019")),
        ("Ann/2019/a.jpg", 1, (None, "Ann")),
        ("train/Ann/2019/a.jpg", 1, ("train", "Ann")),
        ("train/Ann/2019/a.jpg", 2, ("train", "2019")),
        ("a/b/Ann/raw/a.jpg", 3, (None, "Ann")),
        ("Ann/a.jpg", 2, (None, None)),
        ("a.jpg", 1, (None, None)),
        (" Ann\u200b /a.jpg", None, (None, "Ann")),
        ("Jose\u0301/a.jpg", None, (None, "Jos\u00e9")),
        ("A\x07nn/a.jpg", None, (None, None)),
        ("Jos\udce9/a.jpg", None, (None, None)),
        ("x.photoslibrary/originals/0/a.jpg", None, (None, None)),
    ],
)
def test_labels_come_from_the_folders(path, level, labels):
    assert labels_of(path, level) == labels
