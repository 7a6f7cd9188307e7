"""The house: imports run one way, modules are short, and names of encoders are known in one place."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import gac_sj

pytestmark = pytest.mark.one_release

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gac_sj"

#: Parts of the package from the bottom to the top. A part imports only itself and lower levels; ``ops`` only itself.
LEVELS = [
    ("_utils", "ops"),
    ("nn",),
    ("encoders",),
    ("attach",),
    ("models",),
    ("data",),
    ("training.settings",),
    ("analysis", "checkpoint"),
    ("quantize",),
    ("results",),
    ("training",),
    ("export",),
    ("",),  # gac_sj/__init__.py: the public names
    ("cli",),
    ("__main__",),
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    """The name of a module relative to the package; the package itself is ""."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def part_of(module: str) -> str:
    """The part of the package that a module belongs to; what differs between releases and platforms is a utility."""
    return module if module in LEVEL else module.partition(".")[0].replace("_compat", "_utils")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name, relative to the package, of each module of the package that a file imports."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "gac_sj":
                # the longest beginning that is a module; the rest are names inside it
                parts = name.split(".")[1:]
                while parts and not (
                    PACKAGE.joinpath(*parts).is_dir() or PACKAGE.joinpath(*parts[:-1], f"{parts[-1]}.py").exists()
                ):
                    parts.pop()
                yield node.lineno, ".".join(parts)


def wrong_imports(part: str) -> list[str]:
    found = []
    for path in python_files("gac_sj"):
        importer = part_of(module_name(path))
        if importer != part:
            continue
        for line, name in imported(path):
            other = part_of(name)
            if other != importer and not (LEVEL[other] < LEVEL[importer] and importer != "ops"):
                found.append(f"{path.relative_to(ROOT)}:{line} imports {name or 'gac_sj'}")
    return found


@pytest.mark.parametrize("part", [part for part in LEVEL if part])
def test_imports_run_one_way(part):
    """The siblings of a level do not import each other, and only the command line imports the public names."""
    assert wrong_imports(part) == []


def test_every_module_belongs_to_a_part():
    assert {part_of(module_name(path)) for path in python_files("gac_sj")} <= set(LEVEL)


def test_benchmarks_and_experiments_do_not_import_each_other():
    names = {
        folder: {path.stem for path in python_files(folder)} | {folder} for folder in ("benchmarks", "experiments")
    }
    for folder, other in (("benchmarks", "experiments"), ("experiments", "benchmarks")):
        for path in python_files(folder):
            for node in ast.walk(tree(path)):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module] if isinstance(node, ast.ImportFrom) else []
                clash = {module.partition(".")[0] for module in modules} & (names[other] - names[folder])
                assert not clash, f"{path.relative_to(ROOT)}:{node.lineno} imports {clash}"


def test_modules_have_at_most_300_lines():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files("gac_sj")}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_at_most_four_modules_are_beside_the_folders():
    modules = sorted(path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py")
    assert len(modules) <= 4, modules


def changes_sys_path(node: ast.AST) -> bool:
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        targets = [node.func.value]  # sys.path.insert(...)
    return any(isinstance(target, ast.AST) and ast.unparse(target).startswith("sys.path") for target in targets)


def test_nothing_changes_sys_path():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files("benchmarks", "experiments", "tests")
        for node in ast.walk(tree(path))
        if changes_sys_path(node)
    ]
    assert found == []


def test_no_comment_silences_a_checker_wholesale():
    """Neither the rule about imports that follow code, nor a type error without its code."""
    found = [
        f"{path.relative_to(ROOT)}:{token.start[0]}"
        for path in python_files("gac_sj", "benchmarks", "experiments", "tests")
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.COMMENT and re.search(r"noqa: .*E402|type: ignore(?!\[)|mypy: ignore", token.string)
    ]
    assert found == []


def test_public_names_exist_and_are_sorted():
    assert sorted(gac_sj.__all__) == gac_sj.__all__
    assert all(hasattr(gac_sj, name) for name in gac_sj.__all__)


def docstrings(module: ast.Module) -> set[int]:
    """Ids of the constants that are docstrings, of attributes too."""
    return {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def test_names_of_encoders_are_known_only_to_the_registry():
    names = {name for name in gac_sj.list_encoders() if gac_sj.encoders.encoder_info(name).source is None}
    assert gac_sj.encoders.DEFAULT_ENCODER in names
    files = [path for path in python_files("gac_sj") if "encoders" not in path.relative_to(PACKAGE).parts[:1]]
    files += [*python_files("benchmarks"), *sorted((ROOT / "experiments").glob("*.py"))]
    found = []
    for path in files:
        module = tree(path)
        skipped = docstrings(module)
        for node in ast.walk(module):
            if isinstance(node, ast.Constant) and id(node) not in skipped and node.value in names:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}")
    assert found == []
