"""The arrows of the design, read from the imports."""

import ast
import importlib
from pathlib import Path

import pytest

from tests.conftest import ROOT

PARTS = (
    "embedder",
    "indexer",
    "trainer",
    "workflows",
    "console",
    "cli",
    "cli_gallery",
    "cli_evaluate",
    "cli_serve",
    "demo",
    "server",
)
VERBS = ("search", "upkeep", "enrol", "compare", "reembed", "calibrate", "forget")  # files of `workflows` that do not know each other
OF_GALLERIES = tuple(f"workflows.{verb}" for verb in ("probes", *VERBS) if verb != "search")
OF_CLI = tuple(f"workflows.{file}" for file in ("photos", "probes", "search", "upkeep", "pictures"))
# part, or file of `workflows` -> what it may import of ours
ALLOWED = {
    "embedder": ("embedder",),
    "indexer": ("indexer", *(f"embedder.{m}" for m in ("spec", "table", "row", "files", "errors", "names", "text", "replaceable"))),
    "trainer": ("trainer", "embedder", "facegallery.indexer.metrics"),
    "workflows": (),
    "facegallery.workflows.photos": ("embedder",),
    "facegallery.workflows.probes": ("embedder", "indexer", "facegallery.workflows.photos"),
    **{f"workflows.{verb}": ("embedder", "indexer", "facegallery.workflows.photos", "facegallery.workflows.probes") for verb in VERBS},
    "facegallery.workflows.pictures": ("embedder", "indexer", "facegallery.workflows.probes", "facegallery.workflows.search"),
    "facegallery.workflows.evaluate": ("embedder", "indexer", "facegallery.workflows.photos", "facegallery.workflows.probes", "facegallery.workflows.pictures"),
    "facegallery.workflows.pairs": ("embedder", "indexer", "facegallery.workflows.photos", "facegallery.workflows.probes", "facegallery.workflows.evaluate"),
    "console": ("facegallery.embedder.errors", "facegallery.embedder.compute", "facegallery.embedder.outcomes", "facegallery.embedder.spec", "facegallery.embedder.text"),
    "cli": ("embedder", "indexer", "trainer", *OF_CLI, "demo", "cli_gallery", "cli_evaluate", "cli_serve", "console"),
    "cli_gallery": ("facegallery.embedder.errors", "facegallery.embedder.compute", *OF_GALLERIES, "console", "facegallery.accounts"),
    "cli_evaluate": ("facegallery.embedder.errors", "facegallery.embedder.compute", "facegallery.workflows.evaluate", "facegallery.workflows.pairs", "console"),
    "cli_serve": ("facegallery.embedder.errors", "facegallery.embedder.compute", "console", "server"),
    "server": ("server", "embedder", "indexer", "facegallery.workflows.photos", "facegallery.workflows.search", *OF_GALLERIES),
    "demo": ("embedder", "trainer", "workflows"),
}
FORBIDDEN = {
    "indexer": ("tensorflow", "keras", "openvino", "mtcnn"),
    "embedder": ("faiss", "apsw"),
    "trainer": ("faiss", "apsw", "mtcnn"),
}
HASHED_PICKLES = ROOT / "embedder" / "mtcnn_nets.py"  # reads the mtcnn package's weights, whose bytes are known
PIPED_PICKLES = ROOT / "embedder" / "workers.py"  # between this program's own processes, over pipes that nobody else has; no files
CIRCLES: set[frozenset[str]] = set()  # files of indexer/ that may need each other
LIGHT = dict.fromkeys(
    ("cli.py", "cli_gallery.py", "cli_evaluate.py", "cli_serve.py", "console.py"),
    (
        "click",
        "facegallery.embedder.errors",
        "facegallery.embedder.compute",
        "facegallery.embedder.outcomes",
        "facegallery.embedder.spec",
        "facegallery.embedder.text",
        "cli_gallery",
        "cli_evaluate",
        "cli_serve",
        "console",
    ),
)  # all that `--help` may cost beyond the standard library


class WithoutTypes(ast.NodeTransformer):
    """Takes out what stands under `if TYPE_CHECKING:`."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING") else node


def modules(part: str) -> list[Path]:
    path = ROOT / part
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def imports(path: Path, top_level: bool = False, for_types: bool = True) -> set[str]:
    """Every module that a file imports, as 'facegallery.embedder.dataset.dataset'; those inside functions too.

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
            package = (ROOT / node.module.replace(".", "/")).is_dir()
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if package else {node.module}
    return found


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == a or name.startswith(a + ".") for a in allowed)


