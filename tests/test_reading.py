"""YAML and JSON of others: plain values or one sentence, whatever the text."""

import datetime
import time

import pytest

from gac_sj._utils.reading import parse_json, parse_yaml, require_plain

pytestmark = pytest.mark.one_release


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "text,value",
    [
        ("", None),
        ("{a: 1, b: [x, 1.5, true, null]}", {"a": 1, "b": ["x", 1.5, True, None]}),
        ("{0: 1, -3: {20: x}}", {"0": 1, "-3": {"20": "x"}}),  # as JSON has it
        ("day: 2024-05-01", {"day": "2024-05-01"}),  # as on the command line
        ("at: 2001-12-14 21:59:43.10", {"at": "2001-12-14 21:59:43.10"}),
        ("a: &x {lr: 1}\nb: {<<: *x, T: 2}\nc: *x", {"a": {"lr": 1}, "b": {"lr": 1, "T": 2}, "c": {"lr": 1}}),
        ("[" * 32 + "1" + "]" * 32, nested(32)),
    ],
)
def test_yaml_is_plain_values(text, value):
    assert parse_yaml(text) == value


def bomb(levels):
    """Every line repeats the line before it nine times."""
    lines = ["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels))]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text,words",
    [
        ("{a", "line 1"),
        ("a: \0", "special characters"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\na: 2", "single document"),
        ("~: 1", "key None, which must be text"),
        ("{on: 1}", "key True"),
        ("{x: {3.5: 1}}", "key 3.5"),
        ("? [a]\n: 1", "unhashable"),
        ("a: !!set {b}", "tag tag:yaml.org,2002:set"),
        ("a: !!binary aGk=", "tag .*binary"),
        ("a: !!timestamp 2024-05-01", "tag .*timestamp"),
        ("a: !!python/object/apply:os.getcwd []", "tag .*python"),
        ("a: !mine 3", "tag !mine"),
        ("a: &x [*x]", "100,000 values"),
        (bomb(9), "100,000 values"),
        (bomb(300), "100,000 values"),
        ("[" * 33 + "]" * 33, "32 levels"),
        ("[" * 3000, "32 levels"),
        ("{a: " * 3000, "32 levels"),
        ("- " * 3000, "32 levels"),
        (f"1{'0' * 30}", "64 bits"),
        (f"0x{'f' * 5000}", "64 bits"),
        ("1" * 5000, "digits"),
        ("0x_", "invalid"),
        ('"\\ud800"', "surrogates"),
    ],
)
def test_other_yaml_is_refused_in_one_line(text, words):
    started = time.monotonic()
    with pytest.raises(ValueError, match=words) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "text,words",
    [
        ("[1", "line 1"),
        (b"\xff", "utf-8"),
        ("[" * 33 + "]" * 33, "32 levels"),
        ("[" * 100_000, "32 levels"),
        ('{"a": ' * 3000, "32 levels"),
        ("1" * 30, "64 bits"),
        ("1" * 5000, "digits"),
        ('["\\ud800"]', "surrogates"),
    ],
)
def test_other_json_is_refused_in_one_line(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)


def test_json_is_plain_values():
    assert parse_json('{"a": [1, 2.5, "x", null, true]}') == {"a": [1, 2.5, "x", None, True]}
    assert parse_json(b'"\xc3\xa9"') == "é"


@pytest.mark.parametrize("value", [{1, 2}, b"x", datetime.date(2024, 5, 1), object(), {None: 1}, 2**63, nested(33)])
def test_other_values_are_not_plain(value):
    for holder in (value, [value], {"a": value}):
        with pytest.raises(ValueError, match=r"^it "):
            require_plain(holder)


def test_tuples_and_the_extremes_are_plain():
    require_plain({"a": (1, 2), "b": -(2**63), "c": 2**63 - 1, "d": float("nan")})
