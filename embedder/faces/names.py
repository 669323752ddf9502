"""Name the detectors of faces, and what names people; import nothing, since `--help` reads this file."""

MTCNN, YUNET, BOTH = "mtcnn", "yunet", "both"
DETECTORS = MTCNN, YUNET, BOTH
DEFAULT_DETECTOR = BOTH  # of what has no contract yet: new galleries, and data sets of `align` and `embed`
FOLDERS, REGIONS, EITHER, NOBODY = "folders", "regions", "both", "nobody"
NAMES_FROM = FOLDERS, REGIONS, EITHER, NOBODY  # what names the people in photos
WITHOUT_FOLDERS = REGIONS, NOBODY
WITH_REGIONS = REGIONS, EITHER