def is_there(name: str) -> bool:
    """Whether 'facegallery.embedder.dataset.dataset', or a module that has it as a name, is a file or folder of ours."""
    path = ROOT / name.replace(".", "/")
    return (
        path.with_suffix(".py").is_file()
        or path.is_dir()
        or (path.parent / "__init__.py").is_file()
        and hasattr(importlib.import_module(name.rpartition(".")[0]), path.name)
    )


def test_every_module_of_ours_that_is_imported_is_there():
    found = {name: path for part in PARTS for path in modules(part) for name in imports(path) if within(name, PARTS)}
    assert {str(path): name for name, path in found.items() if not is_there(name)} == {}
    assert not is_there("embedder.photographs")


def rule_of(path: Path) -> str:
    """The key of ALLOWED for a file: its own in `workflows`, else its part's."""
    part, *file = path.relative_to(ROOT).with_suffix("").parts
    return f"{part}.{file[0]}" if part == "workflows" and file != ["__init__"] else part


@pytest.mark.parametrize("path", [p for part in PARTS for p in modules(part)], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    ours = {name for name in imports(path) if within(name, PARTS)}
    assert {name for name in ours if not within(name, ALLOWED[rule_of(path)])} == set()
    assert {name for name in imports(path) if within(name, FORBIDDEN.get(part, ()))} == set()


def test_the_rule_would_catch_a_wrong_arrow(tmp_path):
    (tmp_path / "x.py").write_text("def f():\n    import faiss\n    from embedder import network\n")
    assert imports(tmp_path / "x.py") == {"faiss", "facegallery.embedder.network.keras_network"}
    assert not within("facegallery.embedder.network.keras_network", ALLOWED["indexer"]) and within("facegallery.embedder.dataset.dataset", ALLOWED["indexer"])


def test_help_imports_nothing_heavy():
    import sys

    for name, allowed in LIGHT.items():
        found = {i for i in imports(ROOT / name, top_level=True) if i.split(".")[0] not in sys.stdlib_module_names}
        assert {i for i in found if not within(i, allowed)} == set()


def test_no_pickle_no_eval_no_lambda_layers():
    for part in PARTS:
        for path in modules(part):
            names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
            pickles = {HASHED_PICKLES: ("pickle", "dill"), PIPED_PICKLES: ("joblib", "dill")}.get(path, ("pickle", "joblib", "dill"))
            assert path != PIPED_PICKLES or "open" not in names
            assert not names & {"eval", "exec"} and not within_any(imports(path), pickles), path


def test_one_module_opens_connections():
    packages = ("urllib.request", "http.client", "http.server", "socket", "requests", "httpx")
    found = {path for part in PARTS for path in modules(part) if within_any(imports(path), packages)}
    server = {ROOT / "server" / "run.py", ROOT / "server" / "client.py"}  # listens; asks the address that its user gives
    assert found - server == {ROOT / "embedder" / "download.py"}  # beside it, pip in a process of its own


def within_any(names: set[str], packages: tuple[str, ...]) -> bool:
    return any(within(name, packages) for name in names)


def circles(needs: dict[str, set[str]]) -> set[frozenset[str]]:
    """The largest sets of names that all need each other, perhaps by way of others."""
    reached = {name: set(direct) for name, direct in needs.items()}
    for middle in needs:
        for name in needs:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    return {frozenset(other for other in needs if other in reached[name] and name in reached[other]) for name in needs} - {frozenset()}


def test_no_files_of_the_index_need_each_other():
    files = {f"indexer.{path.stem}": path for path in modules("indexer")}
    needs = {name: imports(path, for_types=False) & files.keys() for name, path in files.items()}
    assert circles(needs) == CIRCLES


def test_the_rule_would_catch_a_circle(tmp_path):
    (tmp_path / "x.py").write_text(
        "if TYPE_CHECKING:\n    import indexer.a\nelse:\n    import indexer.b\ndef f():\n    from indexer import c\n"
    )
    assert imports(tmp_path / "x.py", for_types=False) == {"indexer.b", "indexer.c"} == imports(tmp_path / "x.py") - {"indexer.a"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"d"}, "f": {"a"}}) == {frozenset("abc"), frozenset("de")}
    assert circles({"a": {"a"}, "b": {"a"}}) == {frozenset("a")}
