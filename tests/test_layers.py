"""Layers are called: what users put on the layers of an encoder or network acts, as in any PyTorch network."""

import copy
import warnings

import pytest
import timm
import torch
from helpers.encoders import AVAILABLE
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

import gac_sj
from gac_sj.encoders import create_encoder
from gac_sj.nn.membrane_attention import MembraneAttention

MODELS = [name for module in ("ms_resnet", "att_ms_resnet", "ma_snn") for name in timm.list_models(module=module)]
ENCODERS = pytest.mark.parametrize("name", AVAILABLE)
#: modules with convolutions or linear layers of their own, and the shape of their input
PARTS = {
    "gac": (lambda: gac_sj.GatedAttentionCoding(4, channels=8), (2, 3, 6, 7)),
    "gac, current": (lambda: gac_sj.GatedAttentionCoding(4, channels=8, form="current"), (2, 3, 6, 7)),
    "direct_matched": (lambda: gac_sj.MatchedDirectCoding(4, channels=8), (2, 3, 6, 7)),
    "unit": (lambda: gac_sj.GatedAttentionUnit(4, 8), (2, 8, 6, 7)),
    "membrane": (lambda: MembraneAttention("TCSA", 4, 8), (4, 2, 8, 6, 7)),
}


def weighted(module):
    """Names and modules of the layers that have parameters of their own."""
    return {name: child for name, child in module.named_modules() if list(child.parameters(recurse=False))}


def never_called(module, run):
    called = set()
    hooks = [
        child.register_forward_hook(lambda *_, name=name: called.add(name)) for name, child in weighted(module).items()
    ]
    run()
    for hook in hooks:
        hook.remove()
    return set(weighted(module)) - called


@ENCODERS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_every_layer_of_an_encoder_is_called(name, training, step_mode):
    encoder = create_encoder(name, T=3, channels=8, step_mode=step_mode).train(training)
    images = torch.rand(2, 3, 6, 7)
    for x in (images, images.expand(3, *images.shape)):
        encoder.reset()
        assert never_called(encoder, lambda x=x: encoder(x)) == set()


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_of_a_network_is_called(name):
    with torch.device("meta"):
        model = timm.create_model(name)
        x = torch.rand(1, *model.pretrained_cfg["input_size"])
        assert never_called(model, lambda: model(x)) == set()


@ENCODERS
@pytest.mark.parametrize("options", [{}, dict(block_attention="TCSA"), dict(spike_driven=True)], ids=str)
def test_every_layer_of_a_network_behind_any_encoder_is_called(name, options):
    model = timm.create_model("gac_ms_resnet8_cifar", T=2, encoder=name, **options)
    model.set_spikes_as_bytes()
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        assert never_called(model, lambda: model(torch.rand(1, 3, 8, 8))) == set()


def layers(module):
    return [child for child in module.modules() if isinstance(child, nn.Conv2d | nn.Linear)]


class Half(nn.Module):
    def forward(self, weight):
        return 0.5 * weight


class Halved(nn.Module):
    """An adapter: it wraps a layer and adds a trained part."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.scale = layer, nn.Parameter(torch.tensor(-0.5))

    def forward(self, x):
        y = self.layer(x)
        return y + self.scale * y


def wrap(module):
    for name, child in list(module.named_modules()):
        if isinstance(child, nn.Conv2d | nn.Linear):
            module.set_submodule(name, Halved(child))


def hook(module):
    for layer in layers(module):
        assert layer.bias is None
        layer.register_forward_hook(lambda layer, inputs, output: 0.5 * output)


def parametrise(module):
    for layer in layers(module):
        parametrize.register_parametrization(layer, "weight", Half())


def scale(module):
    with torch.no_grad():
        for layer in layers(module):
            layer.weight.mul_(0.5)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("change", [hook, parametrise, wrap], ids=["hook", "parametrisation", "adapter"])
def test_what_changes_a_layer_changes_the_output(part, change):
    """Half of every layer, in three ways, is half of every weight."""
    build, shape = PARTS[part]
    expected = build().eval()
    changed = copy.deepcopy(expected)
    scale(expected)
    change(changed)
    x = torch.rand(shape)
    torch.testing.assert_close(changed(x), expected(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_pruned_layers_train(part):
    """The mask holds, and every step sees the weights of the last one."""
    build, shape = PARTS[part]
    module = build()
    for layer in layers(module):
        prune.l1_unstructured(layer, "weight", 0.3)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    x, losses = torch.rand(shape), []
    for _ in range(3):
        loss = module(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] != losses[1] != losses[2]
    for layer in layers(module):
        assert not layer.weight_orig.grad[layer.weight_mask == 0].any()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "normalise", [parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm]
)
def test_normalised_weights_train(part, normalise):
    build, shape = PARTS[part]
    module = build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old weight_norm
        for layer in layers(module):
            normalise(layer)
    for _ in range(2):
        module.zero_grad()
        module(torch.rand(shape)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_adapters_get_gradients():
    encoder = gac_sj.GatedAttentionCoding(4, channels=8)
    wrap(encoder.gau)
    encoder(torch.rand(2, 3, 6, 7)).square().sum().backward()
    adapters = [module for module in encoder.modules() if isinstance(module, Halved)]
    assert len(adapters) == 4
    assert all(adapter.scale.grad for adapter in adapters)


@pytest.mark.filterwarnings("ignore")  # torch.ao is deprecated
def test_dynamic_quantisation_is_close():
    model = timm.create_model("gac_ms_resnet8_cifar", T=4).eval()
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    features = torch.randn(2, 16, 8, 8)
    expected, found = (network.encoder.gau.temporal(features) for network in (model, quantised))
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.005 * features.abs().max().item())
    assert quantised(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("part", PARTS)
def test_operation_counters_see_every_product(part):
    build, shape = PARTS[part]
    module = build().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.rand(shape))
    counted = {name.partition(".")[2] for name, flops in counter.get_flop_counts().items() if sum(flops.values())}
    assert {name for name, layer in weighted(module).items() if isinstance(layer, nn.Conv2d | nn.Linear)} <= counted
