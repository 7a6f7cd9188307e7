"""The LIF operator: the kernels, built for the CPU, against the definition."""

import pytest
import torch
from helpers.neuron_cases import CIFAR, EXACT, GRIDS, HARD, NEURONS, ROUNDED, SOFT, grid, nan_filled  # noqa: F401
from spikingjelly.activation_based import functional, surrogate
from torch import nn

import gac_sj
from gac_sj import LIFNode, Rectangle, Triangle
from gac_sj.ops import dispatch
from gac_sj.ops.lif import lif, reference
from gac_sj.ops.surrogates import cuda_derivative, spikingjelly_equivalent

pytestmark = pytest.mark.usefixtures("nan_filled")


def current(*shape, dtype=torch.float32):
    return (torch.randn(*shape) * 0.8 + 0.4).to(dtype)


def results(path, x, v, neuron, surrogate, grads):
    """Everything that a caller can see: outputs, and gradients of x and v; ``grads`` are those of the outputs."""
    x = x.detach().requires_grad_()
    v = v if v is None else v.detach().requires_grad_()
    outputs = lif(x, neuron, surrogate, v, store_v_seq=grads[2] is not None, path=path)
    used, grads = zip(*((output, grad) for output, grad in zip(outputs, grads) if grad is not None))
    return [
        *(output for output in outputs if output is not None),
        *torch.autograd.grad(used, [x] if v is None else [x, v], grads),
    ]


def assert_same(x, v=None, neuron=CIFAR, surrogate=None, grads=None, rtol=0.0, atol=0.0):
    surrogate = surrogate or Triangle()
    if grads is None:
        grads = torch.randn_like(x), torch.randn(x.shape[1:]), torch.randn(x.shape)
    expected = results("torch", x, v, neuron, surrogate, grads)
    spikes = expected[0].float()
    assert 0 < spikes.mean() < 1 or x.numel() < 50
    for ours, theirs in zip(results("cpp", x, v, neuron, surrogate, grads), expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@GRIDS
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
def test_every_reset(neuron):
    assert_same(current(4, 3, 5, 7), current(3, 5, 7), neuron)


@GRIDS
@pytest.mark.parametrize("T", [1, 2, 3, 5, 6, 8, 16, 40])
def test_every_length(T):
    assert_same(current(T, 3, 11), neuron=CIFAR)


@GRIDS
@pytest.mark.parametrize("size", [1, 2, 12, 40, 16, 997, 4096, 70_000])
def test_every_size(size):
    """From one neuron to more than one thread takes; odd ones and multiples of a vector's lanes."""
    assert_same(current(3, size), current(size))


@GRIDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("neuron", [CIFAR, HARD, SOFT], ids=str)
def test_half_types_keep_a_float32_state(dtype, neuron):
    x = current(5, 2, 24, dtype=dtype)
    assert_same(x, current(2, 24), neuron)
    assert lif(x, neuron, Triangle(), path="cpp")[1].dtype == torch.float32


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("neuron", [CIFAR, SOFT], ids=str)
def test_exact_surrogates_agree_bit_for_bit(name, neuron):
    assert_same(current(3, 2, 8), neuron=neuron, surrogate=EXACT[name])


@pytest.mark.parametrize("name", ROUNDED)
def test_other_surrogates_agree_up_to_rounding(name):
    """exp and quotients round differently: a few units in the last place, summed over three steps."""
    assert_same(current(3, 2, 400), surrogate=ROUNDED[name], rtol=5e-6, atol=5e-6)
    x = current(3, 2, 400)
    ours, theirs = (lif(x, CIFAR, ROUNDED[name], path=path)[0] for path in ("cpp", "torch"))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("strict", [False, True])
def test_at_the_threshold(strict):
    """Multiples of 1/4 meet it exactly."""
    x = torch.randint(-2, 6, (6, 3, 50)) / 4
    assert_same(x, surrogate=Triangle(strict=strict))
    assert_same(x, surrogate=Rectangle(strict=strict))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradients_of_one_output_alone(which):
    """Outputs that nobody uses have no gradient, and the kernel reads none."""
    x, v = current(4, 3, 16), current(3, 16)
    grads = [torch.randn(4, 3, 16), torch.randn(3, 16), torch.randn(4, 3, 16)]
    assert_same(x, v, HARD, grads=[grad if at == which else None for at, grad in enumerate(grads)])


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf"), -0.0, 1e38])
def test_numbers_that_are_none(special):
    """A current that has gone wrong must not be hidden."""
    x = current(3, 2, 16)
    x[1, 0, :5] = special
    expected, ours = (results(path, x, None, CIFAR, Triangle(), [x, x[0], None]) for path in ("torch", "cpp"))
    for mine, theirs in zip(ours, expected):
        assert torch.equal(mine.nan_to_num(7.0, 8.0, 9.0), theirs.nan_to_num(7.0, 8.0, 9.0))


def layouts():
    x = current(4, 3, 6, 5, 7)
    yield "channels_last", x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (4, 3))
    yield "the same at every step", x[0].expand(4, *x.shape[1:])
    yield "channels_last, the same", x[0].contiguous(memory_format=torch.channels_last).expand(4, *x.shape[1:])
    yield "images first", x.transpose(0, 1).contiguous().transpose(0, 1)
    yield "part of a tensor", x[:, :, 1:, :, ::2]
    yield "unaligned", torch.randn(4 * 3 * 16 + 1)[1:].view(4, 3, 16)


