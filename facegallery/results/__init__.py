"""Hold what the API returns: frozen dataclasses, the same from a folder, from a server and in its JSON documents.

Results that hold many things are sequences of them, with `to_arrow()` and `to_pandas()`. The metadata of a field are
arguments of pydantic's `Field`: the server's OpenAPI document takes descriptions, limits and examples from them. This
module imports nothing heavy.
"""

from facegallery.results.base import FACE_ID, NAME, NUMBER, Box, ColumnKind, ResultList, as_document, box_of, fields_of
from facegallery.results.duplicates import (
    DuplicatePhoto,
    Duplicates,
    DuplicateSet,
    GalleryDuplicatePhoto,
    GalleryDuplicates,
    GalleryDuplicateSet,
    UnreadPhoto,
)
from facegallery.results.faces import (
    Face,
    Faces,
    FoundFace,
    Hit,
    NearUnnamed,
    PhotoFace,
    PhotoFaces,
    PhotoResult,
    SearchResult,
    VectorResult,
)
from facegallery.results.groups import FaceGroup, FaceGroups, Grouped, Likely, Suggestion, UnnamedFace, UnnamedFaces
from facegallery.results.people import (
    Added,
    Change,
    Conflict,
    Enrolled,
    EnrolledFace,
    EnrolledFaces,
    LogLine,
    People,
    Person,
    Receipt,
)
from facegallery.results.photos import GalleryPhoto, GalleryPhotos, Synced
from facegallery.results.quality import DoubtfulFace, DoubtfulFaces, ReviewedFace
from facegallery.results.whole import (
    Calibrated,
    Compacted,
    Compared,
    ComparedFace,
    GalleryInfo,
    Job,
    Trained,
    TrainedNetwork,
)

__all__ = [
    "UnnamedFaces",
    "UnnamedFace",
    "Suggestion",
    "Likely",
    "Grouped",
    "FaceGroups",
    "FaceGroup",
    "Added",
    "Box",
    "Calibrated",
    "Change",
    "ColumnKind",
    "Compacted",
    "Compared",
    "ComparedFace",
    "Conflict",
    "DoubtfulFace",
    "DoubtfulFaces",
    "DuplicatePhoto",
    "DuplicateSet",
    "Duplicates",
    "Enrolled",
    "EnrolledFace",
    "EnrolledFaces",
    "FACE_ID",
    "Face",
    "Faces",
    "FoundFace",
    "GalleryDuplicatePhoto",
    "GalleryDuplicateSet",
    "GalleryDuplicates",
    "GalleryInfo",
    "GalleryPhoto",
    "GalleryPhotos",
    "Hit",
    "Job",
    "LogLine",
    "NAME",
    "NUMBER",
    "NearUnnamed",
    "People",
    "Person",
    "PhotoFace",
    "PhotoFaces",
    "PhotoResult",
    "Receipt",
    "ResultList",
    "ReviewedFace",
    "SearchResult",
    "Synced",
    "Trained",
    "TrainedNetwork",
    "UnreadPhoto",
    "VectorResult",
    "as_document",
    "box_of",
    "fields_of",
]
