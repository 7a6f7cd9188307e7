"""Which of PyTorch's operations count as products: by hand, against other counters, and what is named instead."""

import re
import warnings
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.encoders import AVAILABLE
from spikingjelly.activation_based import neuron
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from gac_sj._utils.errors import UsageError
from gac_sj.analysis import measure_energy, summarize
from gac_sj.analysis.operations import COUNTED, DEFINITIONS, FREE
from gac_sj.analysis.products import trace_products
from gac_sj.models import MODULES

try:
    from spikingjelly.activation_based import op_counter
except ImportError:
    op_counter = None

aten = torch.ops.aten
X = torch.randn(5, 2, 16, generator=torch.Generator().manual_seed(0))
SPIKES = (X > 0).float()


class Network(nn.Module):
    """Any layer or function, and a neuron that has no influence on it."""

    def __init__(self, layer):
        super().__init__()
        self.neuron, self.layer = neuron.IFNode(step_mode="m"), layer

    def forward(self, x):
        self.neuron(x)
        return self.layer(x)


def measured(layer, x=X):
    return measure_energy(Network(layer), [x])


def dense(layer, x=X):
    """Matrix products and elementwise products of a batch, zeros included; all operations must be known."""
    tracer = trace_products(layer if isinstance(layer, nn.Module) else nn.Module())
    with tracer as layers, torch.no_grad():
        layer(*[x] * (3 if isinstance(layer, nn.MultiheadAttention) else 1))
    assert not tracer.uncounted
    return tuple(sum(found.dense for found in layers if found.elementwise is kind) for kind in (False, True))


def flash(x):
    q = x.unflatten(2, (4, 4)).permute(1, 2, 0, 3)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, q, q, is_causal=True)


