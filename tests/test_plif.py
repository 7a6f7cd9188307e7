"""The neuron with a learnable time constant: SpikingJelly's semantics, the same numbers on every path; by name."""

import contextlib
import copy
import io
import pickle

import pytest
import run_cifar
import timm
import torch
from helpers.files import table
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import gac_sj
from gac_sj import LIFNode, ParametricLIFNode, Triangle
from gac_sj.analysis.operator_paths import operator_paths
from gac_sj.checkpoint import load_pretrained, save_pretrained
from gac_sj.export import split, to_nir, to_onnx, to_program
from gac_sj.ops import cpp

pytestmark = pytest.mark.all_parameters  # SpikingJelly computes here

SMALL = "gac_ms_resnet8_cifar"
HARD_AND_SOFT = (0.0, None, -0.2)
needs_compiler = pytest.mark.skipif(cpp.why_not() is not None, reason="there is no C++ compiler")


def current(dtype=torch.float32):
    return torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)).mul(1.5).to(dtype)


def trained(node, x):
    """Spikes, and the gradients of input and w for a fixed weighting of the spikes."""
    x = x.clone().requires_grad_()
    spikes = node(x)
    (spikes * torch.linspace(-1, 2, spikes.numel(), dtype=x.dtype).view_as(spikes)).sum().backward()
    return spikes.detach(), x.grad, node.w.grad


def node_with(path=None, **options):
    return ParametricLIFNode(**{"surrogate_function": surrogate.ATan(), **options})


@pytest.mark.parametrize("decay_input", [False, True])
@pytest.mark.parametrize("v_reset", HARD_AND_SOFT)
@pytest.mark.parametrize("detach_reset", [False, True])
class TestDynamics:
    def test_it_equals_spikingjellys(self, decay_input, v_reset, detach_reset):
        options = dict(decay_input=decay_input, v_reset=v_reset, detach_reset=detach_reset)
        theirs = neuron.ParametricLIFNode(3.0, surrogate_function=surrogate.ATan(), step_mode="m", **options).double()
        ours = ParametricLIFNode(3.0, surrogate_function=surrogate.ATan(), **options).double()
        for one, other in zip(trained(ours, current(torch.float64)), trained(theirs, current(torch.float64))):
            torch.testing.assert_close(one, other)

    @needs_compiler
    def test_the_kernel_equals_the_definition(self, decay_input, v_reset, detach_reset, monkeypatch):
        node = ParametricLIFNode(
            1.7,
            surrogate_function=Triangle(),
            decay_input=decay_input,
            v_reset=v_reset,
            detach_reset=detach_reset,
        )
        found = {}
        for path in ("cpp", "torch"):
            monkeypatch.setenv("GAC_SJ_OPS", path)
            found[path] = trained(copy.deepcopy(node), current())
        for name, one, other in zip(("spikes", "x", "w"), found["cpp"], found["torch"]):
            if name == "w":
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
            else:
                assert torch.equal(one, other), name

    def test_the_gradient_also_reaches_potentials_and_the_state_before(
        self, decay_input, v_reset, detach_reset, default_ops
    ):
        options = dict(decay_input=decay_input, v_reset=v_reset, detach_reset=detach_reset, store_v_seq=True)
        results = []
        for dtype in (torch.float32, torch.float64):  # the definition where no kernel takes the type
            node = ParametricLIFNode(1.7, surrogate_function=Triangle(), **options).to(dtype)
            start = torch.full((3, 5), 0.3, dtype=dtype, requires_grad=True)
            node.v = start
            spikes = node(current(dtype))
            (spikes.sum() + (node.v_seq**2).sum() + node.v.sum()).backward()
            results.append((node.w.grad.double(), start.grad.double()))
        for one, other in zip(*results):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


class TestNode:
    def test_it_starts_as_the_lif_neuron_with_its_tau(self):
        node, lif = gac_sj.lif_preset("plif"), gac_sj.lif_preset("cifar")
        assert node.tau.item() == lif.tau and torch.equal(node(current()), lif(current()))
        assert [name for name, _ in node.named_parameters()] == ["w"] and node.w.dim() == 0

    @needs_compiler
    def test_it_runs_fused_and_says_so(self, default_ops):
        assert operator_paths([gac_sj.lif_preset("plif")], torch.empty(0), 4) == {"cpp": 1}

    def test_half_types_copies_and_step_mode_s(self):
        node = gac_sj.lif_preset("plif", tau=1.5)
        x = current()
        spikes = node(x)
        assert torch.equal(pickle.loads(pickle.dumps(node))(x), spikes)
        assert torch.equal(copy.deepcopy(node)(x), spikes)
        assert node(x.bfloat16()).dtype == torch.bfloat16
        node.reset()
        node.step_mode = "s"
        assert torch.equal(torch.stack([node(step) for step in x]), spikes)

    @pytest.mark.medium
    def test_compiled_code_computes_the_same(self):
        node = gac_sj.lif_preset("plif", tau=1.5)
        expected = trained(copy.deepcopy(node), current())
        compiled = copy.deepcopy(node)
        compiled.compile(backend="eager")
        for one, other in zip(trained(compiled, current()), expected):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    def test_fixed_has_the_learned_number(self):
        node = gac_sj.lif_preset("plif")
        with torch.no_grad():
            node.w.fill_(-0.5)
        fixed = node.fixed()
        assert type(fixed) is LIFNode and torch.equal(fixed(current()), node(current()))


