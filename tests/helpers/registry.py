"""Registered encoders and networks, for a while."""

import contextlib
import sys

import pytest
from timm.models import _registry as timm_registry

from gac_sj.encoders import plugins, registry


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
