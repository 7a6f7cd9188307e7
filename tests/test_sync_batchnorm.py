"""Synchronised BatchNorm: two processes against one that has the whole batch, and one process against torch."""

import copy
import pickle
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from spikingjelly.activation_based import functional, layer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gac_sj
from gac_sj.encoders.stem import is_time_invariant
from gac_sj.nn.running_statistics import RepeatedImages
from gac_sj.nn.sync_batchnorm import SyncBatchNorm, convert_sync_batchnorm

C, T = 3, 4
#: samples on each of the two processes, leading dimensions, keywords of the layer
LAYERS = {
    "images": ((3, 3), (), {}),
    "sequence": ((2, 2), (T,), {}),
    "unequal_images": ((4, 1), (), {"eps": 0.1}),
    "unequal_sequence": ((1, 3), (T,), {}),
    "no_sample_on_one": ((3, 0), (), {}),
    "no_sample": ((0, 0), (T,), {}),
    "cumulative": ((2, 1), (), {"momentum": None}),
    "no_affine": ((2, 1), (T,), {"affine": False, "momentum": 0.3}),
    "untracked": ((2, 1), (), {"track_running_stats": False}),
}
FORMS = ["current", "low_threshold"]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batches(sizes, *leading):
    """Three batches whose channels differ in scale and whose samples, so the processes, differ in mean."""
    scale = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64).view(C, 1, 1)
    shape = (sum(sizes), C, 5, 4)
    return [scale * (random(*leading, *shape, seed=i) + 3 * random(*shape[:2], 1, 1, seed=i + 9)) for i in range(3)]


def batchnorm(name):
    norm = nn.BatchNorm2d(C, **LAYERS[name][2]).double()
    for parameter in norm.parameters():
        parameter.data = random(C)
    return norm


def encoder(form):
    torch.manual_seed(1)
    return gac_sj.GatedAttentionCoding(T=T, channels=8, form=form).double()


def large_mean():
    return (1e4 + random(6, C, 8, 8)).float()


def train(module, inputs):
    """Outputs, gradients and statistics of training steps; the loss adds up over samples."""
    outputs, gradients = [], []
    for x in inputs:
        leaf = x.clone().requires_grad_()
        output = module(leaf)
        output.sin().sum().backward()
        outputs.append(output.detach())
        gradients.append(leaf.grad)
    parameters = [parameter.grad for parameter in module.parameters()]
    return {"outputs": outputs, "gradients": gradients, "parameters": parameters, "buffers": list(module.buffers())}


