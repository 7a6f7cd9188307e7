"""On a GPU: kernels through CuPy against the definition on the CPU, and what only a GPU has.

TEST_DEVICE=cpu runs what needs no GPU on the CPU's kernels.
"""

import copy
import itertools
import os
import warnings

import pytest
import timm
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import surrogate as surrogates
from torch import nn

from gac_sj import GatedAttentionCoding, LIFNode, Rectangle, Triangle
from gac_sj.encoders import gac as encoding
from gac_sj.nn.functional import gate
from gac_sj.ops import dispatch
from gac_sj.ops.gated_lif import gated_lif
from gac_sj.ops.lif import lif
from gac_sj.ops.neuron import LIFDynamics
from gac_sj.ops.norm_lif import norm_lif
from gac_sj.ops.surrogates import cuda_derivative

DEVICE = torch.device(os.environ.get("TEST_DEVICE", "cuda"))
PATH = {"cuda": "cupy", "cpu": "cpp"}[DEVICE.type]

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("nan_filled")]
on_cuda = pytest.mark.skipif(DEVICE.type != "cuda", reason="the CPU has no streams, graphs and memory of a GPU")
has_kernels_of_spikingjelly = pytest.mark.skipif(
    not hasattr(functional, "lif_multi_step"), reason="this SpikingJelly has no functional.lif_multi_step"
)

