# %% [markdown]
"""From published weights to a picture of the gate.

python experiments/tutorials/4_published_weights.py --weights gac_cifar100_T6.pth --image cat.png
python experiments/tutorials/4_published_weights.py     # random weights instead of the published ones
"""

# %%
import argparse
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform
from timm.data.model_config import resolve_input_data_config

from gac_sj.analysis import figures
from gac_sj.checkpoint import load_reference_state_dict, read_reference, reference_names
from gac_sj.data import DATASETS
from gac_sj.data.image_files import read_image

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--weights", type=Path, metavar="PTH", help="the published file for CIFAR-100, T = 6")
parser.add_argument("--image", type=Path, metavar="FILE", help="default: a flower that comes with scikit-learn")
parser.add_argument("--output", type=Path, default=Path("runs/tutorials/gate"), metavar="DIR")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)  # a notebook has its own arguments

# %% [markdown]
# The only checkpoint that GAC's authors published is MS-ResNet-18 for CIFAR-100 with T = 6. `form="reference"` builds
# exactly the published encoder; the gate of the default form has another size. The network also has to know how the
# pixels were normalised.

# %%
mean, std = DATASETS["cifar100"].mean, DATASETS["cifar100"].std
torch.manual_seed(0)
model = timm.create_model(
    "gac_ms_resnet18_cifar",
    T=6,
    num_classes=100,
    form="reference",
    pretrained_cfg_overlay={"mean": mean, "std": std},
)

# %% [markdown]
# A `.pth` file from an unknown source may run code when it is opened; `read_reference` reads tensors only.
# `load_reference_state_dict` goes by the published names and is strict: an unexpected or missing tensor, or one of
# another shape, is an error that names it.

# %%
weights = args.weights
if weights is None:
    args.output.mkdir(parents=True, exist_ok=True)
    weights = args.output / "random.pth"
    torch.save({reference_names(name)[0]: value for name, value in model.state_dict().items()}, weights)
    print(f"No --weights: {weights} holds random numbers in the published layout. Its gate has learned nothing.")
try:
    load_reference_state_dict(model, read_reference(weights))
    photo = read_image(args.image, "RGB") if args.image else Image.fromarray(load_sample_image("flower.jpg"))
except (ValueError, OSError) as error:
    parser.error(str(error))
print(f"{weights}: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")

# %% [markdown]
# The image is transformed as in training. Inside the encoder, the stem's current `[C, H, W]` is the same at every step,
# because the image is. Spatial-channel attention sees it once, temporal attention has one number per step (some forms
# have one for every channel), and the gate is the sigmoid of their product.


# %%
@torch.no_grad()
def show_gate(model, file):
    model.eval()
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    transform = create_transform(**resolve_input_data_config(model), is_training=False)
    image = transform(photo)  # [3, 32, 32]
    pixels = (image * std + mean).permute(1, 2, 0).clamp(0, 1)
    encoder = model.encoder
    maps = encoder.attention_maps(image.unsqueeze(0))
    output = encoder(image.unsqueeze(0))[:, 0]
    gate, spatial = maps.gate[:, 0], maps.spatial_channel[0, 0]  # [T, C, H, W], [C, H, W]
    temporal = maps.temporal.reshape(encoder.T, -1).mean(1)  # [T]
    print("step  temporal attention  gate: mean,       std       active outputs")
    for step in range(encoder.T):
        spikes = (output[step] != 0).float().mean()
        print(
            f"{step + 1:4}  {temporal[step]:18.3f}  {gate[step].mean():10.3f}, {gate[step].std():9.3f}  {spikes:19.1%}"
        )
    for path in figures.save(figures.gates(pixels, gate, temporal, spatial), args.output / file):
        print(path)


# %% [markdown]
# First the trained networks that come with the package, if this version has any (`timm.list_pretrained("gac*")`).

# %%
for name in timm.list_pretrained("gac_*_cifar"):
    print(f"\n{name}")
    show_gate(timm.create_model(name, pretrained=True), f"gate_{name}")

# %% [markdown]
# Then the published one. Only the weights of temporal attention decide how much the gate changes from step to step,
# because a static image looks the same at every step. The picture shows both attentions, and the gate at every step on
# one scale.

# %%
print(f"\n{weights}")
show_gate(model, "gate")

# %% [markdown]
# Next, with the published weights: `gac-sj convert` writes a folder that timm loads
# (`timm.create_model("local-dir:DIR", pretrained=True)`), and `gac-sj predict IMAGE --weights DIR` classifies images.
