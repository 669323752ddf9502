"""Name the detectors of faces; import nothing, since `--help` reads this file."""

MTCNN, YUNET, BOTH = "mtcnn", "yunet", "both"
DETECTORS = MTCNN, YUNET, BOTH
DEFAULT_DETECTOR = BOTH  # of what has no contract yet: new galleries, and data sets of `align` and `embed`
