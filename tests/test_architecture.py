"""The arrows of the design, read from the imports."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

HOUSE = "facegallery"
VERBS = (
    "search",
    "upkeep",
    "enrol",
    "compare",
    "reembed",
    "calibrate",
    "forget",
    "indexes",
    "verdict",
    "unnamed",
    "suggest",
    "group_sheet",
    "doubtful",
    "sidecars",
    "library",
    "sync",
    "watch",
    "persons",
    "dedupe_gallery",
)  # files of `workflows` that do not know each other
OF_INDEXER = (
    *(f"embedder.{m}" for m in ("spec", "dataset", "files", "errors", "names", "progress", "text", "replaceable")),
    "results",
)
TYPES_OF_RESULTS = ("embedder.photos.understood", "indexer.suspects")  # types that results hold; not imported to run
NETWORKS = tuple(f"workflows.{file}" for file in ("photos", "inputs", "networks"))
OPENED = (*NETWORKS, "workflows.probes", "workflows.session")  # what reads photos and opens galleries
ADDING = ("workflows.adding", "workflows.looked_at")  # what enrols the faces of photos
STORE, DERIVED = "indexer.store", "indexer.derived"
# a folder or a file -> what it may import of ours, besides itself; the longest key that fits a file counts. Names are
# short: `embedder.spec`
# is facegallery.embedder.spec
ALLOWED = {
    "": ("client", "embedder", "functions", "gallery", "results"),
    "embedder": (),
    "embedder.draw": ("embedder",),
    "embedder.photo_stage": ("embedder",),
    "embedder.pipeline": ("embedder",),
    "embedder.errors": (),
    "embedder.files": ("embedder.errors",),
    "embedder.names": ("embedder.errors", "embedder.text"),
    "embedder.process": ("embedder.errors",),
    "embedder.replaceable": ("embedder.errors", "embedder.files", "embedder.photos"),
    "embedder.spec": ("embedder.errors", "embedder.dataset.checks"),
    "embedder.photos": ("embedder",),
    "embedder.faces": ("embedder",),
    "embedder.video": ("embedder",),
    "embedder.network": ("embedder",),
    "embedder.weights": ("embedder",),
    "embedder.export": ("embedder",),
    "embedder.dataset": ("embedder",),
    "indexer.store": OF_INDEXER,
    "indexer.derived": (*OF_INDEXER, STORE),
    "indexer.search": (*OF_INDEXER, STORE, DERIVED, "indexer.metrics", "indexer.calibrate"),
    "indexer.search.searcher": (
        *OF_INDEXER,
        STORE,
        DERIVED,
        "indexer.search",
        "indexer.calibrate",
        "indexer.opening",
    ),
    "indexer.search.question": ("embedder.errors",),
    "indexer.suspects": (*OF_INDEXER, STORE, "indexer.search.candidates"),
    "indexer.doubtful": (*OF_INDEXER, STORE, "indexer.search.candidates", "indexer.suspects"),
    "indexer.metrics": ("embedder.errors",),
    "indexer.grouping": ("embedder.errors",),
    "indexer.grouping.kept": (STORE,),
    "indexer.grouping.heap": (STORE, "indexer.grouping.kept", "indexer.grouping.linkage"),
    "indexer.calibrate": (*OF_INDEXER, STORE, "indexer.metrics"),
    "indexer.upkeep": (*OF_INDEXER, STORE, DERIVED, "indexer.metrics", "indexer.calibrate"),
    "indexer.upkeep.pending": (STORE, DERIVED),
    "indexer.upkeep.transfer": (*OF_INDEXER, STORE, DERIVED, "indexer.upkeep.verify", "indexer.opening"),
    "indexer.opening": (*OF_INDEXER, STORE, DERIVED, "indexer.upkeep.pending"),
    "indexer.selection": OF_INDEXER,
    "indexer.build": (*OF_INDEXER, STORE, DERIVED, "indexer.selection", "indexer.suspects", "indexer.opening"),
    "indexer.evaluation": (*OF_INDEXER, STORE, "indexer.search", "indexer.metrics"),
    "trainer": ("embedder", "indexer.metrics"),
    "accounts": ("embedder", STORE),
    "schemas": ("embedder.outcomes", "results"),
    "interface": ("results", "embedder.progress"),
    "folder": ("embedder", "indexer", "workflows", "results", "interface"),
    "gallery": ("embedder", "indexer", "workflows", "results", "interface", "folder"),
    "functions": ("embedder", "trainer", "workflows", "results", "gallery", "folder"),
    "results": ("embedder.errors", "embedder.outcomes", *TYPES_OF_RESULTS),
    "client": ("remote", "schemas", "results", "interface", "embedder.errors", "embedder.progress"),
    "remote": ("embedder", "schemas", "results", "interface", "workflows.inputs"),
    "remote.galleries": ("client", "remote.flows", "remote.unnamed", "results", "interface", "embedder.progress"),
    "demo": ("embedder", "indexer.build", "trainer", "workflows"),
    "workflows.photos": ("embedder",),
    "workflows.inputs": ("embedder",),
    "workflows.dedupe": ("embedder", "results", "workflows.inputs"),
    "workflows.networks": ("embedder", "workflows.photos", "workflows.inputs"),
    "workflows.probes": ("embedder", "indexer", "results", *NETWORKS),
    "workflows.session": ("embedder", "indexer", *NETWORKS, "workflows.probes"),
    **{f"workflows.{verb}": ("embedder", "indexer", "results", *OPENED) for verb in VERBS},
    "workflows.looked_at": ("embedder", "indexer", "workflows.inputs"),
    "workflows.adding": ("embedder", "indexer", *OPENED, "workflows.looked_at", "workflows.review"),
    "workflows.enrol": ("embedder", "indexer", "results", *OPENED, *ADDING, "workflows.given", "workflows.review"),
    "workflows.given": ("embedder",),
    "workflows.review": ("embedder", "indexer", "results"),
    "workflows.same_faces": ("embedder.dataset", "embedder.faces.boxes"),
    "workflows.sync": ("embedder", "indexer", "results", *OPENED, *ADDING, "workflows.same_faces", "workflows.review"),
    "workflows.watch": ("embedder", "results", "workflows.sync", "workflows.session"),
    "workflows.faces": ("embedder", "results", *NETWORKS),
    "workflows.forget": ("embedder", "indexer", "results", "accounts", *OPENED),
    "workflows.people": ("embedder", "results", *OPENED, "workflows.search"),
    "workflows.pictures": ("embedder", "indexer", "results", *OPENED, "workflows.search"),
    "workflows.videos": ("embedder", "indexer", "results", *OPENED, "workflows.search"),
    "workflows.evaluate": ("embedder", "indexer", *OPENED, "workflows.pictures"),
    "workflows.pairs": ("embedder", "indexer", *OPENED, "workflows.evaluate"),
    "server": (
        "embedder",
        "indexer",
        "accounts",
        "schemas",
        "results",
        *OPENED,
        *(f"workflows.{verb}" for verb in VERBS),
    ),
    "cli": ("embedder", "indexer", "trainer", "results", "workflows", "server", "accounts", "demo", "__version__"),
}
FORBIDDEN = {
    "indexer": ("tensorflow", "keras", "openvino", "mtcnn"),
    "embedder": ("faiss", "apsw"),
    "trainer": ("faiss", "apsw", "mtcnn"),
    "accounts": ("fastapi", "uvicorn"),
    "client": ("fastapi", "uvicorn"),
    "remote": ("fastapi", "uvicorn"),
    "schemas": ("fastapi", "uvicorn"),
}
# what git tracks at the root; a new entry needs a reason that holds for years
GIT = ("git", "-c", "safe.directory=*", "ls-files", "-z")  # in a checkout of another user, too
ROOT_FILES = {
    *(".dockerignore", ".gitignore", ".pre-commit-config.yaml"),
    *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md"),
    *("MANIFEST.in", "Makefile", "pyproject.toml", "mkdocs.yml", "ruff.toml", "setup.cfg"),
    "cli.py",
}
ROOT_FOLDERS = {
    *("facegallery", "embedder", "trainer", "indexer"),
    *("tests", "benchmarks", "tools", "docs", "deploy", ".ci", ".github"),
    *("data", "indexes"),
}
HASHED_PICKLES = "embedder.faces.mtcnn_nets"  # reads the mtcnn package's weights, whose bytes are known
PIPED_PICKLES = (
    "embedder.photos.workers"  # between this program's own processes, over pipes that nobody else has; no files
)
CONNECT = {
    "embedder.weights.download",
    "server.run",
    "client",
    "remote.deadlines",
}  # fetches weights; listens; asks the address that its user gives
LIGHT = (
    "click",
    *(f"embedder.{file}" for file in ("errors", "compute", "faces.names", "outcomes", "spec", "text")),
    "cli",
    "__version__",
)  # what `--help` may import


class WithoutTypes(ast.NodeTransformer):
    """Takes out what stands under `if TYPE_CHECKING:`."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING") else node


