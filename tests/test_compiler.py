"""C++ compilers of every kind: kernels run where they can be built, and where not PyTorch computes and says why."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from helpers.neuron_cases import CIFAR

from gac_sj import GatedAttentionCoding, LIFNode, Triangle
from gac_sj.cli import environment
from gac_sj.ops import compiler, cpp
from gac_sj.ops.compiler import TIME_LIMIT
from gac_sj.ops.dispatch import choose
from gac_sj.ops.lif import lif
from gac_sj.ops.source import BuildError

pytestmark = [pytest.mark.one_release, pytest.mark.usefixtures("fresh_ops")]

ELSE = 'exec g++ "$@"'  # what a wrapper does for the rest


@pytest.fixture
def use(tmp_path, monkeypatch):
    """Makes CXX a shell script of the given text; its path."""

    def write(text, name="c++", header=b"#!/bin/sh\n"):
        path = tmp_path / name
        path.write_bytes(header + text.encode("latin-1"))
        path.chmod(0o755)
        monkeypatch.setenv("CXX", f"'{path}'")
        return path

    return write


def line_of_compiler():
    (line,) = [line for line in environment.report().splitlines() if line.startswith("compiler")]
    return line


def check_kernels():
    """Kernels run, and equal the definition."""
    x = torch.randn(4, 3, 8)
    assert cpp.why_not() is None
    assert torch.equal(lif(x, CIFAR, Triangle(), path="cpp")[0], lif(x, CIFAR, Triangle(), path="torch")[0])


def check_definition(monkeypatch, *parts):
    """PyTorch computes, the reason contains the parts, and an explicit request is an error in one sentence."""
    reason = cpp.why_not()
    assert all(part in reason for part in parts), reason
    assert "\n" not in reason and not reason.endswith(".")
    assert reason in environment.report()
    x = torch.randn(4, 3, 8)
    assert torch.equal(lif(x, CIFAR, Triangle())[0], lif(x, CIFAR, Triangle(), path="torch")[0])
    assert GatedAttentionCoding(T=4, channels=8)(torch.randn(1, 3, 8, 8)).shape == (4, 1, 8, 8, 8)
    monkeypatch.setenv("GAC_SJ_OPS", "cpp")
    with pytest.raises(ValueError, match=r"^GAC_SJ_OPS requests 'cpp'") as error:
        LIFNode()(x)
    assert str(error.value).endswith(f"{reason}.")


class TestItWorks:
    @pytest.mark.parametrize("named", ["", "  ", "g++", "gcc", "env g++", "g++ -DNAME='a b'", " g++ "])
    def test_as_named(self, named, monkeypatch):
        monkeypatch.setenv("CXX", named)
        check_kernels()

    def test_under_a_path_with_a_space_and_without_quotes(self, use, monkeypatch):
        monkeypatch.setenv("CXX", str(use(ELSE, "my c++")))
        check_kernels()

    def test_under_a_relative_path_with_a_change_of_folder(self, use, tmp_path, monkeypatch):
        use(ELSE)
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("CXX", "./c++")
        assert cpp.why_not() is None
        monkeypatch.chdir("other")
        compiler.compiler().build("", tmp_path / "empty.so")

    def test_with_warnings_that_are_not_utf8(self, use):
        use(f"printf 'warning: \xff\xfe\\n' >&2; {ELSE}")
        check_kernels()

    @pytest.mark.parametrize("refused", [["-fopenmp"], ["-march=native"], ["-march=native", "-fopenmp"]], ids=str)
    def test_without_an_option_that_it_refuses(self, refused, use):
        for_each = "|".join(refused)
        use(f'for o do case "$o" in {for_each}) echo "error: unsupported option $o" >&2; exit 1 ;; esac; done; {ELSE}')
        check_kernels()
        found = compiler.compiler().options
        assert not {*found} & {*refused} and {*found} >= {"-march=native", "-fopenmp"} - {*refused}
        assert ("kernels use one thread" in line_of_compiler()) == ("-fopenmp" in refused)

    def test_env_says_its_version(self, use):
        use(f"case $1 in --version) echo mine 1.2; exit ;; esac; {ELSE}")
        assert line_of_compiler().endswith("c++ (mine 1.2)")


@pytest.mark.parametrize(
    "named,parts",
    [
        ("nonsense", ["CXX", "'nonsense'", "not found"]),
        ('g++ "', ["CXX", "'g++ \"'", "not found"]),
        ("'", ["CXX", "not found"]),
        ("/", ["CXX", "'/'"]),
        ("true", ["true cannot build the kernels", "without a library"]),
        ("false", ["false cannot build the kernels", "status 1"]),
        ("cat", ["cat cannot build the kernels"]),
        ("g++ --no-such-option", ["g++ cannot build the kernels", "--no-such-option"]),
        ("g++ -fvisibility=hidden", ["launch_lif_forward"]),
    ],
)
def test_names_of_no_compiler(named, parts, monkeypatch):
    monkeypatch.setenv("CXX", named)
    check_definition(monkeypatch, *parts)


@pytest.mark.parametrize(
    "text,parts",
    [
        ("echo 'error: caf\xe9 \xff' >&2; exit 1", ["error: caf\ufffd"]),
        ("kill -9 $$", ["killed by signal 9"]),
        (
            "for o; do :; done; case $1 in --version) ;; *) shift $(($# - 2)); echo text >$1 ;; esac",
            ["cannot be stored or loaded"],
        ),
        ("sleep 60 & sleep 60", ["stopped after 0.5 seconds"]),
        ("case $1 in --version) ;; *) sleep 60 ;; esac", ["stopped after 0.5 seconds"]),
    ],
    ids=["not UTF-8", "killed", "no library", "hangs", "hangs later"],
)
def test_compilers_that_fail(text, parts, use, monkeypatch):
    monkeypatch.setattr(compiler, "TIME_LIMIT", 0.5 if "sleep" in text else TIME_LIMIT)
    use(text)
    start = time.monotonic()
    check_definition(monkeypatch, *parts)
    assert time.monotonic() - start < 30


def test_a_file_that_is_no_program(use, monkeypatch):
    use("\x00", header=b"")
    check_definition(monkeypatch, "c++ cannot be run (Exec format error)")


def test_a_compiler_that_is_stopped_leaves_no_process(use, monkeypatch):
    monkeypatch.setattr(compiler, "TIME_LIMIT", 0.5)
    path = use('sleep 60 & echo $! >"$0.pid"; wait')
    with pytest.raises(BuildError):
        compiler.compiler()
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(int(Path(f"{path}.pid").read_text()), 0)
            time.sleep(0.02)


class TestALaterKernelCannotBeBuilt:
    @pytest.fixture
    def breaks(self, use):
        """Makes the compiler fail from now on."""
        path = use(f'[ -e "$0.broken" ] && {{ echo "error: No space left on device" >&2; exit 1; }}; {ELSE}')
        check_kernels()
        return Path(f"{path}.broken").touch

    def test_pytorch_computes_and_one_warning_says_why(self, breaks):
        breaks()
        x = torch.randn(5, 3, 8, requires_grad=True)
        node, encoder = LIFNode(**CIFAR._asdict()), GatedAttentionCoding(T=5, channels=8)
        with pytest.warns(UserWarning, match=r"lif runs on the path 'torch' \(not cpp: .*No space left on device"):
            spikes = node(x)
        assert torch.equal(spikes, lif(x, CIFAR, Triangle(), path="torch")[0])
        spikes.sum().backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            node.reset()
            node(x)
            assert choose("lif", x, node.surrogate_function) == "torch"
        encoder(torch.randn(2, 3, 8, 8)).sum().backward()

    def test_of_the_encoder(self, breaks):
        breaks()
        encoder = GatedAttentionCoding(T=5, channels=8)
        with pytest.warns(
            UserWarning, match=r"gated_lif runs on the path 'torch' \(not cpp: .*No space left on device"
        ):
            gated = encoder(torch.randn(2, 3, 8, 8))
        gated.sum().backward()
        assert encoder.stem[0].weight.grad.any()

    def test_an_explicit_request_raises(self, breaks, monkeypatch):
        breaks()
        for _ in range(2):
            with pytest.raises(ValueError, match=r"^path requests 'cpp'.*lif: .*No space left on device\.$"):
                lif(torch.randn(5, 3), CIFAR, Triangle(), path="cpp")
        monkeypatch.setenv("GAC_SJ_OPS", "cpp")
        with pytest.raises(ValueError, match=r"^GAC_SJ_OPS requests 'cpp'.*lif: .*No space left on device\.$"):
            LIFNode()(torch.randn(6, 3))

    def test_what_is_built_goes_on(self, breaks):
        """The library of a forward pass holds the backward pass too."""
        encoder, x = GatedAttentionCoding(T=4, channels=8), torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            encoder(x)
        breaks()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoder(x).sum().backward()

    def test_a_mistake_in_one_derivative_leaves_the_others_alone(self):
        class Wrong(Triangle):
            def cuda_derivative(self):
                return ("fabs_of(x)",)

        x = torch.randn(4, 3)
        with pytest.warns(UserWarning, match="not cpp: .*fabs_of"):
            assert torch.equal(lif(x, CIFAR, Wrong())[0], lif(x, CIFAR, Triangle(), path="torch")[0])
        assert choose("lif", x, Triangle()) == "cpp"


@pytest.mark.medium
@pytest.mark.parametrize("limit", [0, 4096, 14000], ids=str)
def test_a_disk_without_space(limit, tmp_path):
    """Files of a limited size fail in the same places."""
    code = "import torch, gac_sj; print(gac_sj.LIFNode()(torch.full((4, 2), 9.0)).sum().item())"
    command = [
        sys.executable,
        "-c",
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); {code}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "8.0\n"), done.stderr
    assert "Traceback" not in done.stderr


PLATFORM = """
import os, signal, sys, torch, gac_sj
from gac_sj.ops import compiler, cpp, dispatch
sys.platform = {platform!r}
for module, names in ({missing!r}).items():
    for name in names:
        delattr(sys.modules[module], name)
