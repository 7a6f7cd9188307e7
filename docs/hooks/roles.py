"""Griffe extension: Sphinx roles in docstrings, such as :func:`attach`, become links to the API pages."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`([\w.]+)`")


class Roles(griffe.Extension):
    """Replaces the roles of every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Replace the roles of one docstring.

        Args:
            obj: what it documents.
            kwargs: what other extensions need.
        """
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(lambda role: _link(role[1], obj), obj.docstring.value)


def _link(name: str, scope: griffe.Object) -> str:
    """A link to what the name means in this scope; plain code where no page has it."""
    try:
        path = scope.resolve(name)
    except griffe.NameResolutionError:
        path = name
    return f'<autoref optional identifier="{path}"><code>{name}</code></autoref>'
