"""The pretrained weights that come with the package: entries of timm's registry, each of them a folder.

``gac_sj/weights/NETWORK.TAG`` is a folder in timm's form with a model card. Its ``config.json`` is the one place that
says what the weights are: ``model_args`` pins how the network is built (T, encoder, form, further keywords), ``sha256``
is the checksum of the weights, and ``pretrained_cfg`` has pixels and names of the classes. Weights of more than 1 MB
are on the Hugging Face Hub: ``pretrained_cfg`` then names them (``hf_hub_id: OWNER/NAME@REVISION``), and the folder has
no ``model.safetensors``.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from timm.models import DefaultCfg, PretrainedCfg
from timm.models._builder import resolve_pretrained_cfg
from timm.models._hub import HF_SAFE_WEIGHTS_NAME, download_from_hf, load_model_config_from_path
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import read_bytes, read_text
from gac_sj._utils.reading import parse_json
from gac_sj.nn.time_steps import fit_time_steps

__all__ = ["FOLDER", "UNTRAINED", "ShippedWeights", "find_weights", "generate_cfgs"]

#: The folders of weights.
FOLDER = Path(__file__).resolve().parent.parent / "weights"
#: What timm knows about a network without weights, by name.
UNTRAINED: dict[str, PretrainedCfg] = {}
_entries: dict[str, ShippedWeights] = {}
#: Keywords that timm fits weights to, or that do not change them; T is fitted here.
_FREE = {"num_classes", "in_chans", "img_size", "global_pool", "drop_rate", "drop_path_rate"}
_SOURCES = ("file", "url", "state_dict", "hf_hub_id", "hf_hub_filename")


@dataclass(frozen=True)
class ShippedWeights:
    """Weights that come with the package.

    Args:
        name: NETWORK.TAG, as timm names them.
        config: their entry in timm's registry.
        keywords: of the network that was trained, except those that ``config`` gives.
        sha256: checksum of ``model.safetensors``.
    """

    name: str
    config: PretrainedCfg
    keywords: Mapping[str, Any]
    sha256: str

    def check(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        """Refuse keywords of another network than the trained one.

        Args:
            given: keywords of a user.
            defaults: those of the network without any.

        Raises:
            UsageError: one changes what the weights were trained for; T, classes, channels and dropout may differ.
        """
        known = {**defaults, **self.keywords}
        for name, value in given.items():
            if name in _FREE or name == "T" or value is None or (name in known and known[name] == value):
                continue
            needed = f"must be {known[name]!r} for" if name in known else "must be left out for"
            raise UsageError(
                f"{needed} the weights {self.name}, which were trained so, got {value!r}",
                "for another network leave out pretrained=True",
                argument=name,
            )

    def loading(self, then: Callable[[Any, Any], Any] | None) -> dict[str, Any]:
        """What makes timm's builder load the weights, fitted to the network's T.

        Args:
            then: the network's own filter of pretrained weights, which follows.

        Raises:
            UsageError: the file is damaged.
            OSError: it cannot be read or downloaded.
        """
        return {"pretrained_cfg": replace(self.config, file=str(self._verified()), hf_hub_id=None),
                "pretrained_filter_fn": partial(self._fit, then)}  # fmt: skip

    def _verified(self) -> Path:
        """The file of the weights, whose checksum is right."""
        if self.config.file:
            path, advice = Path(self.config.file), "install gac_sj again"
        else:
            try:
                path, advice = Path(download_from_hf(str(self.config.hf_hub_id), HF_SAFE_WEIGHTS_NAME)), "delete it"
            except Exception as error:  # no network, no such repository: each has its own class
                raise OSError(
                    f"The weights {self.name} cannot be downloaded from hf-hub:{self.config.hf_hub_id} "
                    f"({first_sentence(error)}); check the network."
                ) from error
        if hashlib.sha256(read_bytes(path)).hexdigest() != self.sha256:
            raise UsageError(f"{path} is not the file of the weights {self.name}: its checksum is wrong", advice)
        return path

    def _fit(
        self, then: Callable[[Any, Any], Any] | None, state: dict[str, Tensor], model: nn.Module
    ) -> dict[str, Tensor]:
        fitted = fit_time_steps(state, model.state_dict())
        if (T := getattr(model, "T", None)) != (trained := self.keywords["T"]):
            resized = any(fitted[name] is not value for name, value in state.items())
            warnings.warn(
                f"The weights {self.name} were trained with T={trained}; with T={T}"
                f"{' their temporal attention is resized, and' * resized} the accuracy is not that of their model "
                "card: fine-tune them.",
                stacklevel=2,
            )
        return fitted if then is None else then(fitted, model)


def generate_cfgs(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, DefaultCfg]:
    """timm's ``default_cfgs`` of a module: a tag for each of the weights that :data:`FOLDER` has.

    A name without a tag stands for weights with the network's default number of classes, where there are such.

    Args:
        networks: entries of the networks without weights, by name.
    """
    found = {}
    for network, about in networks.items():
        untrained = UNTRAINED[network] = PretrainedCfg(architecture=network, **about)
        cfgs = {"": untrained}
        for path in sorted(FOLDER.glob(f"{network}.*/config.json")):
            weights = _read(path.parent)
            _entries[weights.name] = weights
            cfgs[weights.name.partition(".")[2]] = weights.config
        tags = [tag for tag in cfgs if tag]
        alike = [tag for tag in tags if cfgs[tag].num_classes == untrained.num_classes]
        order = [*(alike or [""]), *(tag for tag in tags if tag not in alike)]
        found[network] = DefaultCfg(tags=deque(order), cfgs=cfgs, is_pretrained=bool(tags))
    return found


def _read(folder: Path) -> ShippedWeights:
    about, network, arguments = load_model_config_from_path(folder)
    file = folder / HF_SAFE_WEIGHTS_NAME
    about |= {"source": None, "file": str(file) if file.exists() else None, "architecture": network}
    about["tag"] = folder.name.partition(".")[2]
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in about.items()}
    keywords = {name: value for name, value in arguments.items() if name not in _FREE}
    return ShippedWeights(
        folder.name, PretrainedCfg(**plain), keywords, parse_json(read_text(folder / "config.json"))["sha256"]
    )


def find_weights(network: str, pretrained: bool, keywords: Mapping[str, Any]) -> ShippedWeights | None:
    """The weights of the package that a call of ``timm.create_model`` names; None for others, and for none.

    Args:
        network: its name, without a tag.
        pretrained: whether weights are loaded; without, a tag names the network that the weights belong to.
        keywords: timm's own among them.
    """
    about = keywords.get("pretrained_cfg")
    if not pretrained and not isinstance(about, str):
        return None
    config = resolve_pretrained_cfg(network, about, keywords.get("pretrained_cfg_overlay"))
    weights = _entries.get(f"{network}.{config.tag}")
    same = weights and all(getattr(weights.config, each) == getattr(config, each) for each in _SOURCES)
    return weights if same else None