x = torch.full((4, 2), 9.0)
print(gac_sj.LIFNode()(x).sum().item(), dispatch.choose("lif", x, gac_sj.Triangle()))
print(gac_sj.GatedAttentionCoding(T=4, channels=8)(torch.randn(1, 3, 8, 8)).shape[0])
from gac_sj.cli.environment import report
print(report())
"""


def pretend(platform, missing=(), **environment):
    code = PLATFORM.format(platform=platform, missing=dict(missing))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.medium
def test_on_windows_pytorch_computes():
    missing = {"os": ["geteuid", "getuid", "killpg", "fchmod"], "signal": ["SIGKILL"]}
    said = pretend("win32", missing)
    assert said.startswith("8.0 torch\n4\n")
    assert said.count("the kernels are not built on Windows; use WSL for them") >= 3  # compiler, folder, operators


@pytest.mark.medium
def test_on_macos_kernels_use_one_thread(use):
    path = use(
        f'for o do case "$o" in -fopenmp|-march=native) echo "error: unsupported $o" >&2; exit 1 ;; esac; done; {ELSE}'
    )
    said = pretend("darwin", CXX=str(path))
    assert said.startswith("8.0 cpp\n4\n")
    assert "without OpenMP, so kernels use one thread" in said


@pytest.mark.medium
def test_openmp_is_not_asked_for_on_macos():
    """PyTorch brings its own runtime; a second one ends the process."""
    said = pretend("darwin")
    assert said.startswith("8.0 cpp\n4\n")
    assert "without OpenMP, so kernels use one thread" in said
