"""Registered encoders and networks, for a while."""

import contextlib
import copy
import dataclasses
import sys
import warnings
from pathlib import Path

import pytest
from timm.models import _registry as timm_registry

from gac_sj.encoders import plugins, registry
from gac_sj.models import ms_resnet, shipped


@contextlib.contextmanager
def forgotten_afterwards():
    """What files of users register and define inside the block is forgotten after it, as in another process."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
        patch.setattr(plugins, "_imported", set(plugins._imported))
        patch.setattr(timm_registry, "_model_entrypoints", dict(timm_registry._model_entrypoints))
        try:
            yield
        finally:
            for name in set(sys.modules) - before:
                if name.startswith("gac_sj_import_"):
                    del sys.modules[name]


@contextlib.contextmanager
def shipped_from(folder: Path):
    """The package's pretrained weights of the networks of ``ms_resnet.py`` are those of a folder."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's, about names that are registered again
        patch.setattr(shipped, "FOLDER", folder)
        patch.setattr(shipped, "_entries", {})
        for name in ("_model_has_pretrained", "_model_default_cfgs", "_model_pretrained_cfgs", "_model_with_tags"):
            patch.setattr(timm_registry, name, copy.copy(getattr(timm_registry, name)))
        untrained = {name: dataclasses.asdict(shipped.UNTRAINED[name]) for name in ms_resnet.default_cfgs}
        for about in untrained.values():
            del about["architecture"]
        patch.setattr(ms_resnet, "default_cfgs", shipped.generate_cfgs(untrained))
        for name in untrained:
            timm_registry.register_model(getattr(ms_resnet, name))
        yield