def house() -> dict[str, Path]:
    """Every module of ours by its short name, 'embedder.spec', links followed."""
    found = {}
    for folder, _, names in os.walk(ROOT / HOUSE, followlinks=True):
        for name in names:
            if name.endswith(".py"):
                path = Path(folder, name)
                parts = path.relative_to(ROOT / HOUSE).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = house()


def imports(path: Path, top_level: bool = False, for_types: bool = True) -> set[str]:
    """Every module that a file imports, ours by their short names; those inside functions too.

    for_types: those too that only a type checker reads.
    """
    tree = ast.parse(path.read_text())
    if not for_types:
        tree = WithoutTypes().visit(tree)
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # what a package below the first offers without being a module is the package's own
            found |= names if node.module == HOUSE else {name if _is_module(name) else node.module for name in names}
    return {name.removeprefix(f"{HOUSE}.") for name in found}


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == a or name.startswith(a + ".") for a in allowed)


def rule_of(name: str) -> str:
    """The key of ALLOWED for a module."""
    return max((key for key in ALLOWED if not key or within(name, (key,))), key=len)


def is_ours(name: str) -> bool:
    return name.split(".")[0] in {known.split(".")[0] for known in FILES} | {HOUSE, "__version__"}


def test_every_module_of_ours_that_is_imported_is_there():
    found = {name: file for file, path in FILES.items() for name in imports(path) if is_ours(name)}
    assert {file: name for name, file in found.items() if name not in FILES and name != "__version__"} == {}
    assert len(FILES) > 150 and "embedder.photographs" not in FILES


