# %% [markdown]
"""Gated Attention Coding in front of your own SpikingJelly network, in ten lines.

python experiments/tutorials/1_your_network.py
"""

# %%
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gac_sj

torch.manual_seed(0)
torch.set_num_threads(1)  # in so small a network, more threads only wait for each other

# %% [markdown]
# Suppose this is your network. Its first convolution, BatchNorm and neuron, the stem, turn images into spikes. It has
# direct coding: the stem receives the same image at every step.


# %%
class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = layer.Conv2d(1, 32, 3, padding=1, bias=False)
        self.bn1 = layer.BatchNorm2d(32)
        self.sn1 = neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True)
        self.conv2 = layer.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = layer.BatchNorm2d(64)
        self.sn2 = neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True)
        self.flatten = layer.Flatten()
        self.fc = layer.Linear(64 * 4 * 4, 10)
        functional.set_step_mode(self, "m")

    def forward(self, x):  # [T, N, 1, 8, 8] -> [N, 10]
        x = self.sn1(self.bn1(self.conv1(x)))
        x = self.sn2(self.bn2(self.conv2(x)))
        return self.fc(self.flatten(x)).mean(0)


# %% [markdown]
# These are your data: handwritten digits, `[N, 1, 8, 8]`, with pixels from 0 to 1.

# %%
digits = load_digits()
pixels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)
train, test = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
batches = DataLoader(TensorDataset(pixels[train], labels[train]), batch_size=64, shuffle=True)

# %% [markdown]
# The ten lines. `attach` replaces the stem by an encoder, which keeps your convolution, BatchNorm and neuron with their
# weights; only the first line is new in your training. The network now takes images `[N, 1, 8, 8]`: leave out what
# repeats them, since the encoder runs the stem once and makes the T steps itself. In SpikingJelly's own models
# (ResNets, VGG, Spikformer, ...) `gac_sj.attach(network)` finds the stem; in yours, name its first and last module.

# %%
network = gac_sj.attach(Network(), T=4, at="conv1", until="sn1")
optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
for epoch in range(1, 9):
    for x, y in batches:
        functional.reset_net(network)
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss:.4f}")

# %% [markdown]
# What `attach` changed, and the accuracy on digits that the network has not seen.

# %%
print(network.attached)
network.eval()
functional.reset_net(network)
with torch.no_grad():
    correct = network(pixels[test]).argmax(1) == labels[test]
print(f"{correct.float().mean():.1%} of {len(test)} test images are classified correctly")

# %% [markdown]
# That the network learns does not show that GAC is better than before. That takes both networks, several seeds and one
# recipe: see the second tutorial. The fair comparison is `gac_sj.attach(..., encoder="direct_lif")`: the same place,
# your stem and its spikes, without the gate.
