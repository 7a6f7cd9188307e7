"""The house: where modules are, how long they are, what they import, and that only the registry names encoders."""

import ast
import graphlib
import io
import re
import tokenize
from pathlib import Path
from tokenize import COMMENT

import pytest

import gac_sj
from gac_sj.encoders import BASELINE_ENCODER, DEFAULT_ENCODER, list_encoders

pytestmark = pytest.mark.one_release

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "gac_sj"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = sorted((*REPOSITORY.glob("benchmarks/**/*.py"), *REPOSITORY.glob("experiments/*.py")))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
#: what each part of the package may import, in the order in which imports run
LAYERS = [
    {"_utils", "ops", "_compat"},
    {"nn"},
    {"encoders"},
    {"models", "attach", "data"},
    {"training.settings"},
    {"analysis", "results", "checkpoint"},
    {"training"},
    {"export", "cli"},
]


def ids(paths):
    return [path.relative_to(REPOSITORY).as_posix() for path in paths]


def imported(path):
    """Names of the modules that a file imports, names from a package included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name):
    """The part of the package that a dotted name is in; None outside of it, and for the package's own public names."""
    words = name.split(".")
    if words[0] != "gac_sj" or len(words) == 1:
        return None
    parts = set.union(*LAYERS)
    return next((p for p in (".".join(words[1:3]), words[1]) if p in parts), None)


def layer(name):
    return next(number for number, parts in enumerate(LAYERS) if name in parts)


def dotted(path):
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def test_every_folder_has_a_layer():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= set.union(*LAYERS)


def test_few_modules_at_the_top():
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py", "_compat.py", "attach.py"}


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_modules_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_imports_run_one_way(path):
    own = part(dotted(path))
    if own is not None:
        later = [name for name in imported(path) if part(name) and layer(part(name)) > layer(own)]
        assert not later


def test_imports_have_no_circle():
    graph = {}
    for path in MODULES:
        if own := part(dotted(path)):
            graph.setdefault(own, set()).update({part(name) for name in imported(path)} - {None, own})
    list(graphlib.TopologicalSorter(graph).static_order())  # raises a CycleError


def test_operators_import_nothing_of_the_package():
    for path in (PACKAGE / "ops").rglob("*.py"):
        foreign = {name for name in imported(path) if name.startswith("gac_sj") and not name.startswith("gac_sj.ops")}
        assert not foreign, path


def test_programs_import_the_package_alone():
    """Neither folder of programs imports the other, and the package imports neither."""
    folders = {path.relative_to(REPOSITORY).parts[0] for path in PROGRAMS}
    own = {folder: {path.stem for path in PROGRAMS if path.parent.name == folder} | {"speeds"} for folder in folders}
    for path in (*MODULES, *PROGRAMS):
        roots = {name.split(".")[0] for name in imported(path)}
        for folder in folders - {path.relative_to(REPOSITORY).parts[0]}:
            assert not roots & own[folder], path


@pytest.mark.parametrize("path", [*MODULES, *PROGRAMS, *TESTS], ids=ids([*MODULES, *PROGRAMS, *TESTS]))
def test_no_tricks(path):
    """Nothing changes sys.path, imports are at the top, and an ignored type error has a code."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "sys.path":
            assert node.attr not in ("append", "extend", "insert", "remove")
        if isinstance(node, ast.Assign | ast.AugAssign):
            assert "sys.path" not in map(ast.unparse, getattr(node, "targets", None) or [node.target])
    comments = [token.string for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == COMMENT]
    assert not [text for text in comments if re.search(r"noqa: .*E402|type: ignore(?!\[)|mypy: ignore-errors", text)]


@pytest.mark.parametrize("path", [*MODULES, *PROGRAMS], ids=ids([*MODULES, *PROGRAMS]))
def test_encoders_are_named_in_the_registry_alone(path):
    """Names of networks begin with that of the default encoder, which has one home."""
    if path.is_relative_to(PACKAGE / "encoders"):
        return
    constants = {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not constants & set(list_encoders())


def test_the_public_names():
    assert sorted(gac_sj.__all__) == gac_sj.__all__ and all(hasattr(gac_sj, name) for name in gac_sj.__all__)
    assert {DEFAULT_ENCODER, BASELINE_ENCODER} <= set(list_encoders())
