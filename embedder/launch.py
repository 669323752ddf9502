"""Run a module of this package or an installed one, from a search path that the environment does not decide.

Run as `python -I .../facegallery/embedder/launch.py MODULE PATHS ARGUMENT...`; PATHS is a JSON list that replaces
`sys.path`. This package itself is loaded from the folder of this file, so that nothing on the path can replace it.
"""

import json
import os
import runpy
import sys
from importlib.util import module_from_spec, spec_from_file_location


def main() -> None:
    """Replace `sys.path`, load this package, and run the module of the command line as `__main__`."""
    module, paths, *arguments = sys.argv[1:]
    sys.path[:] = json.loads(paths)
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = spec_from_file_location(
        "facegallery", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec and spec.loader
    sys.modules["facegallery"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
