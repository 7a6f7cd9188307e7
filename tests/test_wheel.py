"""The wheel holds the whole package and works without the repository; an editable install is found from anywhere."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from gac_sj import __version__

pytestmark = pytest.mark.one_release

REPOSITORY = Path(__file__).resolve().parent.parent
SMOKE = REPOSITORY / "tests" / "helpers" / "installed.py"


def call(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_sources(folder):
    """What an installation needs, in a folder of its own: setuptools leaves its work beside the sources."""
    shutil.copytree(REPOSITORY / "gac_sj", folder / "gac_sj", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


def isolation():
    """Options of pip: a setuptools that is missing or too old comes from the package registry."""
    try:
        recent = int(metadata.version("setuptools").partition(".")[0]) >= 77
    except metadata.PackageNotFoundError:
        recent = False
    return ["--no-build-isolation"] if recent else []


def environment(folder, *install):
    """Python of a new environment with one package, which sees the installed packages but not the repository."""
    call(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    (own,) = folder.glob("lib/python*/site-packages")
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (own / "packages.pth").write_text("\n".join(packages))
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--ignore-installed", *install)
    return python


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    sources = copy_sources(folder / "sources")
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", *isolation(), "-w", folder, sources)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("environment"), "--no-index", wheel)


def run(python, *arguments, folder):
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # of another SpikingJelly
    paths = [path for path in paths if path and Path(path).resolve() != REPOSITORY]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return call(python, *arguments, cwd=folder, env=environment)


def test_the_version_and_its_date_are_those_of_the_changelog_and_the_citation():
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    version, date = re.search(r"^## \[(\S+)\] - (\S+)$", changes, re.MULTILINE).groups()
    assert version == citation["version"] == __version__
    assert date == str(citation["date-released"])


def requirements():
    """The requirements of setup.cfg by the extra that has them; "" are those of the package itself."""
    options = configparser.ConfigParser()
    options.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    texts = {"": options["options"]["install_requires"], **options["options.extras_require"]}
    return {
        extra: [Requirement(line) for line in text.splitlines() if line and not line.startswith("gac_sj[")]
        for extra, text in texts.items()
    }


def pins(name):
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(each.name): Version(next(iter(each.specifier)).version) for each in found}


@pytest.mark.parametrize("extra", requirements())
def test_every_requirement_has_a_lower_bound_that_is_tested(extra):
    """make test-floor installs the bounds, except those of CuPy, of what checks the source, and of the docs."""
    floor, newest = pins("constraints-floor.txt"), pins("constraints.txt")
    for requirement in requirements()[extra]:
        (bound,) = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
        name = canonicalize_name(requirement.name)
        if extra in ("cupy12", "cupy13", "docs", "lint"):
            assert name not in floor
        else:
            assert floor[name] == bound
        assert extra == "cupy12" or bound <= newest[name]


@pytest.mark.slow
def test_it_holds_every_file_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        described = content.read(f"gac_sj-{__version__}.dist-info/METADATA").decode()
    ours = {name for name in names if ".dist-info/" not in name}
    files = (path for path in (REPOSITORY / "gac_sj").rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert ours == {path.relative_to(REPOSITORY).as_posix() for path in files}
    kinds = {Path(name).suffix for name in ours}
    weights = {Path(name).suffix for name in ours if name.startswith("gac_sj/weights/")}
    assert weights <= {".safetensors", ".json", ".csv", ".md"}
    assert kinds - weights == {".py", ".cu", ".cuh", ".h", ".typed", ".yaml"}
    assert f"gac_sj-{__version__}.dist-info/licenses/LICENSE" in names
    assert re.search(r"^License(-Expression)?: Apache-2\.0$", described, re.MULTILINE)
    assert "# gac_sj: Gated Attention Coding" in described


@pytest.mark.slow
def test_it_works_without_the_repository(installed, tmp_path):
    place, version = run(installed, "-P", SMOKE, folder=tmp_path).split()
    assert Path(place).is_relative_to(installed.parent.parent) and version == __version__


@pytest.mark.slow
def test_its_commands(installed, tmp_path):
    listed = run(installed, "-m", "gac_sj", "models", folder=tmp_path)
    assert "gac_ms_resnet18_cifar" in listed
    assert run(installed.parent / "gac-sj", "models", folder=tmp_path) == listed
    assert "conv" in run(installed.parent / "gac-sj", "summary", "gac_ms_resnet8_cifar", folder=tmp_path)


@pytest.mark.slow
def test_a_script_beside_a_clone_named_gac_sj_imports_the_package(tmp_path):
    """The clone's folder is an empty namespace package to it, which must not win."""
    clone = copy_sources(tmp_path / "gac_sj")
    python = environment(tmp_path / "environment", *isolation(), "--editable", clone)
    script = tmp_path / "script.py"
    script.write_text("import gac_sj\nprint(gac_sj.__file__, gac_sj.attach.__name__)\n")
    assert run(python, script, folder=tmp_path).split() == [str(clone / "gac_sj" / "__init__.py"), "attach"]