W = torch.randn(8, 16)
#: Functions of [5, 2, 16] with their matrix products and their elementwise products: 10 vectors, 160 numbers.
LAYERS = {
    "lstm": (nn.LSTM(16, 8), 10 * 4 * 8 * (16 + 8), 10 * 3 * 8),
    "lstm without bias": (nn.LSTM(16, 8, bias=False, batch_first=True), 10 * 4 * 8 * (16 + 8), 10 * 3 * 8),
    "two bidirectional lstms": (nn.LSTM(16, 8, 2, bidirectional=True), 10 * 16 * 4 * (24 + 24), 10 * 3 * 8 * 4),
    "lstm with projection": (nn.LSTM(16, 8, proj_size=4), 10 * (4 * 8 * (16 + 4) + 4 * 8), 10 * 3 * 8),
    "gru": (nn.GRU(16, 8), 10 * 3 * 8 * (16 + 8), 10 * 2 * 8),
    "rnn": (nn.RNN(16, 8), 10 * 8 * (16 + 8), 0),
    "attention": (nn.MultiheadAttention(16, 4), 10 * 16 * 64 + 2 * 2 * 4 * 5 * 5 * 4, 0),
    "transformer": (nn.TransformerEncoderLayer(16, 4, 32).eval(), 10 * 16 * 128 + 1600, 2 * 3 * 160),
    "layer norm": (nn.LayerNorm(16), 0, 3 * 160),
    "group norm": (nn.GroupNorm(2, 2), 0, 3 * 160),
    "instance norm": (nn.InstanceNorm1d(2), 0, 2 * 160),
    "instance norm with weights": (nn.InstanceNorm1d(2, affine=True), 0, 3 * 160),
    "prelu": (nn.PReLU(2), 0, 160),
}
FUNCTIONS = {
    "flash attention": (flash, 2 * 2 * 4 * 5 * 5 * 4, 0),
    "matrix and vector": (lambda x: W @ x[0, 0], 128, 0),
    "addmv": (lambda x: torch.addmv(x[0, 0, :8], W, x[0, 0]), 128, 0),
    "dot": (lambda x: x[0, 0] @ x[0, 1], 16, 0),
    "vdot": (lambda x: torch.vdot(x[0, 0], x[0, 1]), 16, 0),
    "outer": (lambda x: torch.outer(x[0, 0], x[0, 1]), 0, 256),
    "addr": (lambda x: torch.addr(x[0, 0], x[0, 0], x[0, 1]), 0, 256),
    "baddbmm": (lambda x: torch.baddbmm(x[:, :, :2], x, x.mT), 5 * 2 * 2 * 16, 0),
    "addbmm": (lambda x: torch.addbmm(x[0, :, :2], x, x.mT), 5 * 2 * 2 * 16, 0),
    "in place": (lambda x: x[:, :, :2].clone().baddbmm_(x, x.mT).mul_(x[:, :, :2]), 5 * 2 * 2 * 16, 20),
    "into a tensor": (lambda x: torch.mul(x, x, out=torch.empty_like(x)), 0, 160),
    "bilinear": (lambda x: F.bilinear(x, x, torch.ones(3, 16, 16)), 10 * 3 * 16 * (16 + 1), 0),
    "einsum": (lambda x: torch.einsum("tni,oi->tno", x, W), 10 * 16 * 8, 0),
    "transposed convolution": (lambda x: F.conv_transpose1d(x, W.view(2, 4, 16)), 5 * 2 * 4 * 16 * 16, 0),
    "addcmul": (lambda x: torch.addcmul(x, x, x), 0, 160),
    "addcdiv": (lambda x: torch.addcdiv(x, x, x), 0, 160),
    "quotient": (lambda x: x / x, 0, 160),
    "lerp": (lambda x: torch.lerp(x, 2 * x, x), 0, 160),
    "square": (torch.square, 0, 160),
    "cube": (lambda x: x**3, 0, 320),
    "silu": (F.silu, 0, 160),
    "gelu": (F.gelu, 0, 160),
    "hardswish": (F.hardswish, 0, 160),
    "glu": (F.glu, 0, 80),
    "dropout": (F.dropout, 0, 160),
    "dropout of gpus": (lambda x: torch.native_dropout(x, 0.5, True)[0], 0, 160),
    "dropout without effect": (lambda x: torch.native_dropout(x, 0.5, False)[0], 0, 0),
    "variance": (lambda x: x.var(2), 0, 160),
    "deviation": (torch.std, 0, 160),
    "norm": (lambda x: x.norm(dim=2), 0, 160),
    "distances": (lambda x: torch.cdist(x, x), 0, 5 * 2 * 2 * 16),
    "many distances": (lambda x: torch.cdist(x.repeat(1, 20, 1), x), 0, 5 * 40 * 2 * 16),
    "rms norm": (lambda x: F.rms_norm(x, (16,), x[0, 0]), 0, 3 * 160),
}


@pytest.mark.parametrize(("layer", "products", "gates"), (LAYERS | FUNCTIONS).values(), ids=LAYERS | FUNCTIONS)
def test_products_by_hand(layer, products, gates):
    assert dense(layer) == (products, gates)


def test_energy_of_a_recurrent_layer():
    """Spikes accumulate, states multiply, and the first states are 0."""
    energies = []
    for dtype in (torch.float32, torch.float64):  # on a CPU one operation, and its parts
        products, gates = measured(nn.LSTM(16, 8, dtype=dtype), SPIKES.to(dtype)).layers
        assert (products.name, products.dense_macs, gates.name, gates.dense_macs) == (
            "layer",
            3840,
            "layer (gate)",
            120,
        )
        assert products.effective_acs == SPIKES.sum() * 32 / 2
        assert (products.effective_macs, gates.effective_macs) == (4 * 8 * 32, 5 * 3 * 8 - 8)
        energies.append(products.complete_pj)
    assert energies[0] == energies[1]


def test_a_weight_of_ones_is_not_a_spike():
    norm, _ = measured(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 1))).layers
    assert (norm.effective_macs, norm.effective_acs) == (3 * 80, 0)


