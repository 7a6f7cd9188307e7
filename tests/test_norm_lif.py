"""BatchNorm and LIF in one pass: the kernels, built for the CPU, against the definition; where it steps aside."""

import copy

import pytest
import timm
import torch
from helpers.neuron_cases import CIFAR, GRIDS, NEURONS, SOFT, grid, nan_filled  # noqa: F401
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

import gac_sj
from gac_sj import LIFNode, Triangle
from gac_sj._utils.errors import UsageError
from gac_sj.analysis.operator_paths import operator_paths
from gac_sj.nn import norm_lif as fusing
from gac_sj.nn.norm_lif import norm_then_fire
from gac_sj.nn.running_statistics import RepeatedImages
from gac_sj.ops import channels
from gac_sj.ops.norm_lif import norm_lif
from gac_sj.ops.surrogates import cuda_derivative

pytestmark = pytest.mark.usefixtures("default_ops")

#: Largest error of a result, relative to its largest number: sums in another order, and for 16 bits the rounding of the
#: input's gradient, and of that of the normalised value.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def current(*shape, dtype=torch.float32, channels_last=False):
    """Of a channel's own mean and standard deviation."""
    C = shape[2]
    x = torch.randn(shape) * torch.linspace(0.5, 3.0, C)[:, None, None] + torch.linspace(-4.0, 9.0, C)[:, None, None]
    memory = torch.channels_last if channels_last else torch.contiguous_format
    return x.to(dtype).flatten(0, 1).contiguous(memory_format=memory).unflatten(0, shape[:2])


def results(path, x, parameters, statistics, neuron, v, grads):
    leaves = [
        leaf if leaf is None else leaf.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        for leaf in (x, *parameters, v)
    ]
    x, weight, bias, v = leaves
    *outputs, found = norm_lif(x, weight, bias, statistics, 1e-5, neuron, Triangle(), v, path=path)
    gradients = torch.autograd.grad(outputs, [leaf for leaf in leaves if leaf is not None], grads)
    return [*outputs, *gradients, *found]


def assert_same(x, neuron=CIFAR, affine=True, statistics=None, v=None):
    C = x.shape[2]
    parameters = (0.5 + torch.rand(C), 0.4 + torch.rand(C)) if affine else (None, None)
    grads = torch.randn_like(x), torch.randn(x.shape[1:])
    given = x, parameters, statistics, neuron, v, grads
    exact = tree_map(lambda each: each.double() if isinstance(each, torch.Tensor) else each, given)
    # in float32 torch's own sums are off by several roundings; in 16 bits the definition rounds
    expected = results("torch", *(exact if x.dtype == torch.float32 else given))
    found = results("cpp", *given)
    flipped = (found[0] != expected[0]).float().mean()
    assert flipped < 1e-3
    if flipped:  # a value within a rounding of the threshold, which has other gradients
        return
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        error = (ours.double() - theirs.double()).abs().max()
        assert error <= TOLERANCE[x.dtype] * theirs.double().abs().max().clamp_min(1e-2)


LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])


@GRIDS
@LAYOUTS
@pytest.mark.parametrize("C,size", [(1, (3, 5)), (3, (8, 8)), (17, (1, 1)), (130, (4, 4)), (16, (7, 9)), (64, (8, 4))])
def test_every_shape(C, size, channels_last, monkeypatch):
    """With two strands a segment, too, as on a GPU, and with segments of which the last one is shorter."""
    for strands, pixels in ((1, 64), (3, 5)):
        monkeypatch.setattr(channels, "_STRANDS_OF_CPU", strands)
        monkeypatch.setattr(channels, "_PIXELS", pixels)
        monkeypatch.setattr(channels, "_ELEMENTS", 1)
        assert_same(current(3, 5, C, *size, channels_last=channels_last))


@LAYOUTS
@pytest.mark.parametrize("T", [1, 4, 20])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_type(dtype, T, channels_last):
    x = current(T, 2, 16, 4, 4, dtype=dtype, channels_last=channels_last)
    assert_same(x, v=torch.randn(x.shape[1:]))


