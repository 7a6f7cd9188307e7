# %% [markdown]
"""The energy of a model: what every layer costs, in three conventions, behind several encoders.

python experiments/tutorials/3_energy.py
"""

# %%
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from spikingjelly.activation_based import functional, layer, neuron
from timm.data import create_transform
from timm.data.model_config import resolve_input_data_config
from torch import nn

import gac_sj
from gac_sj.analysis import measure_energy, non_spiking_layers

torch.set_num_threads(1)  # in so small a network, more threads only wait for each other
T = 4
digits = load_digits()
pixels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16  # [N, 1, 8, 8]
labels = torch.tensor(digits.target)
train, test = slice(0, 1400), slice(1400, None)

# %% [markdown]
# Energy depends on how often neurons fire, so measure a *trained* network on *test* images. `measure_energy` takes any
# network of SpikingJelly neurons; here it is the same small one behind four encoders.


# %%
def trained(encoder):
    torch.manual_seed(0)
    network = nn.Sequential(
        gac_sj.create_encoder(encoder, T=T, in_channels=1, channels=16),
        layer.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        layer.BatchNorm2d(32),
        neuron.LIFNode(detach_reset=True),
        layer.Flatten(),
        layer.Linear(32 * 4 * 4, 10),
    )
    functional.set_step_mode(network, "m")
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(10):
        for batch in torch.randperm(train.stop).split(64):
            functional.reset_net(network)
            optimizer.zero_grad()
            F.cross_entropy(network(pixels[batch]).mean(0), labels[batch]).backward()
            optimizer.step()
    return network.eval()


@torch.no_grad()
def accuracy(network):
    functional.reset_net(network)
    return (network(pixels[test]).mean(0).argmax(1) == labels[test]).float().mean()


# %% [markdown]
# A multiply-accumulate (MAC) costs 4.6 pJ, and an accumulation (AC), where one factor is a spike, 0.9 pJ (45 nm, fp32).
#
# - *paper*, as GAC's authors count: the first convolution once, in MACs; every later layer rate x operations, in ACs.
#   It leaves out the attention, and ignores that the gate makes the encoder's output real-valued.
# - *complete*, ours: everything that runs, as ACs where a layer receives spikes and as MACs elsewhere; zeros are free.
#
# With one seed each, the accuracies only show that the networks are trained; they compare nothing.

# %%
measured = {}
print("encoder      accuracy   paper nJ   complete nJ   encoder   attention   layers without spikes")
for encoder in ("gac", "direct", "direct_lif", "poisson"):
    network = trained(encoder)
    energy = measured[encoder] = measure_energy(network, [pixels[test]])
    shares = [part / energy.complete_pj for part in (energy.encoder_pj, energy.attention_pj)]
    print(
        f"{encoder:10}   {accuracy(network):8.1%}   {energy.paper_pj / 1e3:8.2f}   {energy.complete_pj / 1e3:11.2f}"
        f"   {shares[0]:7.1%}   {shares[1]:9.1%}   {len(non_spiking_layers(energy))}"
    )

# %% [markdown]
# Layer by layer, for GAC. The two convolutions of the gate are most of what *complete* counts and *paper* does not,
# although they run once for a static image, not T times. Layer 1 receives gated spikes, which are real-valued: its
# operations are MACs in *complete* and ACs in *paper*.

# %%
print(f"\ngac\n{measured['gac']}")
gac, direct = measured["gac"], measured["direct_lif"]
print(
    f"\nGAC takes {gac.paper_pj / direct.paper_pj:.2f} times the energy of direct coding with a neuron (paper), "
    f"{gac.complete_pj / direct.complete_pj:.2f} times (complete)"
)

# %% [markdown]
# The trained networks that come with the package, if this version has any, on one photograph (a flower).

# %%
photo = Image.fromarray(load_sample_image("flower.jpg"))
for name in timm.list_pretrained("*ms_resnet*"):
    model = timm.create_model(name, pretrained=True).eval()
    image = create_transform(**resolve_input_data_config(model), is_training=False)(photo).unsqueeze(0)
    energy = measure_energy(model, [image])
    print(f"{name}: {energy.paper_pj / 1e6:.2f} µJ (paper), {energy.complete_pj / 1e6:.2f} µJ (complete)")

# %% [markdown]
# Neither counts memory, which often costs more than arithmetic. The third convention adds the reads and writes of
# weights, spikes and membrane potentials, for two machines: a *dense* one does the same work whatever fires, and an
# *event-driven* one works only where spikes are, but reads weights and potentials for each of them anew.

# %%
print("\nencoder      dense nJ   of it memory   event-driven nJ   of it memory")
for encoder, energy in measured.items():
    dense, event = energy.memory.dense_pj / energy.dense_pj, energy.memory.event_pj / energy.event_pj
    print(
        f"{encoder:10}   {energy.dense_pj / 1e3:8.2f}   {dense:12.1%}   {energy.event_pj / 1e3:15.2f}   {event:12.1%}"
    )

# %% [markdown]
# The larger the network, the smaller the share of its encoder, so measure yours; for the prices of other hardware call
# `measure_energy(network, batches, energy="mine.yaml")`, with a file in the form of
# `gac_sj/analysis/profiles/45nm.yaml`. These numbers compare networks; the energy of a chip is measured on the chip.
