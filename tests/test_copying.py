"""Copies of networks that are in the middle of a sequence."""

import pytest
import torch
from spikingjelly.activation_based import base, functional, layer, neuron
from torch import nn
from torch.nn.utils import prune

import gac_sj
from gac_sj.export import split
from gac_sj.nn.copying import copy_network


class Leaky(base.MemoryModule):
    """A memory of one's own, which SpikingJelly resets, and one that it does not know."""

    def __init__(self):
        super().__init__()
        self.register_memory("sum", None)
        self.last = None

    def reset(self):
        super().reset()
        self.last = None

    def forward(self, x):
        self.sum = x if self.sum is None else self.sum + x
        self.last = self.sum * 2.0
        return self.last


def network(state):
    """An encoder and layers with a state, in the middle of a sequence."""
    torch.manual_seed(0)
    parts = gac_sj.GatedAttentionCoding(T=2, channels=4), layer.Conv2d(4, 4, 3, step_mode="m"), state
    model = nn.Sequential(*parts, layer.Conv2d(4, 2, 3, step_mode="m"), layer.BatchNorm2d(2, step_mode="m"))
    model(torch.randn(1, 3, 8, 8))
    return model


def memories(model):
    return [module.v for module in model.modules() if isinstance(module, neuron.BaseNode)]


STATES = pytest.mark.parametrize(
    "state",
    [
        lambda: neuron.LIFNode(step_mode="m", store_v_seq=True),
        lambda: neuron.ParametricLIFNode(step_mode="m"),
        gac_sj.LIFNode,
        Leaky,
        lambda: prune.l1_unstructured(layer.Conv2d(4, 4, 1, step_mode="m"), "weight", 0.5),
    ],
    ids=["LIFNode", "ParametricLIFNode", "ours", "own", "pruned"],
)


@STATES
def test_copies_start_from_the_reset_state_and_the_network_keeps_its_own(state):
    model = network(state())
    before = memories(model)
    copied = copy_network(model)
    assert all(mine is other for mine, other in zip(memories(model), before))
    assert not {*map(id, model.parameters())} & {*map(id, copied.parameters())}
    x = torch.randn(2, 3, 8, 8)  # another batch size: the state of the first pass would not fit
    functional.reset_net(model.eval())
    assert torch.equal(copied.eval()(x), model(x))


@STATES
def test_a_network_that_was_not_reset_is_split_and_folded(state):
    model = network(state()).eval()
    encoder, backbone = split(model)
    folded = gac_sj.fold_batch_norm(model)
    x = torch.randn(2, 3, 8, 8)
    functional.reset_net(model)
    assert torch.equal(backbone(encoder(x)), model(x))
    functional.reset_net(model)
    torch.testing.assert_close(folded(x), model(x))


def test_weights_of_a_copy_are_computed_from_its_own():
    layers = prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)
    copied = copy_network(layers)
    with torch.no_grad():
        copied.weight_orig.zero_()
    assert not copied(torch.ones(4)).equal(layers(torch.ones(4)))
    assert torch.equal(copied(torch.ones(4)), copied.bias)
