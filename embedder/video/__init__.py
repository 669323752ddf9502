"""Read videos: frames at a rate, faces tracked through them, and rows of the best faces of each track."""