@GRIDS
@pytest.mark.parametrize("name,x", list(layouts()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_layout(name, x):
    v = torch.randn(x.shape[1:])
    assert_same(x, v)
    assert_same(x, v, grads=[torch.ones(()).expand(x.shape), torch.randn(x.shape[1:]).flip(0), None])
    spikes = lif(x, CIFAR, Triangle(), path="cpp")[0]
    if name.startswith("channels_last"):
        assert spikes.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_a_state_of_another_shape_is_broadcast_or_refused():
    x = current(4, 3, 8)
    assert_same(x, current(1, 8))
    with pytest.raises(RuntimeError, match="must match"):
        lif(x, CIFAR, Triangle(), current(2, 8), path="cpp")
    with pytest.raises(ValueError, match="cpu and meta; move them"):
        lif(x, CIFAR, Triangle(), current(3, 8).to("meta"), path="cpp")


def test_long_sequences_take_the_definition():
    x = current(300, 4)
    assert torch.equal(*(lif(x, CIFAR, Triangle(), path=path)[0] for path in (None, "torch")))
    with pytest.raises(ValueError, match="at most 256 steps"):
        lif(x, CIFAR, Triangle(), path="cpp")


def test_nothing_to_do():
    x = torch.randn(4, 0, 3, requires_grad=True)
    spikes, v, _ = lif(x, CIFAR, Triangle(), path="cpp")
    spikes.sum().backward()
    assert (spikes.shape, v.shape, x.grad.shape) == ((4, 0, 3), (0, 3), (4, 0, 3))


def test_a_surrogate_of_a_user():
    class Tent(nn.Module):
        """Half as wide as the triangle, and it says so in CUDA C."""

        def forward(self, x):
            return Triangle(alpha=2.0)(x)

        def cuda_derivative(self):
            return "clamp_min(a - 4.0f * fabsf(x), 0.0f)", 2.0

    assert_same(current(4, 50), surrogate=Tent())


def test_cuda_text_with_a_mistake_is_an_error_with_the_compilers_words():
    class Wrong(Triangle):
        def cuda_derivative(self):
            return ("fabs_of(x)",)

    with pytest.raises(ValueError, match=r"^path requests 'cpp'.*cannot build the kernels.*fabs_of"):
        lif(current(2, 3), CIFAR, Wrong(), path="cpp")


def test_second_derivatives_are_refused():
    x = current(3, 8).requires_grad_()
    spikes, _, _ = lif(x, CIFAR, Triangle(), path="cpp")
    (grad,) = torch.autograd.grad(spikes.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="GAC_SJ_OPS=torch"):
        grad.sum().backward()


@pytest.mark.medium
@pytest.mark.parametrize("v,stores", [(None, False), (current(2, 8), True)], ids=["from rest", "all states"])
def test_opcheck(v, stores):
    torch.use_deterministic_algorithms(False)  # it looks into unwritten memory
    x = current(3, 2, 8).requires_grad_()
    v = v if v is None else v.requires_grad_()
    derivative, _ = cuda_derivative(Triangle())
    arguments = (x, v, *CIFAR, *derivative, stores, False)
    torch.library.opcheck(torch.ops.gac_sj.lif.default, arguments)


@pytest.mark.medium
def test_compiled_whole_and_equal():
    node = LIFNode(**CIFAR._asdict(), surrogate_function=Triangle(), store_v_seq=True)

    def step(x):
        node.reset()
        return node(x)

    x = current(4, 2, 16)
    compiled, plain = (
        function(x := x.detach().requires_grad_())
        for function in (torch.compile(step, fullgraph=True, backend="aot_eager"), step)
    )
    assert torch.equal(compiled, plain)


def mini_network(path, monkeypatch):
    """Losses of 30 steps of training."""
    monkeypatch.setenv("GAC_SJ_OPS", path)
    torch.manual_seed(0)
    network = gac_sj.models.MSResNet(
        blocks=(1,), channels=(8,), strides=(1,), stem_channels=4, T=4, encoder="direct_lif", num_classes=3
    )
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    images, labels = torch.rand(24, 3, 8, 8), torch.arange(24) % 3
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.medium
def test_a_network_learns_with_the_kernels_exactly_as_with_the_definition(monkeypatch):
    expected = mini_network("torch", monkeypatch)
    assert expected[-1] < 0.9 * expected[0]
    assert mini_network("cpp", monkeypatch) == expected


@pytest.mark.skipif(not hasattr(functional, "lif_multi_step"), reason="only SpikingJelly 2.0.0 has lif_multi_step")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stores", [False, True])
def test_the_way_to_spikingjelly(dtype, stores, monkeypatch):
    """As on a GPU without CuPy: its kernels get a float32 state and a surrogate that they know."""
    monkeypatch.setattr(dispatch, "choose", lambda *arguments: "spikingjelly")
    x, results = current(4, 3, 16, dtype=dtype), []
    grad = torch.randn(4, 3, 16).to(dtype)
    for function in (lif, reference.lif):
        leaf = x.clone().requires_grad_()
        outputs = function(leaf, CIFAR, Triangle(), store_v_seq=stores)
        results.append([*outputs, *torch.autograd.grad(outputs[0], leaf, grad)])
    for ours, theirs in zip(*results):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)


def test_what_spikingjelly_knows():
    for known in (Triangle(alpha=1.3), surrogate.Sigmoid(alpha=4.0)):
        equal, reason = spikingjelly_equivalent(known)
        assert reason is None
        x = torch.linspace(-2, 2, 41, requires_grad=True)
        assert torch.equal(*(torch.autograd.grad(f(x).sum(), x)[0] for f in (known, equal)))
    for unknown in (
        Rectangle(),
        Triangle(strict=True),
        Triangle(spiking=False),
        surrogate.Sigmoid(alpha=torch.ones(())),
    ):
        equal, reason = spikingjelly_equivalent(unknown)
        assert equal is None
        assert type(unknown).__name__ in reason


@pytest.mark.medium
@pytest.mark.parametrize("backend", ["aot_eager"])
def test_compiled_with_symbolic_sizes_and_numbers(backend):
    node = LIFNode(**CIFAR._asdict(), surrogate_function=Triangle())
    compiled = torch.compile(node, dynamic=True, backend=backend)
    for alpha, images in ((1.0, 2), (2.0, 3), (0.5, 4)):
        node.surrogate_function.alpha = alpha
        x = current(4, images, 16)
        node.reset()
        expected = node(x)
        node.reset()
        assert torch.equal(compiled(x), expected)


def test_tensors_as_parameters_take_the_definition_and_get_gradients():
    neuron = CIFAR._replace(v_threshold=torch.tensor(1.0, requires_grad=True))
    lif(current(4, 3, 16), neuron, Triangle())[0].sum().backward()
    assert neuron.v_threshold.grad != 0
    with pytest.raises(ValueError, match="is a tensor"):
        lif(current(4, 3, 16), neuron, Triangle(), path="cpp")


def test_a_class_that_changes_the_function_does_not_inherit_its_derivative():
    class Wider(Triangle):
        @staticmethod
        def spiking_function(x, alpha, strict=False):
            return Triangle.spiking_function(x, alpha / 2, strict)

    derivative, reason = cuda_derivative(Wider())
    assert derivative is None and "Wider changes the function" in reason
    assert spikingjelly_equivalent(Wider())[0] is None
    assert_same_as_default(current(4, 30), Wider())


def assert_same_as_default(x, surrogate):
    ours, theirs = (
        torch.autograd.grad(lif(leaf, CIFAR, surrogate, path=path)[0].sum(), leaf)[0]
        for path in (None, "torch")
        for leaf in [x.clone().requires_grad_()]
    )
    assert torch.equal(ours, theirs)


def test_forward_mode_derivatives_are_no_silent_zeros():
    x, t = current(3, 8), torch.randn(3, 8)
    spikes, tangent = torch.func.jvp(lambda x: lif(x, CIFAR, Triangle())[0], (x,), (t,))
    assert torch.equal(spikes, lif(x, CIFAR, Triangle())[0])
    jacobian = torch.autograd.functional.jacobian(lambda x: lif(x, CIFAR, Triangle())[0], x)
    torch.testing.assert_close(tangent, torch.einsum("abij,ij->ab", jacobian, t))
    assert tangent.any()
    with pytest.raises(ValueError, match="need the definition"):
        torch.func.grad(lambda x: lif(x, CIFAR, Triangle(), path="cpp")[0].sum())(x)


def test_an_input_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least one time step"):
        lif(torch.randn(0, 2, 3), CIFAR, Triangle())


def test_a_potential_in_float64_stays_so():
    _, v, _ = lif(current(3, 8), CIFAR, Triangle(), torch.zeros(8, dtype=torch.float64))
    assert v.dtype == torch.float64


def test_an_infinite_threshold_silences():
    neuron = CIFAR._replace(v_threshold=float("inf"))
    assert not lif(current(3, 8), neuron, Triangle(alpha=1e30), path="cpp")[0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_value_of_16_bits_is_read_and_rounded_as_in_pytorch(dtype):
    """Infinities, NaN and subnormal values included; every second product with 1.5 is halfway between two values."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    silent = CIFAR._replace(v_threshold=2.0, detach_reset=True)
    _, v, _ = lif(every[None], silent, Triangle(), path="cpp")
    read = torch.where(every.float() >= 2.0, every.float() * 0.0, every.float())
    torch.testing.assert_close(v, read, rtol=0.0, atol=0.0, equal_nan=True)
    x = torch.full((1, 2**16), 1.9, dtype=dtype)
    _, _, grad = results("cpp", x, None, silent, Rectangle(alpha=1.5), [every[None], torch.zeros(2**16), None])
    torch.testing.assert_close(grad, (every.float() * 1.5).to(dtype)[None], rtol=0.0, atol=0.0, equal_nan=True)
    assert ((grad.float().abs() < torch.finfo(dtype).tiny) & (grad != 0)).sum() > 100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
def test_a_potential_in_half_precision_is_promoted_first(dtype, x_dtype):
    neuron = CIFAR._replace(tau=1.7)
    assert_same(current(3, 200, dtype=x_dtype), current(200, dtype=dtype), neuron, grads=(current(3, 200), None, None))


@GRIDS
@pytest.mark.parametrize(
    "shape,dtype",
    [((4, 3, 5, 7, 9), torch.bfloat16), ((3, 2, 16, 8, 8), torch.float32), ((2, 1), torch.float16)],
    ids=str,
)
def test_bytes(shape, dtype):
    """The same spikes and potentials, in the memory format of the input."""
    x = current(*shape, dtype=dtype)
    if len(shape) == 5:
        x = x.flatten(0, 1).to(memory_format=torch.channels_last).reshape(shape)
    spikes, last, v_seq = lif(x, SOFT, Triangle(), store_v_seq=True, path="torch")
    for path in ("cpp", "torch"):
        found = lif(x, SOFT, Triangle(), store_v_seq=True, as_bytes=True, path=path)
        assert found[0].dtype == torch.uint8 and torch.equal(found[0], spikes.to(torch.uint8))
        assert torch.equal(found[1], last) and torch.equal(found[2], v_seq)
        assert found[0].is_contiguous() == x.is_contiguous()


def test_bytes_are_for_inference():
    """A neuron that writes bytes writes floats where a gradient of its input is asked for."""
    node, x = LIFNode(), current(2, 3, 4)
    node.outputs_bytes = True
    assert node(x).dtype == torch.uint8
    node.reset()
    spikes = node(x.requires_grad_())
    assert spikes.dtype == torch.float32
    spikes.sum().backward()
    assert x.grad.any()
