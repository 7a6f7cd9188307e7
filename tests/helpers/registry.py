"""Registered encoders, for a while."""

import contextlib

import pytest

from gac_sj.encoders import plugins, registry


@contextlib.contextmanager
def forgotten_afterwards():
    """Encoders that are registered inside the block are forgotten after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
        patch.setattr(plugins, "_imported", set(plugins._imported))
        yield
