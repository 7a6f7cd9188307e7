"""The published networks' values (tests/golden) and the weights and images that they were computed from."""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent.parent / "golden"
NAMES = sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))


def load(name: str) -> dict:
    return json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))


def _fill(key: str, shape: list[int], salt: str) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(f"{salt}/{key}".encode()))
    name = key.rsplit(".", 1)[1]
    if name == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if name in ("running_mean", "bias"):
        return 0.1 * rng.standard_normal(shape)
    if name == "running_var" or len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape)
    return rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))


def state_dict(golden: dict) -> dict[str, torch.Tensor]:
    """The checkpoint of the published code: every tensor under each of its names."""
    entries = {key: (entry[0], entry[1] if len(entry) > 1 else key) for key, entry in golden["state_dict"].items()}
    return {
        key: torch.as_tensor(_fill(canonical, shape, golden["salt"])) for key, (shape, canonical) in entries.items()
    }


def batch(golden: dict) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(zlib.crc32(f"{golden['salt']}/input".encode()))
    x = rng.standard_normal((golden["batch"], 3, golden["image"], golden["image"]))
    return torch.as_tensor(x), torch.as_tensor(rng.integers(0, golden["classes"], golden["batch"]))
