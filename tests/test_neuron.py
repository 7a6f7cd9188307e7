"""LIFNode against the written-out dynamics and against SpikingJelly's own node."""

import copy
import pickle

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import base, functional, layer, neuron, surrogate

from gac_sj import GatedAttentionCoding, LIFNode, Rectangle, Triangle, lif_preset
from gac_sj.nn.neuron import is_neuron

pytestmark = pytest.mark.all_parameters  # SpikingJelly computes here

VARIANTS = [
    dict(tau=tau, decay_input=decay_input, v_threshold=threshold, v_reset=reset, detach_reset=detach)
    for tau in (2.0, 4.0 / 3.0, 3.7)
    for decay_input in (True, False)
    for threshold, reset in ((1.0, 0.0), (0.5, None), (0.8, -0.25))
    for detach in (True, False)
]


def numpy_spikes(x, tau, decay_input, v_threshold, v_reset, detach_reset):
    rest = 0.0 if v_reset is None else v_reset
    v, spikes = np.full(x.shape[1:], rest), []
    for step in x:
        h = v + (step - (v - rest)) / tau if decay_input else v - (v - rest) / tau + step
        spike = (h >= v_threshold).astype(float)
        v = h - spike * v_threshold if v_reset is None else np.where(spike == 1, v_reset, h)
        spikes.append(spike)
    return np.stack(spikes), v


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_spikes_and_potential_equal_numpy(settings):
    x = torch.randn(7, 3, 5, dtype=torch.float64) + 0.5
    node = LIFNode(**settings)
    spikes, v = numpy_spikes(x.numpy(), **settings)
    assert np.array_equal(node(x).numpy(), spikes)
    assert 0 < spikes.mean() < 1
    np.testing.assert_allclose(node.v.numpy(), v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_spikes_and_gradients_equal_spikingjelly(settings):
    x = torch.randn(6, 2, 3, 5, 7, dtype=torch.float64) + 0.3
    weights = torch.randn_like(x)
    results = []
    for cls in (LIFNode, neuron.LIFNode):
        node = cls(surrogate_function=surrogate.ATan(2.0), step_mode="m", **settings)
        current = x.clone().requires_grad_()
        spikes = node(current)
        (spikes * weights).sum().backward()
        results.append((spikes, current.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-10, atol=1e-10)


def test_evaluation_has_the_gradients_of_training():
    """As attacks and Grad-CAM need; SpikingJelly 0.0.0.0.14's own node has none in eval()."""
    x, gradients = torch.randn(4, 3, 5), []
    for training in (True, False):
        current = x.clone().requires_grad_()
        lif_preset("cifar").train(training)(current).sum().backward()
        gradients.append(current.grad)
    assert torch.equal(*gradients)
    assert gradients[0].any()


@pytest.mark.parametrize("settings", VARIANTS[::5], ids=str)
def test_single_steps_equal_multi_step(settings):
    x = torch.randn(5, 4, 6)
    multi, single = LIFNode(store_v_seq=True, **settings), LIFNode(store_v_seq=True, step_mode="s", **settings)
    expected = multi(x)
    assert torch.equal(torch.stack([single(step) for step in x]), expected)
    assert torch.equal(single.v, multi.v)
    assert torch.equal(single.v_seq, multi.v_seq)
    assert torch.equal(multi.v_seq[-1], multi.v)


def test_the_potential_carries_over_until_reset():
    node = lif_preset("cifar")
    x = torch.full((1, 1), 0.6)
    assert [node(x.unsqueeze(0)).item() for _ in range(4)] == [0, 0, 1, 0]
    functional.reset_net(node)
    assert [node(x.unsqueeze(0)).item() for _ in range(3)] == [0, 0, 1]


def test_presets_are_the_published_neurons():
    cifar, imagenet = lif_preset("cifar"), lif_preset("imagenet")
    # decay 0.5, threshold 1: 0.6, 0.9, 1.05; decay 0.25, threshold 0.5: 0.45, 0.5625
    assert cifar(torch.full((3, 1), 0.6)).flatten().tolist() == [0, 0, 1]
    assert imagenet(torch.full((2, 1), 0.45)).flatten().tolist() == [0, 1]
    for node, gradient in ((cifar, True), (imagenet, False)):
        node.reset()
        x = torch.full((2, 1), 0.9 * node.v_threshold, requires_grad=True)
        # the second step's charge sees the first step's spike through the reset, where that is not detached
        node(x)
        node.v.sum().backward()
        assert (x.grad[0] != node.v_threshold).item()
        without = torch.full((2, 1), 0.9 * node.v_threshold, requires_grad=True)
        h1 = without[0]
        h2 = (1 - 1 / node.tau) * h1 + without[1]
        expected = torch.autograd.grad(h2 * (h2 < node.v_threshold), without)[0]
        assert (not torch.allclose(x.grad, expected)) == gradient


def test_the_published_neuron_does_not_fire_at_the_threshold():
    x = torch.tensor([[1.0]])
    assert lif_preset("cifar")(x).item() == 1.0
    assert lif_preset("cifar", strict=True)(x).item() == 0.0


def test_the_sigmoid_preset_is_spikingjellys_own_neuron():
    node = lif_preset("sigmoid")
    assert (node.tau, node.decay_input, node.v_threshold, node.detach_reset) == (2.0, True, 1.0, True)
    assert (type(node.surrogate_function), node.surrogate_function.alpha) == (surrogate.Sigmoid, 4.0)
    # the half of 1.2, and of what is missing to it: 0.6, 0.9, 1.05; the half of 2 meets the threshold
    assert node(torch.full((3, 1), 1.2)).flatten().tolist() == [0, 0, 1]
    assert lif_preset("sigmoid")(torch.full((1, 1), 2.0)).item() == 1.0
    x, results = 2 * torch.randn(5, 3, 7, dtype=torch.float64), []
    for node in (lif_preset("sigmoid"), neuron.LIFNode(tau=2.0, detach_reset=True, step_mode="m")):
        current = x.clone().requires_grad_()
        spikes = node(current)
        (spikes * x).sum().backward()
        results.append((spikes, current.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-10, atol=1e-10)
    assert spikes.any()


def test_a_strict_sigmoid_is_refused():
    with pytest.raises(ValueError, match=r"^neuron .*strict.* got 'sigmoid'.*cifar, imagenet"):
        lif_preset("sigmoid", strict=True)


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"^neuron .* got 'mnist'.*cifar, imagenet, sigmoid"):
        lif_preset("mnist")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_keep_the_potential_in_float32(dtype):
    x = (torch.rand(8, 1000) * 0.5).to(dtype)
    node, exact = lif_preset("cifar"), lif_preset("cifar")
    spikes = node(x)
    assert spikes.dtype == dtype
    assert node.v.dtype == torch.float32
    assert torch.equal(spikes.float(), exact(x.float()))
    assert torch.equal(node.v, exact.v)


@pytest.mark.parametrize("store", [True, False])
def test_copies_after_a_training_step_start_from_reset(store):
    node = LIFNode(surrogate_function=Triangle(), store_v_seq=store)
    x = torch.randn(4, 3, requires_grad=True)
    node(x).sum().backward()
    for twin in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        assert twin.v == 0.0
        assert torch.equal(twin(x), LIFNode(surrogate_function=Triangle())(x))
    assert isinstance(node.v, torch.Tensor)


def test_another_batch_size_starts_from_reset():
    node = lif_preset("cifar")
    node(torch.full((1, 8), 0.9))
    assert node(torch.full((1, 3), 0.9)).sum() == 0


@pytest.mark.skipif(hasattr(functional, "invalidate_reset_cache"), reason="only 0.0.0.0.14 has backends")
def test_an_unusable_backend_is_refused_as_by_spikingjelly(monkeypatch):
    monkeypatch.setattr(base, "cupy", None)  # as where CuPy is not installed
    with pytest.raises(ImportError, match="CuPy is not installed"):
        LIFNode(backend="cupy")


def test_spiking_neurons_count_as_neurons_whatever_they_derive_from():
    class Own(neuron.IFNode):
        pass

    spiking = [LIFNode(), Own(), neuron.ParametricLIFNode()]
    if hasattr(neuron, "PSN"):  # SpikingJelly 2.0.0 has neurons that are not a BaseNode
        spiking += [neuron.PSN(4, surrogate.ATan()), neuron.SlidingPSN(2), neuron.SimpleLIFNode(2.0, True)]
    assert all(map(is_neuron, spiking))


def test_layers_and_non_spiking_neurons_do_not_count_as_neurons():
    class Memory(base.MemoryModule):
        pass

    others = [torch.nn.Sequential(LIFNode()), layer.Conv2d(3, 3, 1), layer.Dropout(), surrogate.ATan(), Memory()]
    if hasattr(neuron, "NonSpikingLIFNode"):  # SpikingJelly 2.0.0
        others.append(neuron.NonSpikingLIFNode())
    assert not any(map(is_neuron, others))


HAS_FUNCTIONAL = hasattr(base.MemoryModule, "single_step_functional_forward")


class Delegating(LIFNode):
    """It overrides what it can and changes nothing."""

    def neuronal_charge(self, x):
        super().neuronal_charge(x)

    def neuronal_fire(self):
        return super().neuronal_fire()

    def neuronal_reset(self, spike):
        super().neuronal_reset(spike)


class DelegatingStep(LIFNode):
    def single_step_forward(self, x):
        return super().single_step_forward(x)


class TestWhatAUserPutIn:
    @pytest.mark.parametrize("cls", [Delegating, DelegatingStep])
    @pytest.mark.parametrize("settings", VARIANTS, ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_methods_that_change_nothing(self, cls, settings, dtype):
        """Step by step is the sequence, bit for bit, with its gradients, and with the state of an earlier one."""
        x, grads, results = (torch.randn(5, 3, 7) + 0.4).to(dtype), torch.randn(5, 3, 7).to(dtype), []
        for make in (cls, LIFNode):
            node = make(store_v_seq=True, surrogate_function=Triangle(), **settings)
            node(x)
            leaf = x.clone().requires_grad_()
            spikes = node(leaf)
            spikes.backward(grads)
            results.append((spikes, node.v, node.v_seq, leaf.grad))
        for ours, expected in zip(*results):
            assert ours.dtype == expected.dtype
            assert torch.equal(ours, expected)

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("step_mode", ["s", "m"])
    def test_an_overridden_charge(self, step_mode, training):
        class Mine(LIFNode):
            def neuronal_charge(self, x):
                self.v = 0 * x + 5.0

        node = Mine(step_mode=step_mode).train(training)
        x = torch.zeros(4, 1, 6)
        spikes = node(x) if step_mode == "m" else torch.stack([node(step) for step in x])
        assert torch.equal(spikes, torch.ones(4, 1, 6))

    @pytest.mark.parametrize("training", [True, False])
    def test_an_overridden_fire_and_reset(self, training):
        class Quiet(LIFNode):
            def neuronal_fire(self):
                return torch.zeros_like(self.v)

        class Sticky(LIFNode):
            def neuronal_reset(self, spike):
                pass

        x = torch.full((3, 2), 9.0)
        assert not Quiet().train(training)(x).any()
        node = Sticky(decay_input=False).train(training)
        assert node(x).all() and torch.equal(node.v, torch.full((2,), 9.0 * 1.75))

    def test_a_method_that_an_instance_replaces(self):
        node = LIFNode(decay_input=False)
        node.neuronal_fire = lambda: torch.full_like(node.v, 7.0)
        assert torch.equal(node(torch.zeros(2, 3)), torch.full((2, 3), 7.0))
        node = LIFNode()
        node.forward = torch.zeros_like
        assert not node(torch.full((2, 3), 9.0)).any()

    @pytest.mark.skipif(not HAS_FUNCTIONAL, reason="only SpikingJelly 2.0.0 has functional methods")
    @pytest.mark.parametrize("step_mode", ["s", "m"])
    def test_functional_methods(self, step_mode):
        class Step(LIFNode):
            def single_step_functional_forward(self, inputs, states, **kwargs):
                return (torch.full_like(inputs[0], 3.0),), states

        class Sequence(LIFNode):
            def multi_step_functional_forward(self, inputs, states, **kwargs):
                return (torch.full_like(inputs[0], 3.0),), states

        class State(LIFNode):
            def materialize_states(self, inputs, states, step_mode):
                (v,) = super().materialize_states(inputs, states, step_mode)
                return (v + 9.0,)

        x = torch.zeros(2, 1, 6)
        x = x if step_mode == "m" else x[0]
        assert torch.equal(Step(step_mode=step_mode)(x), torch.full_like(x, 3.0))
        assert State(step_mode=step_mode)(x).any()
        assert torch.equal(Sequence()(torch.zeros(2, 1, 6)), torch.full((2, 1, 6), 3.0))

    @pytest.mark.parametrize("step_mode", ["s", "m"])
    @pytest.mark.parametrize("make", [Triangle, surrogate.Sigmoid, surrogate.ATan])
    def test_a_changed_surrogate_is_called(self, make, step_mode):
        x = torch.full((4, 3), 9.0, requires_grad=True)

        def run(function):
            return LIFNode(surrogate_function=function, step_mode=step_mode)(x)

        replaced = make()
        replaced.forward = torch.zeros_like
        assert not run(replaced).any()
        hooked, seen = make(), []
        handle = hooked.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
        assert not run(hooked).any()
        handle.remove()
        assert run(hooked).all()
        hooked.register_forward_pre_hook(lambda module, inputs: seen.append("forward"))
        hooked.register_full_backward_hook(lambda *_: seen.append("backward"))
        run(hooked).sum().backward()
        assert seen.count("forward") == seen.count("backward") == (4 if step_mode == "m" else 1)

    def test_a_surrogate_with_another_forward_is_called(self):
        class Off(surrogate.ATan):
            def forward(self, x):
                return torch.zeros_like(x)

        assert not LIFNode(surrogate_function=Off())(torch.full((4, 3), 9.0)).any()


@pytest.mark.parametrize("path", ["cpp", "torch"])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("v_dtype", [torch.float16, torch.bfloat16])
def test_a_potential_in_half_precision_is_promoted(path, x_dtype, v_dtype, monkeypatch):
    """As SpikingJelly 2.0.0 does it, before the first operation, on every path."""
    monkeypatch.setenv("GAC_SJ_OPS", path)
    x, v, results = (torch.randn(3, 100) + 0.4).to(x_dtype), torch.randn(100).to(v_dtype), []
    for potential in (v, v.float()):
        node = LIFNode(tau=1.7, decay_input=False)
        node.v = potential
        results.append((node(x), node.v))
    assert [result.dtype for result in results[0]] == [x_dtype, torch.float32]
    assert all(map(torch.equal, *results))


class TestSpikingJellysCounters:
    """They count our neuron as they count SpikingJelly's, which runs the same operations."""

    @staticmethod
    def count(node, x):
        from spikingjelly.activation_based import op_counter

        counts = {}
        for name in (
            "NeuronStateCounter",
            "MemoryAccessCounter",
            "ACCounter",
            "FlopCounter",
            "MACCounter",
            "SynOpCounter",
        ):
            counter = getattr(op_counter, name)()
            node.reset()
            with torch.no_grad(), op_counter.DispatchCounterMode([counter]) as mode:
                spikes = node(x)
            found = counter.get_metric_counts() if name == "NeuronStateCounter" else counter.get_counts()
            counts[name] = counter.get_total(), found.get("Global"), mode.get_unsupported(counter)
        return counts, spikes

    @pytest.mark.skipif(not HAS_FUNCTIONAL, reason="only SpikingJelly 2.0.0 has counters")
    @pytest.mark.parametrize("step_mode", ["s", "m"])
    @pytest.mark.parametrize(
        "ours,theirs",
        [
            (surrogate.Sigmoid, surrogate.Sigmoid),
            (Triangle, Triangle),
            (Rectangle, getattr(surrogate, "Rect", None)),
            (lambda: Triangle(strict=True), lambda: Triangle(strict=True)),
        ],
        ids=["Sigmoid", "Triangle", "Rectangle", "strict"],
    )
    def test_equal_counts(self, step_mode, ours, theirs):
        x = torch.rand(3, 2, 4)
        x = x if step_mode == "m" else x[0]
        expected, theirs = self.count(neuron.LIFNode(2.0, False, surrogate_function=theirs(), step_mode=step_mode), x)
        found, ours = self.count(LIFNode(2.0, False, surrogate_function=ours(), step_mode=step_mode), x)
        assert found == expected
        assert torch.equal(ours, theirs)

    @pytest.mark.skipif(not HAS_FUNCTIONAL, reason="only SpikingJelly 2.0.0 has counters")
    def test_known_counts(self):
        found, _ = self.count(LIFNode(decay_input=False), torch.rand(3, 2, 4))
        names = ("MemoryAccessCounter", "ACCounter", "FlopCounter")
        assert [found[name][0] for name in names] == [2768, 136, 240]
        state = found["NeuronStateCounter"][1]
        assert (state["state_reads"], state["state_writes"]) == (848, 560)

    @pytest.mark.skipif(not HAS_FUNCTIONAL, reason="only SpikingJelly 2.0.0 has counters")
    def test_half_precision_keeps_its_state_and_dtype(self):
        x = torch.randn(4, 2, 30).bfloat16()
        counted, plain = LIFNode(surrogate_function=Rectangle()), LIFNode(surrogate_function=Rectangle())
        _, spikes = self.count(counted, x)
        assert spikes.dtype == torch.bfloat16 and counted.v.dtype == torch.float32
        assert torch.equal(spikes, plain(x)) and torch.equal(counted.v, plain.v)


@pytest.mark.parametrize(
    "build", [LIFNode, lambda **options: GatedAttentionCoding(T=5, channels=3, neuron=LIFNode(**options))]
)
def test_the_gradient_of_a_learnable_reset_potential_does_not_jump_at_zero(build):
    def gradient(reset):
        torch.manual_seed(0)
        module = build(tau=1.5, decay_input=False, surrogate_function=Triangle()).double()
        module.get_submodule("" if isinstance(module, LIFNode) else "neuron").v_reset = reset
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        output = module(x.expand(5, *x.shape) if isinstance(module, LIFNode) else x)
        return torch.autograd.grad((output * torch.randn_like(output)).sum(), reset)[0]

    at, near = (gradient(torch.tensor(value, dtype=torch.float64, requires_grad=True)) for value in (0.0, 1e-12))
    assert at != 0
    torch.testing.assert_close(at, near)