@LAYOUTS
@pytest.mark.parametrize("neuron", NEURONS[:: len(NEURONS) // 4], ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["of the batch", "given"])
def test_every_reset(neuron, given, channels_last):
    """And with statistics that are given, as in evaluation."""
    statistics = (torch.linspace(-4.0, 9.0, 8), torch.linspace(0.2, 9.0, 8)) if given else None
    assert_same(current(4, 3, 8, 4, 4, channels_last=channels_last), neuron, False, statistics, torch.randn(3, 8, 4, 4))


@LAYOUTS
def test_statistics_are_stable(channels_last):
    """A mean of a thousand standard deviations, and single pixels that are the mean of nothing."""
    x = 1000.0 + torch.randn(4, 8, 16, 8, 8)
    x[0, 0, :, 0] += 50.0
    memory = torch.channels_last if channels_last else torch.contiguous_format
    x = x.flatten(0, 1).contiguous(memory_format=memory).unflatten(0, (4, 8))
    for path in ("cpp", "torch"):
        mean, var = norm_lif(x, None, None, None, 1e-5, CIFAR, Triangle(), path=path)[2]
        expected = torch.var_mean(x.double(), (0, 1, 3, 4), correction=0)
        torch.testing.assert_close((var, mean), expected, rtol=1e-6, atol=0.0)


def test_other_memory_and_unused_gradients():
    """Images that are not dense; and spikes or the potential alone."""
    x = current(4, 3, 8, 6, 8)
    for other in (x[:, :, :, 1:5, ::2], x.transpose(3, 4), x.transpose(0, 1).contiguous().transpose(0, 1)):
        assert_same(other)
    for which in (0, 1):
        gradients = []
        for path in ("cpp", "torch"):
            leaf = x.detach().requires_grad_()
            output = norm_lif(leaf, None, None, None, 1e-5, SOFT, Triangle(), path=path)[which]
            gradients += torch.autograd.grad(output.square().sum() + output.sum(), leaf)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_second_derivatives_are_refused():
    x = current(3, 2, 8, 4, 4).requires_grad_()
    spikes = norm_lif(x, None, None, None, 1e-5, CIFAR, Triangle(), path="cpp")[0]
    (grad,) = torch.autograd.grad(spikes.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="GAC_SJ_OPS=torch"):
        grad.sum().backward()


@pytest.mark.medium
@pytest.mark.parametrize("of_batch", [False, True])
def test_opcheck(of_batch):
    torch.use_deterministic_algorithms(False)  # it looks into unwritten memory
    x, v = current(3, 2, 8, 4, 4).requires_grad_(), torch.randn(2, 8, 4, 4, requires_grad=True)
    weight, bias = torch.rand(8, requires_grad=True), torch.rand(8, requires_grad=True)
    var, mean = torch.var_mean(x.detach(), (0, 1, 3, 4), correction=0)
    derivative, _ = cuda_derivative(Triangle())
    arguments = (x, weight, bias, v, mean, (var + 1e-5).rsqrt(), of_batch, *CIFAR, *derivative)
    torch.library.opcheck(torch.ops.gac_sj.norm_lif.default, arguments)


# ---- in place of two modules


@pytest.fixture
def launched(monkeypatch):
    """The calls of the operator."""
    calls = []
    monkeypatch.setattr(fusing, "norm_lif", lambda *arguments: calls.append(arguments) or norm_lif(*arguments))
    return calls


def modules(**options):
    norm = layer.BatchNorm2d(8, step_mode="m", **options)
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.uniform_(norm.bias, 0.0, 1.0)
    return nn.ModuleList([norm, LIFNode(tau=2.0, decay_input=False, surrogate_function=Triangle())])


def run(pair, call, batches):
    """What two modules leave: outputs, the last potential, gradients, running statistics."""
    leaves = [x.detach().requires_grad_() for x in batches]
    outputs = [call(*pair, x) for x in leaves]
    sum((spikes * torch.linspace(-1.0, 1.0, spikes.numel()).view(spikes.shape)).sum() for spikes in outputs).backward()
    gradients = [leaf.grad for leaf in (*leaves, *pair.parameters())]
    return [*outputs, pair[1].v, *gradients, *pair.buffers()]


def separately(norm, node, x):
    return node(norm(x))


VARIANTS = {
    "plain": {},
    "cumulative": dict(momentum=None),
    "untracked": dict(track_running_stats=False),
    "not affine": dict(affine=False),
    "momentum 0": dict(momentum=0.0),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_call_leaves_what_two_modules_leave(name, training, launched):
    """Over several batches: the potential goes on, statistics move, and without them the batch's are used."""
    fused = modules(**VARIANTS[name])
    batches = [current(4, 3, 8, 4, 4) for _ in range(3)]
    separately(*fused, batches[0])  # statistics that are not 0 and 1
    gac_sj.nn.neuron.reset_states(fused)
    plain = copy.deepcopy(fused.train(training))
    found, expected = run(fused, norm_then_fire, batches), run(plain, separately, batches)
    assert len(launched) == 3
    assert (found[0] != expected[0]).float().mean() < 1e-3
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def hooked(norm, node):
    norm.register_forward_hook(lambda module, inputs, output: output + 1.0)


def hooked_neuron(norm, node):
    node.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1.0,))


def replaced(norm, node):
    norm.forward = lambda x: x + 1.0


def parametrized(norm, node):
    parametrize.register_parametrization(norm, "weight", nn.Softplus())


class Shifted(LIFNode):
    def neuronal_charge(self, x):
        super().neuronal_charge(x + 1.0)


def overridden(norm, node):
    node.__class__ = Shifted


def storing(norm, node):
    node.store_v_seq = True


def learnable(norm, node):
    node.v_threshold = torch.tensor(0.7)


@pytest.mark.parametrize(
    "change", [hooked, hooked_neuron, replaced, parametrized, overridden, storing, learnable], ids=lambda f: f.__name__
)
def test_it_steps_aside_for_what_a_user_put_in(change, launched):
    fused = modules()
    change(*fused)
    plain = copy.deepcopy(fused) if change is not replaced else fused
    x = current(4, 3, 8, 4, 4)
    found = norm_then_fire(*fused, x)
    gac_sj.nn.neuron.reset_states(plain)
    if change is not parametrized:
        assert torch.equal(found, separately(*plain, x))
    assert not launched


def test_it_steps_aside_for_other_sequences(launched):
    """float64, an empty batch, a single element, which BatchNorm refuses, and few neighbours of the same channel."""
    norm, node = modules()
    for x in (torch.randn(4, 0, 8, 4, 4), torch.randn(4, 3, 8, 3, 5)):
        node.reset()
        assert norm_then_fire(norm, node, x).shape == x.shape
    with pytest.raises(ValueError, match="more than 1 value"):
        norm_then_fire(norm, node, torch.randn(1, 1, 8, 1, 1))
    with pytest.raises((ValueError, RuntimeError)):
        norm_then_fire(norm, node, torch.randn(4, 3, 16, 4, 4))
    norm_then_fire(norm.double(), node, torch.randn(4, 3, 8, 4, 4, dtype=torch.float64))
    assert not launched


def test_repeated_images_count_as_several(launched):
    norm, node = modules()
    plain = copy.deepcopy(norm)
    x = current(1, 6, 8, 4, 4)
    with RepeatedImages(4):
        norm_then_fire(norm, node, x)
        plain(x)
    assert torch.equal(norm.running_var, plain.running_var)
    assert not launched


def test_counters_see_the_operations(launched):
    with FlopCounterMode(display=False):
        norm_then_fire(*modules(), current(4, 3, 8, 4, 4))
    assert not launched


def network(path, monkeypatch, autocast=False):
    """Losses of ten steps of training, and the network."""
    monkeypatch.setenv("GAC_SJ_OPS", path)
    torch.manual_seed(0)
    model = timm.create_model("gac_ms_resnet8_cifar", T=4, num_classes=3, drop_path_rate=0.1)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    images, labels = torch.rand(12, 3, 16, 16), torch.arange(12) % 3
    losses = []
    for _ in range(10):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = nn.functional.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


@pytest.mark.medium
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_a_network_learns_as_with_the_definition(autocast, launched, monkeypatch):
    found, model = network("cpp", monkeypatch, autocast)
    assert len(launched) == 3 * 10  # one in each block
    count = len(launched)
    expected, plain = network("torch", monkeypatch, autocast)
    assert len(launched) == count
    assert found[:2] == pytest.approx(expected[:2], rel=2e-2 if autocast else 1e-3)
    assert found[-1] == pytest.approx(expected[-1], rel=0.2)
    assert model.state_dict().keys() == plain.state_dict().keys()


# ---- in networks of SpikingJelly's layers


def stage(neuron_class=neuron.LIFNode, container=False):
    convolution = nn.Conv2d if container else layer.Conv2d
    first = [convolution(3, 8, 3, padding=1, bias=False), (nn if container else layer).BatchNorm2d(8)]
    nodes = [neuron_class(tau=2.0, detach_reset=True, surrogate_function=surrogate.ATan()) for _ in range(2)]
    layers = [layer.SeqToANNContainer(*first)] if container else first
    network = nn.Sequential(
        *layers, nodes[0], nn.Sequential(layer.Conv2d(8, 8, 3, padding=1), layer.BatchNorm2d(8)), nodes[1]
    )
    functional.set_step_mode(network, "m")
    return network


@pytest.mark.parametrize("container", [False, True], ids=["layers", "container"])
@pytest.mark.parametrize("neuron_class", [neuron.LIFNode, LIFNode])
def test_fuse_norm_lif_keeps_everything_but_the_time(neuron_class, container, launched):
    """Results, names, hooks that come later, copies; a second call changes nothing."""
    network = nn.ModuleDict({"body": stage(neuron_class, container)})
    plain = copy.deepcopy(network)
    assert gac_sj.fuse_norm_lif(gac_sj.fuse_norm_lif(network)) is network
    assert network.state_dict().keys() == plain.state_dict().keys()
    x = torch.rand(4, 2, 3, 8, 8)
    found, expected = (module["body"](x) for module in (network, plain))
    assert len(launched) == 1  # the other BatchNorm ends a sequential of its own
    assert found.mean() > 0 and (found != expected).float().mean() < 1e-3
    torch.testing.assert_close(network["body"][-1].v, plain["body"][-1].v, rtol=1e-3, atol=1e-4)
    found.sum().backward(), expected.sum().backward()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(network.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    functional.reset_net(network)
    copied, seen = copy.deepcopy(network), []
    first = copied["body"][0]
    (first[-1] if container else copied["body"][1]).register_forward_hook(lambda *arguments: seen.append(arguments))
    copied["body"](x)
    assert len(launched) == 1 and len(seen) == 1


def test_fuse_norm_lif_refuses_a_network_without_a_pair():
    single_step = stage()
    functional.set_step_mode(single_step, "s")
    for network in (nn.Sequential(nn.Linear(3, 3)), single_step):
        with pytest.raises(UsageError, match="set_step_mode"):
            gac_sj.fuse_norm_lif(network)


def test_paths_name_the_fused_neurons():
    model = timm.create_model("gac_ms_resnet8_cifar", T=4)
    assert operator_paths(model.modules(), torch.empty(0), 4) == {"cpp": 5, "cpp+norm_lif": 3}
    assert operator_paths(gac_sj.fold_batch_norm(model).modules(), torch.empty(0), 4) == {"cpp": 8}
    model.stages[0][0].bn1.register_forward_hook(lambda *arguments: None)
    assert operator_paths(model.modules(), torch.empty(0), 4) == {"cpp": 6, "cpp+norm_lif": 2}