def process(rank, folder):
    """What each of two processes does; the tests look at the results."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", timedelta(seconds=60), world_size=2, rank=rank)

    def mine(x, sizes):
        return x.split(sizes, -4)[rank]

    results = {}
    for name, (sizes, leading, _) in LAYERS.items():
        norm = convert_sync_batchnorm(batchnorm(name))
        results[name] = train(norm, [mine(x, sizes) for x in batches(sizes, *leading)])
    for form in FORMS:
        network = DistributedDataParallel(convert_sync_batchnorm(encoder(form)))
        results[form] = train(network, [mine(x, (2, 1)) for x in batches((2, 1))])

    norm = SyncBatchNorm(C)
    results["large_mean"] = [norm(mine(large_mean(), (4, 2))), norm.running_var]
    norm = SyncBatchNorm(C)
    results["bfloat16"] = train(norm, [mine(x, (2, 1)).bfloat16() for x in batches((2, 1))])
    with torch.autocast("cpu", torch.bfloat16):
        results["autocast"] = [SyncBatchNorm(C)(mine(x, (2, 1)).float()) for x in batches((2, 1))]

    groups = [dist.new_group([0]), dist.new_group([1])]
    norm = copy.deepcopy(SyncBatchNorm(C, process_group=groups[rank])).double()
    results["group_of_one"] = train(norm, [mine(x, (2, 1)) for x in batches((2, 1))])
    if rank == 0:  # would wait for the other one
        results["evaluation"] = SyncBatchNorm(C).eval()(large_mean())
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(process, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def joined(tensors, others):
    return [torch.cat(pair, -4) for pair in zip(tensors, others, strict=True)]


def assert_joined(parts, expected, average=False):
    """Outputs and gradients are the parts of the joined batch's, statistics are the same everywhere."""
    close = dict(rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(joined(*(part["outputs"] for part in parts)), expected["outputs"], **close)
    torch.testing.assert_close(joined(*(part["gradients"] for part in parts)), expected["gradients"], **close)
    if average:
        parameters = [2 * grad for grad in parts[0]["parameters"]]
    else:
        parameters = [a + b for a, b in zip(*(part["parameters"] for part in parts), strict=True)]
    torch.testing.assert_close(parameters, expected["parameters"], **close)
    for part in parts:
        torch.testing.assert_close(part["buffers"], expected["buffers"], rtol=1e-12, atol=1e-12)


@pytest.mark.medium
@pytest.mark.parametrize("name", LAYERS)
def test_two_processes_are_one_with_the_joined_batch(two, name):
    sizes, leading, _ = LAYERS[name]
    norm = batchnorm(name)
    expected = train(layer.SeqToANNContainer(norm) if leading else norm, batches(sizes, *leading))
    assert_joined([results[name] for results in two], expected)


@pytest.mark.parametrize("form", FORMS)
def test_encoding_once_on_two_processes_is_the_general_path_on_one(two, form):
    """Statistics of T repetitions of all processes' images, under DistributedDataParallel."""
    module = encoder(form)
    sequences = [x.repeat(T, 1, 1, 1, 1) for x in batches((2, 1))]
    expected = train(module, sequences)
    expected["gradients"] = [grad.sum(0) for grad in expected["gradients"]]  # all frames are one image
    assert_joined([results[form] for results in two], expected, average=True)


def test_a_large_mean_in_float32(two):
    """From the first step, when the running mean is far away."""
    exact = nn.BatchNorm2d(C).double()
    expected = exact(large_mean().double())
    outputs, variances = zip(*(results["large_mean"] for results in two))
    torch.testing.assert_close(torch.cat(outputs).double(), expected, rtol=1e-4, atol=1e-3)
    for running_var in variances:
        torch.testing.assert_close(running_var.double(), exact.running_var, rtol=1e-5, atol=0)


def test_half_precision(two):
    """The types that torch's layer outputs; statistics in float32."""
    norm = nn.BatchNorm2d(C)
    expected = train(norm, [x.bfloat16() for x in batches((2, 1))])
    for name in ("outputs", "gradients"):
        ours = joined(*(results["bfloat16"][name] for results in two))
        torch.testing.assert_close(ours, expected[name], rtol=2e-2, atol=1e-2)
    torch.testing.assert_close(two[0]["bfloat16"]["buffers"], expected["buffers"], rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        expected = [nn.BatchNorm2d(C)(x.float()) for x in batches((2, 1))]
    torch.testing.assert_close(joined(*(results["autocast"] for results in two)), expected, rtol=1e-5, atol=1e-5)


def test_a_process_group_bounds_the_batch(two):
    for rank, results in enumerate(two):
        expected = train(nn.BatchNorm2d(C).double(), [x.split((2, 1))[rank] for x in batches((2, 1))])
        torch.testing.assert_close(results["group_of_one"], expected)


def test_evaluation_waits_for_nobody(two):
    assert torch.equal(two[0]["evaluation"], nn.BatchNorm2d(C).eval()(large_mean()))


@pytest.mark.parametrize("name", LAYERS)
def test_one_process_is_torch(name):
    sizes, leading, _ = LAYERS[name]
    norm = batchnorm(name)
    ours = convert_sync_batchnorm(copy.deepcopy(norm))
    reference = layer.SeqToANNContainer(norm) if leading else norm
    inputs = batches(sizes, *leading)
    torch.testing.assert_close(train(ours, inputs), train(reference, inputs), rtol=0, atol=0)
    assert torch.equal(ours.eval()(inputs[0]), reference.eval()(inputs[0]))


@pytest.mark.parametrize("name", ["images", "cumulative", "untracked"])
def test_repetitions_count_in_the_running_variance(name):
    for ours in (batchnorm(name), convert_sync_batchnorm(batchnorm(name))):
        repeated = batchnorm(name)
        for x in batches((3,)):
            with RepeatedImages(T):
                y = ours(x)
            torch.testing.assert_close(y, repeated(x.repeat(T, 1, 1, 1))[:3], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(list(ours.buffers()), list(repeated.buffers()), rtol=1e-12, atol=1e-12)


def test_one_process_encodes_once_exactly():
    module, repeated = convert_sync_batchnorm(encoder("current")), encoder("current")
    assert is_time_invariant(module.stem)
    for x in batches((3,)):
        torch.testing.assert_close(module(x), repeated(x.repeat(T, 1, 1, 1, 1)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(list(module.buffers()), list(repeated.buffers()), rtol=1e-12, atol=1e-12)


def test_repetitions_end_with_the_stem_even_after_an_error():
    module, norm = convert_sync_batchnorm(encoder("current")), batchnorm("images")
    expected = copy.deepcopy(norm)
    module.stem.append(nn.Conv2d(9, 9, 1).double())
    x = batches((2,))[0]
    with pytest.raises(RuntimeError):
        module(x)
    norm(x)
    expected(x)
    assert torch.equal(norm.running_var, expected.running_var)


class Block(nn.Module):
    """Layers of torch that see frames [T * N, ...]."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(C, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


def test_an_own_stem_of_torch_layers_still_sees_frames():
    module = gac_sj.DirectCoding(T, C, 8, stem=Block())
    counterpart = convert_sync_batchnorm(copy.deepcopy(module))
    x = batches((2,))[0].float()
    for mode in ("s", "m"):
        functional.set_step_mode(counterpart.stem, mode)
        assert torch.equal(counterpart(x), module(x))


def test_conversion_keeps_values_names_modes_and_sharing():
    shared = nn.BatchNorm2d(8)
    network = nn.ModuleDict(
        {
            "sj": layer.BatchNorm2d(8, eps=0.1, momentum=0.3, step_mode="m"),
            "single": layer.BatchNorm2d(8, affine=False, step_mode="s"),
            "parts": nn.Sequential(shared, nn.Sequential(shared, nn.GroupNorm(2, 8), nn.InstanceNorm2d(8))),
            "frozen": nn.BatchNorm2d(8, track_running_stats=False).eval().half().requires_grad_(False),
            "done": SyncBatchNorm(8),
        }
    )
    before = {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in network.state_dict().items()}
    old = {name: child for name, child in network.named_modules(remove_duplicate=False) if hasattr(child, "eps")}
    parameters = set(network.parameters())
    calls = []
    handle = shared.register_forward_hook(lambda *_: calls.append(1))
    assert convert_sync_batchnorm(network) is network
    assert {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in network.state_dict().items()} == before
    assert set(network.parameters()) == parameters
    norms = {name: child for name, child in network.named_modules(remove_duplicate=False) if name in old}
    for name, norm in norms.items():
        assert isinstance(norm, SyncBatchNorm) == isinstance(old[name], nn.BatchNorm2d)
        for setting in ("training", "eps", "momentum", "affine", "track_running_stats", "num_features"):
            assert getattr(norm, setting, None) == getattr(old[name], setting, None)
    assert network["sj"].step_mode == "m" and network["single"].step_mode == "s"
    assert network["done"] is old["done"]
    assert network["parts"][0] is network["parts"][1][0]
    network["parts"][0](torch.randn(2, 8, 3, 3))
    handle.remove()
    network["parts"][0](torch.randn(2, 8, 3, 3))
    assert calls == [1]
    functional.set_step_mode(network, "s")
    assert network["sj"].step_mode == "s"


def test_a_converted_network_is_the_same_network():
    network = gac_sj.models.ms_resnet.gac_ms_resnet8_cifar()
    counterpart = convert_sync_batchnorm(copy.deepcopy(network))
    assert not any(isinstance(m, nn.BatchNorm2d) and not isinstance(m, SyncBatchNorm) for m in counterpart.modules())
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(counterpart(x), network(x))
    network.load_state_dict(counterpart.state_dict())
    assert torch.equal(counterpart.eval()(x), network.eval()(x))


class Rectified(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    "other",
    [
        lambda: nn.BatchNorm1d(8),
        lambda: layer.BatchNorm3d(8),
        lambda: nn.LazyBatchNorm2d(),
        lambda: layer.ThresholdDependentBatchNorm2d(1.0, 1.0, 8),
        lambda: Rectified(8),
    ],
)
def test_another_batchnorm_is_named_and_nothing_changes(other):
    network = nn.Sequential(nn.BatchNorm2d(8), nn.Sequential(other()))
    with pytest.raises(ValueError, match=rf"^1\.0 is a {type(network[1][0]).__name__}.* BatchNorm2d"):
        convert_sync_batchnorm(network)
    assert type(network[0]) is nn.BatchNorm2d
    with pytest.raises(ValueError, match=r"^The module is a"):
        convert_sync_batchnorm(network[1][0])


@pytest.mark.parametrize("shape", [(2, C), (2, C, 5), (T, 2, 2, C, 5, 5), (2, 1, 5, 5), (T, 2, C + 1, 5, 5)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=rf"\[N, 3, H, W\].* \[{', '.join(map(str, shape))}\]"):
        SyncBatchNorm(C)(torch.randn(shape))


def test_copies():
    norm = convert_sync_batchnorm(batchnorm("images"))
    norm(batches((2,))[0])
    norm.process_group = memoryview(b"")  # in place of a group: it can be neither copied nor pickled
    copies = copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))
    assert copies[0].process_group is norm.process_group
    assert copies[1].process_group is None
    for counterpart in copies:
        torch.testing.assert_close(dict(counterpart.state_dict()), dict(norm.state_dict()), rtol=0, atol=0)
        assert counterpart.weight is not norm.weight
        assert (counterpart.step_mode, counterpart.per_frame) == (norm.step_mode, norm.per_frame)