def test_nothing_of_ours_is_imported_under_a_second_name():
    """As `embedder`, a module would exist twice: the folders at the root are only where its files lie."""
    for path in [*FILES.values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        names = {
            node.module or "" if isinstance(node, ast.ImportFrom) else alias.name
            for node in nodes
            for alias in node.names
        }
        assert not within_any(names, ("embedder", "indexer", "trainer")), path


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_follow_the_arrows(name):
    key, found = rule_of(name), imports(FILES[name])
    allowed = (
        *ALLOWED[key],
        name if key == "embedder" else key,
    )  # the files that lie in embedder/ itself do not know each other
    assert {other for other in found if is_ours(other) and not within(other, allowed)} == set()
    assert {other for other in found if within(other, FORBIDDEN.get(name.split(".")[0], ()))} == set()


def test_the_rule_would_catch_a_wrong_arrow(tmp_path):
    (tmp_path / "x.py").write_text("def f():\n    import faiss\n    from facegallery.embedder.network import runtime\n")
    assert imports(tmp_path / "x.py") == {"faiss", "embedder.network.runtime"}
    assert not within("embedder.network.runtime", ALLOWED[STORE]) and within("embedder.dataset.row", ALLOWED[STORE])
    assert rule_of("indexer.store.store") == STORE and rule_of("indexer.build") == "indexer.build"


def test_help_imports_nothing_heavy():
    for name in ("", *(n for n in FILES if within(n, ("cli",)))):
        found = {i for i in imports(FILES[name], top_level=True) if i.split(".")[0] not in sys.stdlib_module_names}
        assert {i for i in found if not within(i, LIGHT)} == set(), name


def test_no_pickle_no_eval_no_lambda_layers():
    for name, path in FILES.items():
        names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
        pickles = {HASHED_PICKLES: ("pickle", "dill"), PIPED_PICKLES: ("joblib", "dill")}.get(
            name, ("pickle", "joblib", "dill")
        )
        assert name != PIPED_PICKLES or "open" not in names
        assert not names & {"eval", "exec"} and not within_any(imports(path), pickles), name


def test_few_modules_open_connections():
    packages = ("urllib.request", "http.client", "http.server", "socket", "requests", "httpx")
    assert {
        name for name, path in FILES.items() if within_any(imports(path), packages)
    } == CONNECT  # beside them, pip in a process of its own


def within_any(names: set[str], packages: tuple[str, ...]) -> bool:
    return any(within(name, packages) for name in names)


def circles(needs: dict[str, set[str]]) -> set[frozenset[str]]:
    """The largest sets of names that all need each other, perhaps by way of others."""
    reached = {name: set(direct) for name, direct in needs.items()}
    for middle in needs:
        for name in needs:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    return {
        frozenset(other for other in needs if other in reached[name] and name in reached[other]) for name in needs
    } - {frozenset()}


def test_no_files_need_each_other():
    needs = {name: (imports(path, for_types=False) & FILES.keys()) - {""} for name, path in FILES.items()}
    assert circles(needs) == set()


def test_the_rule_would_catch_a_circle(tmp_path):
    (tmp_path / "x.py").write_text(
        "if TYPE_CHECKING:\n    import facegallery.a\nelse:\n    import facegallery.b\n"
        "def f():\n    from facegallery import c\n"
    )
    assert imports(tmp_path / "x.py", for_types=False) == {"b", "c"} == imports(tmp_path / "x.py") - {"a"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"d"}, "f": {"a"}}) == {
        frozenset("abc"),
        frozenset("de"),
    }
    assert circles({"a": {"a"}, "b": {"a"}}) == {frozenset("a")}


def test_the_root_holds_what_it_should():
    """One program, no loose modules: a wheel installs the package alone."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout: other folders may hold files of their own at the root")
    tracked = subprocess.run(GIT, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {path.split("/")[0] for path in tracked.split("\0") if path} == ROOT_FILES | ROOT_FOLDERS
    assert [path.name for path in ROOT.glob("*.py")] == ["cli.py"]
    assert {link.name: os.readlink(link) for link in (ROOT / HOUSE).iterdir() if link.is_symlink()} == {
        name: f"../{name}" for name in ("embedder", "indexer", "trainer")
    }