class TestInNetworks:
    def test_every_neuron_learns_its_time_constant(self):
        model = timm.create_model(SMALL, T=2, neuron="plif")
        neurons = [module for module in model.modules() if isinstance(module, ParametricLIFNode)]
        assert len(neurons) == len([module for module in model.modules() if isinstance(module, LIFNode)]) > 6
        model(torch.rand(4, 3, 16, 16)).square().sum().backward()
        assert all(node.w.grad is not None for node in neurons) and sum(bool(node.w.grad) for node in neurons) > 2

    @pytest.mark.parametrize("name", [SMALL, "ms_resnet8_cifar", "att_ms_resnet8_cifar", "ma_snn"])
    def test_networks_take_a_function_that_builds_a_neuron(self, name):
        size = {"img_size": 32, "T": 2, "input_pool": 1} if name == "ma_snn" else {"T": 2}
        with torch.device("meta"):
            model = timm.create_model(name, neuron=lambda: neuron.IFNode(surrogate_function=surrogate.ATan()), **size)
        kinds = {type(module) for module in model.modules() if isinstance(module, neuron.BaseNode)}
        assert kinds == {neuron.IFNode}
        assert {module.step_mode for module in model.modules() if isinstance(module, neuron.BaseNode)} == {"m"}

    def test_other_neurons_are_refused(self):
        for given, words in (("plf", "did you mean 'plif'"), (nn.ReLU, "a ReLU"), (3, "3")):
            with pytest.raises(ValueError, match=words):
                timm.create_model(SMALL, neuron=given)
        with pytest.raises(ValueError, match="preset"):
            timm.create_model(SMALL, neuron=LIFNode, form="reference")

    @pytest.mark.medium
    def test_it_is_trained_and_its_weights_are_loaded(self, quick, tmp_path):
        arguments = ["--dataset", "digits", "--train-limit", "130", "--epochs", "1", "-T", "2", "--seeds", "0"]
        options = ["--encoders", "gac", "--model-options", "{neuron: plif}", "--device", "cpu"]
        with contextlib.redirect_stdout(io.StringIO()):
            assert run_cifar.main([*arguments, *options, "--output", str(tmp_path)]) == 0
        (row,) = table(tmp_path / "results.csv")
        assert row["model_options"] == '{"neuron": "plif"}' and int(row["analysed_images"]) > 0
        (weights,) = tmp_path.glob("runs/*/last.safetensors")
        model = load_pretrained(weights)
        taus = [module.tau.item() for module in model.modules() if isinstance(module, ParametricLIFNode)]
        assert any(tau != 2.0 for tau in taus)

    def test_it_is_saved_as_a_folder(self, tmp_path):
        model = learned(timm.create_model(SMALL, T=2, neuron="plif"))
        save_pretrained(model, tmp_path / "net")
        loaded = load_pretrained(tmp_path / "net")
        images = torch.rand(2, 3, 16, 16)
        assert torch.equal(loaded(images), model(images))


def learned(model):
    """A network whose time constants have moved, in evaluation mode."""
    for number, module in enumerate(model.modules()):
        if isinstance(module, ParametricLIFNode):
            module.w.data.add_(0.01 * number % 0.5)
    return model.eval()


@pytest.mark.slow
class TestExports:
    def test_program_and_onnx(self, tmp_path):
        model = learned(timm.create_model(SMALL, T=2, neuron="plif"))
        images = torch.rand(2, 3, 16, 16)
        program = to_program(model, images).module()
        torch.testing.assert_close(program(images), model(images))
        pytest.importorskip("onnxruntime")
        to_onnx(model, tmp_path / "network.onnx", images)

    def test_nir(self, tmp_path):
        pytest.importorskip("nirtorch")
        pytest.importorskip("spikingjelly.activation_based.nir_exchange")
        model = learned(timm.create_model("ms_resnet8_cifar", T=2, neuron="plif", spike_driven=True))
        encoder, backbone = split(model)
        with torch.no_grad():
            to_nir(backbone, encoder(torch.rand(2, 3, 16, 16)), tmp_path / "backbone.nir", spikes_only=False)
        assert (tmp_path / "backbone.nir").exists()
