"""YAML and JSON that others wrote, as plain values; depth and size are limited before anything is built."""

from __future__ import annotations

import json
from typing import Any

import yaml

__all__ = ["parse_json", "parse_yaml", "require_plain"]

#: The deepest nesting, and the largest number of values of a YAML text whose aliases are written out.
_DEPTH, _VALUES = 32, 100_000


def parse_yaml(text: str) -> Any:
    """Plain values (:func:`require_plain`) of one YAML document; a date without quotes, or an integer key, is text.

    Args:
        text: the document.

    Raises:
        ValueError: it is not YAML, has a tag, or is nested too deeply or too large; one sentence without a full stop.
    """
    try:
        value = yaml.load(text, _PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    require_plain(value)
    return value


def parse_json(text: str | bytes) -> Any:
    """Plain values (:func:`require_plain`) of a JSON text.

    Args:
        text: the text; bytes are UTF-8.

    Raises:
        ValueError: it is not JSON, or is nested too deeply; one sentence without a full stop.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(_too_deep()) from error
    require_plain(value)
    return value


def require_plain(value: Any, depth: int = 0) -> None:
    """Check that a value is what JSON can hold: text, 64-bit integers, numbers, true, false, null, lists and mappings.

    Args:
        value: any; a tuple counts as a list.
        depth: number of lists and mappings around it.

    Raises:
        ValueError: it, or something in it, is of another type, a key is not text, or it is nested too deeply.
    """
    if depth >= _DEPTH and isinstance(value, dict | list | tuple):
        raise ValueError(_too_deep())
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"it has the key {key!r}, which must be text")
            require_plain(key)
            require_plain(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            require_plain(item, depth + 1)
    elif isinstance(value, str):
        value.encode()  # half a surrogate pair cannot be written
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError("it has an integer of more than 64 bits")
    elif not (value is None or isinstance(value, float)):
        raise ValueError(
            f"it has a {type(value).__name__}, not only text, numbers, true, false, null, lists and mappings"
        )


def _too_deep() -> str:
    return f"it is nested more than {_DEPTH} levels deep"


class _PlainLoader(yaml.SafeLoader):
    """Builds no value of an explicit type, and counts what aliases repeat."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self.depth = self.values = 0
        self.sizes: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any
        event, before = self.peek_event(), self.values
        if getattr(event, "tag", None):
            raise yaml.YAMLError(f"it has the tag {event.tag}, and only plain values are read")
        self.depth += 1
        if self.depth > _DEPTH + 1:
            raise yaml.YAMLError(_too_deep())
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent):  # an alias inside its own anchor has no end
            self.values += self.sizes.get(str(event.anchor), _VALUES)
        else:
            self.values += 1
            self.sizes[event.anchor] = self.values - before
        if self.values > _VALUES:
            raise yaml.YAMLError(f"it has more than {_VALUES:,} values")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        return {str(key) if type(key) is int else key: value for key, value in mapping.items()}


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