_knows_flash_attention = pytest.mark.skipif(
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu not in flop_registry,
    reason="this PyTorch's counter does not know flash attention on a CPU",
)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(LAYERS["transformer"][0], marks=_knows_flash_attention),
        pytest.param(FUNCTIONS["flash attention"][0], marks=_knows_flash_attention),
        *(FUNCTIONS[name][0] for name in ("baddbmm", "einsum", "transposed convolution")),
        nn.Linear(16, 3),
        nn.Conv1d(2, 4, 3, padding=1),
        lambda x: F.conv2d(x.view(5, 2, 4, 4), torch.ones(6, 1, 3, 3), groups=2),
        lambda x: F.conv3d(x.view(5, 2, 2, 2, 4), torch.ones(3, 2, 2, 2, 2)),
    ],
)
def test_products_equal_those_of_pytorchs_counter(layer):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(X)
    assert dense(layer)[0] == counter.get_total_flops() // 2 > 0


@pytest.mark.skipif(op_counter is None, reason="SpikingJelly 0.0.0.0.14 has no op_counter")
@pytest.mark.parametrize(
    ("name", "first"), [("gru", 3 * 8 * 8), ("rnn", 8 * 8), ("lstm with projection", 4 * 8 * 4), ("transformer", 0)]
)
def test_products_equal_those_of_spikingjellys_counter(name, first):
    counter = op_counter.MACCounter(extra_ignore_modules=[nn.LayerNorm])
    with op_counter.DispatchCounterMode([counter]), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        LAYERS[name][0](X)
    assert dense(LAYERS[name][0])[0] == counter.get_total() + 2 * first  # there the first state, zeros, is spikes


def _recurrent(arguments, x):
    DEFINITIONS["cudnn_rnn"](**arguments)


def test_recurrent_operations_of_gpus():
    """A GPU runs whole layers and whole cells as one operation each; their definitions need none."""
    for layer, mode in ((nn.RNN(16, 8), 1), (nn.LSTM(16, 8, 2, bidirectional=True), 2), (nn.GRU(16, 8), 3)):
        state = torch.zeros(layer.num_layers * (1 + layer.bidirectional), 2, 8)
        options = dict(mode=mode, num_layers=layer.num_layers, batch_first=False, bidirectional=layer.bidirectional)
        given = dict(input=X, weight=layer._flat_weights, weight_stride0=4, hx=state, cx=state, **options)
        packed = nn.utils.rnn.pack_padded_sequence(X, [5, 3])
        for x, changes in (
            (X, {"batch_sizes": []}),
            (packed, {"batch_sizes": packed.batch_sizes.tolist(), "input": packed.data}),
        ):
            assert dense(partial(_recurrent, given | changes)) == dense(layer, x)
    h = X[0, :, :8]
    assert dense(lambda x: DEFINITIONS["thnn_fused_lstm_cell"](*x[:4].flatten(1).view(2, 2, 32), h)) == (0, 48)
    assert dense(lambda x: DEFINITIONS["thnn_fused_gru_cell"](*x[:3].flatten().view(2, 2, 24), h)) == (0, 32)


