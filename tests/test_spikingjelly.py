"""A GAC encoder inside a hand-written SpikingJelly network, used as SpikingJelly users do."""

import copy

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, monitor, neuron, surrogate
from torch import nn

import gac_sj


class Network(nn.Module):
    """A user's own network; only the first line of __init__ is ours."""

    def __init__(self, encoder=None, T=4):
        super().__init__()
        self.encoder = gac_sj.GatedAttentionCoding(T=T, channels=8) if encoder is None else encoder
        self.body = nn.Sequential(
            layer.Conv2d(8, 12, 3, stride=2, bias=False),
            layer.BatchNorm2d(12),
            neuron.LIFNode(surrogate_function=surrogate.ATan()),
            layer.Flatten(),
            layer.Linear(12 * 4 * 4, 10),
        )

    def forward(self, x):
        return self.body(self.encoder(x))


def images(n=3):
    return torch.randn(n, 3, 10, 10)


def multi_step(**options):
    network = Network(**options)
    functional.set_step_mode(network, "m")
    return network


def test_training_reaches_every_parameter():
    network = multi_step()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    x, y = images(8), torch.arange(8)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(network(x).mean(0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(network)
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    assert losses[-1] < 0.5 * losses[0]


def test_single_step_use_gives_the_multi_step_result():
    network = multi_step().eval()
    x = images()
    expected = network(x)
    functional.reset_net(network)
    functional.set_step_mode(network, "s")
    for _ in range(2):
        steps = torch.stack([network(x) for _ in range(4)])
        torch.testing.assert_close(steps, expected, rtol=1e-5, atol=1e-5)
        functional.reset_net(network)


def test_single_step_training_has_the_gradients_of_multi_step():
    network = multi_step()
    network.body[1].eval()  # in training, single steps have batch statistics of their own
    twin = copy.deepcopy(network)
    x = images()
    network(x).square().sum().backward()
    functional.set_step_mode(twin, "s")
    sum(twin(x).square().sum() for _ in range(4)).backward()
    for ours, expected in zip(twin.parameters(), network.parameters()):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-3, atol=1e-3)


def test_switching_step_modes_leaves_the_encoder_whole():
    """set_step_mode reaches the neuron inside the encoder; the encoder's sequence must not change."""
    stem = nn.Sequential(layer.Conv2d(3, 8, 3, padding=1, bias=False), layer.BatchNorm2d(8))
    network = multi_step(encoder=gac_sj.GatedAttentionCoding(channels=8, stem=stem)).eval()
    x = images()
    expected = network.encoder(x)
    functional.set_step_mode(network, "s")
    assert torch.equal(torch.stack([network.encoder(x) for _ in range(4)]), expected)
    functional.set_step_mode(network, "m")
    assert torch.equal(network.encoder(x), expected)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_no_state_leaks_between_batches_of_different_sizes(mode):
    network = Network().eval()
    functional.set_step_mode(network, mode)
    x = images(2)

    def run(x):
        result = torch.stack([network(x) for _ in range(4)]) if mode == "s" else network(x)
        functional.reset_net(network)
        return result

    expected = run(x)
    for n in (5, 1):
        assert run(images(n)).shape == (4, n, 10)
        assert torch.equal(run(x), expected)


def test_monitors_see_the_encoders_neuron():
    network = multi_step()
    spikes = monitor.OutputMonitor(network, neuron.LIFNode, lambda s: s.mean().item())
    network(images())
    assert spikes.monitored_layers == ["encoder.neuron", "body.2"]
    assert 0 < spikes["encoder.neuron"][0] < 1
    spikes.remove_hooks()
    network.encoder.neuron.store_v_seq = True
    potentials = monitor.AttributeMonitor("v_seq", False, network, gac_sj.LIFNode)
    functional.reset_net(network)
    network(images())
    assert potentials["encoder.neuron"][0].shape == (4, 3, 8, 10, 10)
    potentials.remove_hooks()


def test_detach_net_allows_truncated_backpropagation():
    network = Network()
    functional.set_step_mode(network, "s")
    x = images()
    for _ in range(2):
        (network(x) + network(x)).sum().backward()
        functional.detach_net(network)


def test_spikingjellys_own_neuron_takes_our_surrogates_and_our_encoder_takes_its_neuron():
    node = neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=gac_sj.Triangle(), step_mode="m")
    theirs = gac_sj.GatedAttentionCoding(channels=8, neuron=node)
    ours = gac_sj.GatedAttentionCoding(
        channels=8, neuron=gac_sj.LIFNode(decay_input=False, surrogate_function=gac_sj.Triangle())
    )
    ours.load_state_dict(theirs.state_dict())
    x = images()
    gradients = []
    for encoder in (ours, theirs):
        output = encoder(x)
        output.square().sum().backward()
        gradients.append([output, *(p.grad for p in encoder.parameters())])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_network_moves_and_casts():
    network = multi_step().double()
    assert network(images().double()).dtype == torch.float64
    functional.reset_net(network)
    assert network.to(torch.bfloat16)(images().bfloat16()).dtype == torch.bfloat16