#: hard, soft and shifted resets, in the graph and not, with and without a decayed input
NEURONS = [
    LIFDynamics(tau=tau, decay_input=decayed, v_threshold=threshold, v_reset=reset, detach_reset=detached)
    for (tau, decayed), (threshold, reset), detached in itertools.product(
        ((2.0, False), (3.7, True)), ((1.0, 0.0), (0.5, None), (0.8, -0.25)), (False, True)
    )
]
CIFAR, SHIFTED, SOFT = NEURONS[0], NEURONS[4], NEURONS[8]
TYPES = [torch.float32, torch.float16, torch.bfloat16]
#: error of :func:`gated_lif` relative to the definition in float32 (root mean square): exp, sums, rounding of results
TOLERANCE = {torch.float32: 5e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


@pytest.fixture
def nan_filled():
    """New memory holds NaN, so that what a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def any_algorithm(nan_filled):
    """Products of matrices are no deterministic algorithm on a GPU, and opcheck looks into unwritten memory."""
    torch.use_deterministic_algorithms(False)


def current(*shape, dtype=torch.float32):
    return (torch.randn(*shape) * 0.8 + 0.4).to(dtype)


def lif_results(device, path, x, v, neuron, surrogate):
    """Outputs, and gradients of x and v under gradients of all outputs; on the CPU."""
    x, v = (None if tensor is None else tensor.detach().to(device).requires_grad_() for tensor in (x, v))
    outputs = lif(x, neuron, surrogate, v, store_v_seq=True, path=path)
    torch.manual_seed(1)
    grads = [torch.randn(output.shape).to(device, output.dtype) for output in outputs]
    found = [*outputs, *torch.autograd.grad(outputs, [x] if v is None else [x, v], grads)]
    assert all(tensor.device.type == torch.device(device).type for tensor in found)
    return [tensor.cpu() for tensor in found]


def assert_lif(x, v=None, neuron=CIFAR, surrogate=None, tolerance=0.0):
    surrogate = surrogate or Triangle()
    expected = lif_results("cpu", "torch", x, v, neuron, surrogate)
    for ours, theirs in zip(lif_results(DEVICE, PATH, x, v, neuron, surrogate), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
def test_lif_every_reset(neuron, dtype):
    assert_lif(current(6, 3, 4, 5, 7, dtype=dtype), current(3, 4, 5, 7), neuron)


@pytest.mark.parametrize("T", [*range(1, 18), 33])
def test_lif_every_length(T):
    assert_lif(current(T, 3, 4, 11, dtype=TYPES[T % 3]))


@pytest.mark.parametrize("size", [1, 3, 255, 1028, 70_000, 1_000_003])
def test_lif_every_size(size):
    assert_lif(current(4, size), current(size), SHIFTED)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_lif_writes_bytes(dtype):
    x = current(4, 3, 257, dtype=dtype)
    expected, last, _ = lif(x, SOFT, Triangle(), path="torch")
    spikes, found, _ = lif(x.to(DEVICE), SOFT, Triangle(), as_bytes=True, path=PATH)
    assert spikes.dtype == torch.uint8
    assert torch.equal(spikes.cpu(), expected.to(torch.uint8)) and torch.equal(found.cpu(), last)


SURROGATES = {
    "Rectangle": (Rectangle(0.7), 0.0),
    "strict": (Triangle(1.3, strict=True), 0.0),
    "PiecewiseQuadratic": (surrogates.PiecewiseQuadratic(alpha=1.2), 0.0),
    **{
        name: (getattr(surrogates, name)(), 1e-5)
        for name in ("Sigmoid", "ATan", "PiecewiseExp", "SoftSign", "Erf", "S2NN")
    },
}


@pytest.mark.parametrize("name", SURROGATES)
def test_lif_every_surrogate(name):
    surrogate, tolerance = SURROGATES[name]
    assert_lif(current(4, 3, 200), neuron=SOFT, surrogate=surrogate, tolerance=tolerance)


def layouts():
    x = current(4, 3, 8, 5, 7)
    last = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (4, 3))
    yield "channels_last", lambda x: last.to(x.device)
    yield "the same at every step", lambda x: x[0].expand_as(x)
    yield "channels_last, the same", lambda x: last[0].to(x.device).expand_as(x)
    yield "images first", lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)
    yield "part of a tensor", lambda x: x[..., ::2]
    yield "unaligned", lambda x: x.flatten()[1:-7].unflatten(0, (4, -1))


LAYOUTS = dict(layouts())


@pytest.mark.parametrize("name", LAYOUTS)
def test_lif_every_layout(name):
    x = current(4, 3, 8, 5, 7)
    laid_out = LAYOUTS[name](x.to(DEVICE))  # here: a copy from another device need not keep strides
    on_cpu = laid_out.cpu().contiguous()
    v = current(*laid_out.shape[1:])
    results = []
    for x, path in ((laid_out, PATH), (on_cpu, "torch")):
        x = x.detach().requires_grad_()
        spikes, last, _ = lif(x, SHIFTED, Triangle(), v.to(x.device), path=path)
        torch.manual_seed(1)
        (grad,) = torch.autograd.grad(spikes, x, torch.randn(x.shape).to(x.device))
        results.append([tensor.cpu() for tensor in (spikes, last, grad)])
        if path == PATH and name.startswith("channels_last"):
            assert spikes.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert all(map(torch.equal, *results))


def gated_results(device, path, tensors, neuron, before=False):
    *parts, grad = (tensor.detach().to(device) for tensor in tensors)
    parts = [part.requires_grad_() for part in parts]
    output = gated_lif(*parts, 2.0, neuron, Triangle(), gate=gate, before=before, path=path)
    return [tensor.cpu() for tensor in (output, *torch.autograd.grad(output, parts, grad))]


def gated_inputs(T, shape, static, dtype=torch.float32):
    """Current, temporal and spatial-channel attention, and the gradient of the result."""
    full = (T, *shape)
    each = shape if static else full
    tensors = current(*each), torch.randn(T, shape[0], 1, 1, 1) * 2, torch.randn(each), torch.randn(full)
    return [tensor.to(dtype) for tensor in tensors]


def assert_gated(tensors, neuron=CIFAR, before=False):
    dtype = tensors[0].dtype
    expected = gated_results("cpu", "torch", [tensor.float() for tensor in tensors], neuron, before)
    ours = gated_results(DEVICE, PATH, tensors, neuron, before)
    assert torch.equal(ours[0] != 0, expected[0] != 0)
    for mine, theirs in zip(ours, expected, strict=True):
        assert (mine.dtype, mine.shape) == (dtype, theirs.shape)
        assert (mine.float() - theirs).norm() <= TOLERANCE[dtype] * theirs.norm()


static_and_not = pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])


@static_and_not
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
def test_gated_lif_every_reset(neuron, dtype, static):
    assert_gated(gated_inputs(4, (3, 4, 5, 7), static, dtype), neuron)


@static_and_not
@pytest.mark.parametrize("T", [1, 2, 3, 6, 8, 9, 16, 17])
def test_gated_lif_every_length(T, static):
    assert_gated(gated_inputs(T, (3, 4, 4, 4), static))


@static_and_not
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 5), (1, 16, 33, 31), (3, 64, 48, 64)], ids=str)
def test_gated_lif_every_size(shape, static):
    assert_gated(gated_inputs(3, shape, static))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_a_gate_by_channel(channels_last, static, before, dtype):
    for T, shape in ((1, (2, 3, 5, 7)), (4, (3, 16, 32, 32)), (6, (2, 64, 14, 14))):
        z, _, spatial, grad = gated_inputs(T, shape, static, dtype)
        tensors = [z, torch.randn(T, 1, shape[1], 1, 1).to(dtype), spatial, grad]
        if channels_last:
            last = dict(memory_format=torch.channels_last)
            tensors = [x if x.shape[1] == 1 else x.flatten(0, -4).contiguous(**last).view_as(x) for x in tensors]
        assert_gated(tensors, CIFAR, before=before)


def test_gated_lif_takes_channels_last():
    tensors = gated_inputs(3, (2, 8, 5, 7), True)
    assert_gated([tensors[0].contiguous(memory_format=torch.channels_last), *tensors[1:]])


def test_gradients_are_the_same_every_time():
    tensors = gated_inputs(6, (16, 64, 32, 32), True)
    first, second = (gated_results(DEVICE, PATH, tensors, CIFAR) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_nothing_to_do():
    x = torch.randn(4, 0, 3, device=DEVICE, requires_grad=True)
    lif(x, CIFAR, Triangle(), path=PATH)[0].sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.usefixtures("any_algorithm")
def norm_results(device, path, x, statistics):
    C, leaf = x.shape[2], x.detach().to(device).requires_grad_()
    weight, bias = (torch.linspace(a, b, C, device=device).requires_grad_() for a, b in ((0.5, 2.0), (0.0, 1.0)))
    statistics = statistics and tuple(tensor.to(device) for tensor in statistics)
    spikes, v, found = norm_lif(leaf, weight, bias, statistics, 1e-5, SHIFTED, Triangle(), path=path)
    torch.manual_seed(1)
    grads = [torch.randn(output.shape).to(device, output.dtype) for output in (spikes, v)]
    gradients = torch.autograd.grad((spikes, v), (leaf, weight, bias), grads)
    return [tensor.cpu().double() for tensor in (spikes, v, *gradients, *found)]


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(4, 3, 16, 8, 8), (1, 5, 3, 7, 9), (6, 2, 130, 4, 4), (3, 70, 64, 1, 1)], ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["of the batch", "given"])
def test_norm_lif(shape, dtype, memory, given):
    x = current(*shape, dtype=dtype).flatten(0, 1).contiguous(memory_format=memory).unflatten(0, shape[:2])
    statistics = (torch.rand(shape[2]), 0.1 + torch.rand(shape[2])) if given else None
    expected, found = norm_results("cpu", "torch", x, statistics), norm_results(DEVICE, PATH, x, statistics)
    assert (found[0] != expected[0]).double().mean() < 1e-3
    if torch.equal(found[0], expected[0]):  # no value within a rounding of the threshold
        for ours, theirs in zip(found, expected, strict=True):
            limit = 1e-4 if dtype == torch.float32 else 3e-2
            assert (ours - theirs).abs().max() <= limit * theirs.abs().max().clamp_min(1e-2)


class TestWithPyTorch:
    @pytest.mark.parametrize("dtype", TYPES, ids=str)
    def test_opcheck(self, dtype):
        derivative, _ = cuda_derivative(Triangle())
        settings = *CIFAR, *derivative
        x, v = current(3, 2, 8).to(DEVICE, dtype).requires_grad_(), current(2, 8).to(DEVICE).requires_grad_()
        torch.library.opcheck(torch.ops.gac_sj.lif.default, (x, v, *settings, True, False))
        z, temporal, spatial, _ = (tensor.to(DEVICE) for tensor in gated_inputs(3, (2, 4, 4, 4), True))
        parts = [part.detach().requires_grad_() for part in (z.to(dtype), temporal.flatten(1), spatial.to(dtype))]
        torch.library.opcheck(torch.ops.gac_sj.gated_lif.default, (*parts, 2.0, *settings))

    def test_compiled_whole_and_equal(self):
        node = LIFNode(**CIFAR._asdict(), surrogate_function=Triangle())
        z, temporal, spatial, _ = (tensor.to(DEVICE) for tensor in gated_inputs(4, (2, 4, 8, 8), True))

        def step(z):
            node.reset()
            return node(gated_lif(z, temporal, spatial, 2.0, CIFAR, Triangle(), gate=gate))

        backend = "inductor" if DEVICE.type == "cuda" else "aot_eager"
        results = []
        for function in (torch.compile(step, fullgraph=True, backend=backend), step):
            leaf = z.detach().requires_grad_()
            spikes = function(leaf)
            results.append((spikes, *torch.autograd.grad(spikes.sum(), leaf)))
        assert all(map(torch.equal, *results))

    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    def test_a_compiled_encoder_has_no_graph_break(self, training):
        encoder = GatedAttentionCoding(T=4, channels=8).to(DEVICE).train(training)
        compiled = torch.compile(encoder, fullgraph=True, backend="inductor" if DEVICE.type == "cuda" else "aot_eager")
        images = torch.randn(2, 3, 16, 16, device=DEVICE)
        difference = compiled(images) - encoder(images)
        assert (difference.abs() > 1e-2).float().mean() < 1e-2  # a spike may flip where convolutions round otherwise

    @pytest.mark.parametrize("dtype", TYPES[1:], ids=str)
    def test_autocast_keeps_a_float32_state(self, dtype):
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Unflatten(0, (4, 2)), LIFNode(surrogate_function=Triangle()))
        network.to(DEVICE)
        images = torch.randn(8, 3, 16, 16, device=DEVICE)
        with torch.autocast(DEVICE.type, dtype):
            spikes = network(images)
            spikes.sum().backward()
        assert spikes.dtype == dtype and 0 < spikes.float().mean() < 1
        assert network[2].v.dtype == torch.float32
        grad = network[0].weight.grad
        assert grad.dtype == torch.float32 and grad.isfinite().all() and grad.any()

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
    @pytest.mark.parametrize("autocast", [None, *TYPES[1:]], ids=str)
    def test_the_fused_encoder_is_the_composed_one(self, autocast, memory_format, monkeypatch):
        fused_calls = []
        monkeypatch.setattr(encoding, "gated_lif", lambda *a, **k: fused_calls.append(a) or gated_lif(*a, **k))
        fused = GatedAttentionCoding(T=6, channels=16).to(DEVICE, memory_format=memory_format)
        composed = copy.deepcopy(fused)
        composed.gau.register_forward_hook(lambda *_: None)  # whoever watches the gate gets it
        images = torch.randn(4, 3, 32, 32, device=DEVICE).contiguous(memory_format=memory_format)
        grad = torch.randn(6, 4, 16, 32, 32, device=DEVICE)
        results = []
        for encoder in (fused, composed):
            with torch.autocast(DEVICE.type, autocast, enabled=autocast is not None):
                output = encoder(images)
            output.backward(grad.to(output.dtype))
            results.append([output, *(parameter.grad for parameter in encoder.parameters())])
        assert len(fused_calls) == 1
        tolerance = 5e-2 if autocast else 1e-4  # autocast rounds the composed gate, and a spike of it may flip
        for ours, theirs in zip(*results):
            assert (ours.float() - theirs.float()).norm() <= tolerance * theirs.float().norm()

    @pytest.mark.parametrize("name", ["ms_resnet8_cifar", "gac_ms_resnet8_cifar"])
    def test_a_network_learns_as_on_the_plain_path(self, name, monkeypatch):
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
        losses = {path: self.train(name, path, monkeypatch) for path in (PATH, "torch")}
        ours, plain = losses.values()
        assert plain[-1] < 0.5 * plain[0]
        # kernels of the neuron equal the definition bit for bit; the gate rounds, and spikes flip after a while
        together = 3 if name.startswith("gac") else len(plain)
        torch.testing.assert_close(torch.tensor(ours[:together]), torch.tensor(plain[:together]), rtol=1e-3, atol=1e-3)
        assert abs(ours[-1] - plain[-1]) < 0.3 * plain[0]

    @staticmethod
    def train(name, path, monkeypatch):
        monkeypatch.setenv("GAC_SJ_OPS", path)
        torch.manual_seed(0)
        model = timm.create_model(name, T=4, num_classes=4).to(DEVICE)
        images, labels = torch.randn(16, 3, 16, 16).to(DEVICE), (torch.arange(16) % 4).to(DEVICE)
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses


@on_cuda
@pytest.mark.usefixtures("any_algorithm")
class TestOnCuda:
    def test_operators_choose_the_kernels(self, default_ops):
        x = torch.empty(0, device=DEVICE)
        for surrogate in (Triangle(), Rectangle(), surrogates.Sigmoid()):
            assert dispatch.choose("lif", x, surrogate) == dispatch.choose("gated_lif", x, surrogate) == "cupy"

    def test_it_runs_on_the_current_stream(self):
        x = current(4, 100_000)
        expected = lif(x, CIFAR, Triangle(), path="torch")[0]
        here, late = x.to(DEVICE), torch.zeros_like(x, device=DEVICE)
        lif(late, CIFAR, Triangle(), path=PATH)  # compiled before
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(200_000_000)  # cycles: whoever does not wait for this stream reads zeros
            late.copy_(here)
            spikes = lif(late, CIFAR, Triangle(), path=PATH)[0]
        stream.synchronize()
        assert torch.equal(spikes.cpu(), expected)

    @pytest.mark.parametrize("operator", ["lif", "gated_lif"])
    def test_it_can_be_captured_in_a_graph(self, operator):
        z, temporal, spatial, grad = (tensor.to(DEVICE) for tensor in gated_inputs(4, (2, 8, 16, 16), True))

        def step(z):
            leaf = z.detach().requires_grad_()
            if operator == "lif":
                output = lif(leaf.expand(4, *z.shape), CIFAR, Triangle(), path=PATH)[0]
            else:
                output = gated_lif(leaf, temporal, spatial, 2.0, CIFAR, Triangle(), gate=gate, path=PATH)
            return output, *torch.autograd.grad(output, leaf, grad)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step(z)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(z)
        for _ in range(2):
            z.copy_(current(*z.shape))
            graph.replay()
            assert all(map(torch.equal, captured, step(z)))

    def test_a_network_as_graphs(self):
        """torch's own way to train with CUDA graphs."""
        torch.manual_seed(0)
        plain = timm.create_model("gac_ms_resnet8_cifar", T=4).to(DEVICE)
        images = torch.randn(8, 3, 32, 32, device=DEVICE)
        graphed = torch.cuda.make_graphed_callables(copy.deepcopy(plain), (images,))
        graphed.load_state_dict(plain.state_dict())  # warming up has moved running statistics
        results = []
        for model in (graphed, plain):
            logits = model(images)
            nn.functional.cross_entropy(logits, torch.arange(8, device=DEVICE)).backward()
            results.append([logits, *(parameter.grad for parameter in model.parameters())])
        for ours, theirs in zip(*results):
            assert (ours - theirs).norm() <= 1e-3 * theirs.norm()

    def test_offsets_pass_two_to_the_31(self):
        if torch.cuda.mem_get_info()[0] < 30 * 2**30:
            pytest.skip("it needs 30 GiB of the GPU's memory")
        x = torch.randn(2, 2**30 + 8, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
        spikes, v, _ = lif(x, CIFAR, Triangle(), path=PATH)
        (grad,) = torch.autograd.grad(spikes, x, torch.ones_like(spikes))
        end = x.detach()[:, -1000:].clone().requires_grad_()
        expected, v_end, _ = lif(end, CIFAR, Triangle(), path="torch")
        (expected_grad,) = torch.autograd.grad(expected, end, torch.ones_like(expected))
        assert torch.equal(spikes[:, -1000:], expected)
        assert torch.equal(v[-1000:], v_end)
        assert torch.equal(grad[:, -1000:], expected_grad)

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="it needs two GPUs")
    def test_tensors_of_another_gpu_than_the_current_one(self):
        x = current(4, 1000)
        with torch.cuda.device(0):
            spikes = lif(x.to("cuda:1"), CIFAR, Triangle(), path=PATH)[0]
        assert spikes.device == torch.device("cuda:1")
        assert torch.equal(spikes.cpu(), lif(x, CIFAR, Triangle(), path="torch")[0])

    def test_a_surrogate_without_cuda_text_takes_another_path_and_says_so(self, default_ops):
        class Mine(nn.Module):
            def forward(self, x):
                return Rectangle()(x)

        surrogate = Mine()
        dispatch._report_once.cache_clear()
        x = current(4, 100)
        with pytest.warns(UserWarning, match="no cuda_derivative"):
            spikes = lif(x.to(DEVICE), CIFAR, surrogate)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lif(x.to(DEVICE), CIFAR, surrogate)
        assert torch.equal(spikes.cpu(), lif(x, CIFAR, surrogate, path="torch")[0])


@on_cuda
@has_kernels_of_spikingjelly
@pytest.mark.usefixtures("any_algorithm")
class TestWithoutCuPy:
    @pytest.fixture(autouse=True)
    def only_spikingjelly(self, monkeypatch):
        from spikingjelly._ops.lif import reference

        def refuse(*_, **__):
            raise AssertionError("SpikingJelly ran its loop of plain PyTorch")

        monkeypatch.setenv("GAC_SJ_OPS", "spikingjelly")
        monkeypatch.setattr(reference, "multi_step", refuse)
        assert functional.neuron_implementation("lif", DEVICE)["implementation"] in ("cuda", "triton")

    @pytest.mark.parametrize("surrogate", [Triangle(), surrogates.Sigmoid()], ids=["Triangle", "Sigmoid"])
    @pytest.mark.parametrize("autocast", [None, *TYPES[1:]], ids=str)
    def test_a_surrogate_of_spikingjelly_reaches_its_kernel_with_a_float32_state(self, surrogate, autocast):
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Unflatten(0, (4, 2)), LIFNode(surrogate_function=surrogate))
        network.to(DEVICE)
        images = torch.randn(8, 3, 16, 16, device=DEVICE)
        with torch.autocast("cuda", autocast, enabled=autocast is not None):
            x = network[:2](images)
            spikes = network[2](x)
            spikes.sum().backward()
        assert spikes.dtype == (autocast or torch.float32)
        assert network[2].v.dtype == torch.float32
        assert network[0].weight.grad.any()
        expected = lif(x.detach(), network[2].dynamics, surrogate, path="torch")[0]
        assert (spikes != expected).float().mean() < 1e-3  # its order of operations differs

    @pytest.mark.parametrize("name", LAYOUTS)
    def test_it_takes_every_layout(self, name):
        x = LAYOUTS[name](current(4, 3, 8, 5, 7).to(DEVICE)).detach().requires_grad_()
        results = []
        for path in ("spikingjelly", "torch"):
            spikes = lif(x, SHIFTED, Triangle(), path=path)[0]
            torch.manual_seed(1)
            results.append((spikes, *torch.autograd.grad(spikes, x, torch.randn(x.shape).to(DEVICE))))
        assert torch.equal(results[0][0], results[1][0])
        torch.testing.assert_close(results[0][1], results[1][1])

    def test_the_encoder_uses_it(self):
        encoder = GatedAttentionCoding(T=4, channels=8).to(DEVICE)
        output = encoder(torch.randn(2, 3, 16, 16, device=DEVICE))
        output.sum().backward()
        assert 0 < (output != 0).float().mean() < 1
        assert encoder.neuron.v.dtype == torch.float32  # the neuron ran, not the fused kernel
