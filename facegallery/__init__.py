"""Face retrieval as a vector database.

```python
import facegallery as fg

with fg.open("people", create=True) as gallery:
    gallery.add("photos/")
    for face in gallery.search("party.jpg", k=3):
        print(face.box, face.known, face.hits[0].identity, face.hits[0].score)
```

The names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facegallery import results
    from facegallery.client import AsyncClient, Client, connect
    from facegallery.embedder import errors
    from facegallery.embedder.spec import FaceSpec
    from facegallery.embedder.weights.store import Model
    from facegallery.functions import align, compare, dedupe, detect, embed, evaluate, train
    from facegallery.gallery import Gallery
    from facegallery.gallery import open_gallery as open

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "Client",
    "FaceSpec",
    "Gallery",
    "Model",
    "__version__",
    "align",
    "compare",
    "connect",
    "dedupe",
    "detect",
    "embed",
    "errors",
    "evaluate",
    "open",
    "results",
    "train",
]
_HOMES = {  # of the names: the module below this package, and what they are called there
    "AsyncClient": ("client", "AsyncClient"),
    "Client": ("client", "Client"),
    "FaceSpec": ("embedder.spec", "FaceSpec"),
    "Gallery": ("gallery", "Gallery"),
    "Model": ("embedder.weights.store", "Model"),
    "align": ("functions", "align"),
    "compare": ("functions", "compare"),
    "connect": ("client", "connect"),
    "dedupe": ("functions", "dedupe"),
    "detect": ("functions", "detect"),
    "embed": ("functions", "embed"),
    "errors": ("embedder.errors", None),
    "evaluate": ("functions", "evaluate"),
    "open": ("gallery", "open_gallery"),
    "results": ("results", None),
    "train": ("functions", "train"),
}
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    found = importlib.import_module(f"{__name__}.{module}")
    globals()[name] = value = found if attribute is None else getattr(found, attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