@torch.library.custom_op("test_operations::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


UNKNOWN = {
    "fft_r2c": torch.fft.rfft,
    "prod": torch.prod,
    "pow": lambda x: x.abs() ** x,
    "cdist_forward": lambda x: torch.cdist(x, x, p=3.0),
    "upsample_linear1d": lambda x: F.interpolate(x, scale_factor=2, mode="linear"),
    "mul": lambda x: x.to(torch.complex64) * x,
    "sparse_addmm": lambda x: torch.sparse.mm(x[0].to_sparse(), W.t()),
    "mm": lambda x: x[0].to_sparse_csr() @ W.t(),
    "scatter": lambda x: x.clone().scatter_(0, torch.zeros(1, 2, 16, dtype=torch.long), x, reduce="multiply"),
    "test_operations::twice": twice,
}


@pytest.mark.parametrize(("name", "function"), UNKNOWN.items(), ids=UNKNOWN)
def test_unknown_operations_are_named_once(name, function):
    def layer(x):
        function(x), function(x)
        return x @ W.t()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        energy = measured(layer)
    said = [str(each.message) for each in caught if "not counted" in str(each.message)]
    (operations,) = re.fullmatch(r"Network has .* not counted: (.*); its energies lack them\.", *said).groups()
    assert operations == f"(network) ({name})"
    assert energy.uncounted == (f"(network) ({name})",)
    assert [found.dense_macs for found in energy.layers] == [5 * 128]
    assert str(energy).splitlines()[-1] == f"not counted: (network) ({name})"


def test_a_network_of_unknown_operations_is_refused_by_their_names():
    with pytest.raises(UsageError, match=r"no matrix product that is known, but \(network\) \(fft_r2c\)"):
        measured(torch.fft.rfft)


def free(x):
    """What a network does besides multiplying: parts, sums, comparisons, copies, pools, activations, indices."""
    y = torch.cat([x.flip(0), x.roll(1, 2)], 2).unfold(2, 4, 4).mean(3).clamp(-1, 1)
    y = F.max_pool1d(F.pad(y, (1, 1)), 2) + F.adaptive_avg_pool1d(y, 5)
    y = F.leaky_relu(F.elu(y.sigmoid().exp().log1p().sqrt() - 0.5)).softmax(2)
    y = torch.where(y > 0.5, y, y.round()).masked_fill(y < 0, 0.0).masked_fill_(y > 9, 0.0)
    y = y.sort(2)[0].topk(2)[0].repeat(1, 1, 2).cumsum(2).clone().unsqueeze_(0).squeeze_(0).detach_() / 3 * 2.0
    y[0] = y[1, [1, 0]] ** 0.5 + torch.rand_like(y[0]).bernoulli() + F.embedding(torch.tensor([0, 1]), y[0])
    y = (
        y.scatter_add(0, torch.zeros(1, 2, 4, dtype=torch.long), y)
        .index_add(0, torch.tensor([0]), y[:1])
        .half()
        .float()
    )
    return torch.stack(torch.meshgrid(*y.amax(2).unbind(0)[:2], indexing="ij")).tril().sum() + x


def test_what_does_not_multiply_is_not_counted_and_not_named():
    energy = measured(lambda x: free(x) @ W.t())
    assert energy.uncounted == ()
    assert [found.name for found in energy.layers] == ["(network)"]


def test_names_are_those_of_operations():
    assert not FREE & COUNTED
    for name in {each for each in FREE | COUNTED if "::" not in each}:
        assert any(hasattr(torch.ops.aten, form) for form in (name, f"_{name}", f"{name}_", f"__{name}__")), name


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_operations_that_pytorch_does_not_take_apart(mode):
    """Below autograd a linear layer is one operation."""

    class Inside(nn.Linear):
        def forward(self, x):
            with mode():
                return super().forward(x)

    assert [found.dense_macs for found in measured(Inside(16, 8)).layers] == [5 * 128]


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_recurrent_layer_in_every_mode(mode):
    import torch._decomp.decompositions  # with it PyTorch takes recurrent layers apart in Python

    layer, product = nn.LSTM(16, 8), LAYERS["lstm"][1:]
    with mode(), trace_products(layer) as layers:
        output = layer(X)[0]
    assert tuple(found.dense for found in layers) == product
    assert output.requires_grad == (mode is torch.enable_grad)


def test_summary_counts_and_names_the_same():
    class Recurrent(nn.LSTM):
        def forward(self, x):
            torch.fft.rfft(x)
            return super().forward(x.flatten(2))[0]

    summary = summarize(Network(Recurrent(16, 8)), X.view(5, 2, 1, 4, 4))
    assert (summary.macs, summary.uncounted) == (3840, ("layer (fft_r2c)",))
    assert str(summary).splitlines()[-1] == "not counted: layer (fft_r2c)"


@pytest.mark.medium
@pytest.mark.parametrize("name", [*timm.list_models(module=MODULES), *AVAILABLE])
def test_networks_and_encoders_of_this_package_have_no_unknown_operation(name):
    if name in AVAILABLE:
        model, x = timm.create_model("ms_resnet8_cifar", T=4, encoder=name), torch.rand(1, 3, 16, 16)
    elif name == "ma_snn":
        model, x = timm.create_model(name, T=2, channels=(8, 8), hidden=8, img_size=32), torch.rand(2, 1, 2, 32, 32)
    else:
        small = {} if "cifar" in name else dict(channels=(8, 8, 8, 8), stem_channels=8)
        model, x = timm.create_model(name, T=2, **small), torch.rand(1, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure_energy(model, [x]).uncounted == ()
