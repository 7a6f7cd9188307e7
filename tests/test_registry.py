"""The registry of encoders: registering, looking up, names with options, the source of a user's encoder, plugins."""

import hashlib
import sys

import pytest
import timm
import torch
from torch import nn

import gac_sj
from gac_sj._utils.errors import UsageError
from gac_sj.checkpoint import load_pretrained, save_pretrained
from gac_sj.encoders import (
    BASELINE_ENCODER,
    DEFAULT_ENCODER,
    create_encoder,
    encoder_info,
    encoder_label,
    find_encoder,
    import_plugins,
    list_encoders,
    parse_encoder,
    plugins,
    register_encoder,
    registry,
    require_source,
)
from gac_sj.training.settings import Settings

MINE = """
import torch
from torch import nn

import gac_sj


@gac_sj.register_encoder("mine", options={"factor": 2.0}, help="the scaled current")
class Mine(gac_sj.Encoder):
    def __init__(self, T=4, in_channels=3, channels=64, factor=1.0, **options):
        super().__init__(T, in_channels, channels, **options)
        self.scale = nn.Parameter(torch.full((T, 1, 1, 1, 1), factor))

    def encode(self, x):
        return self.scale * self.over_time(self.features(x))
"""
SMALL = "ms_resnet8_cifar"
OURS = list_encoders()


@pytest.fixture(autouse=True)
def isolated(clean_registry, monkeypatch):
    """What a test registers, and compiles, is forgotten after it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture
def forget():
    """A function that forgets all encoders of users, as another process would."""

    def run():
        registry._REGISTRY = {name: registry._REGISTRY[name] for name in OURS}
        plugins._imported = set()

    return run


@pytest.fixture
def mine(tmp_path):
    """The path of a file that registers the encoder "mine"."""
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def source_of(path):
    return f"{path.name}:{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


class Plain(gac_sj.Encoder):
    """The current; nothing else.

    It is registered by tests.
    """

    def encode(self, x):
        return self.over_time(self.features(x))


class TestRegister:
    def test_registered_encoder_is_known_by_name(self):
        assert register_encoder("plain", in_comparison=False)(Plain) is Plain
        assert list_encoders() == [*OURS, "plain"]
        info = encoder_info("plain")
        assert (info.name, info.cls, info.neuron, info.in_comparison) == ("plain", Plain, "none", False)
        assert (info.forms, info.default_form, dict(info.options), info.shorthands) == ((), None, {}, {})
        assert isinstance(create_encoder("plain"), Plain)

    def test_help_is_the_first_line_of_the_docstring(self):
        register_encoder("plain")(Plain)
        register_encoder("helpful", help="given")(Plain)
        assert [encoder_info(name).help for name in ("plain", "helpful")] == ["The current; nothing else", "given"]

    def test_forms_options_and_shorthands_are_kept_and_not_shared(self):
        options, quick = {"form": "b", "depth": 3}, {"depth": 1}
        register_encoder("plain", forms=iter("ab"), options=options, shorthands={"quick": quick})(Plain)
        options["depth"] = quick["depth"] = 7
        info = encoder_info("plain")
        assert (info.forms, info.default_form, info.options["depth"]) == (("a", "b"), "b", 3)
        assert parse_encoder("plain:a,quick") == ("plain", "a", {"depth": 1})
        with pytest.raises(TypeError):
            info.options["depth"] = 7

    @pytest.mark.parametrize(
        "register, words",
        [
            (lambda: register_encoder("gac")(Plain), "'gac' is already registered .*choose another name"),
            (lambda: register_encoder("my encoder"), "^name .*'my encoder'"),
            (lambda: register_encoder("a:b"), "^name .*'a:b'"),
            (lambda: register_encoder(""), "^name .*''"),
            (lambda: register_encoder(Plain), "^name .*Plain"),
            (lambda: register_encoder("mine")(nn.Linear), r"Linear .*gac_sj\.Encoder.*'mine'.*derive it"),
            (lambda: register_encoder("mine")(Plain()), r"Plain .*gac_sj\.Encoder.*'mine'"),
            (lambda: register_encoder("mine")(len), r"builtin_function_or_method .*gac_sj\.Encoder"),
            (lambda: register_encoder("mine", forms=["a", "b"]), "^forms .*options={'form': NAME}"),
            (lambda: register_encoder("mine", forms=["a"], options={"form": "c"}), "^forms .*options={'form': NAME}"),
            (lambda: register_encoder("mine", neuron="perhaps"), "^neuron .*'perhaps'.*required, optional, none"),
        ],
    )
    def test_bad_registrations_are_refused(self, register, words):
        with pytest.raises(UsageError, match=words):
            register()
        assert list_encoders() == OURS

    def test_second_registration_names_the_first_class(self):
        register_encoder("plain")(Plain)
        with pytest.raises(UsageError, match=r"'plain' is already registered \(.*test_registry\.Plain\)"):
            register_encoder("plain")(Plain)
        assert list_encoders() == [*OURS, "plain"]


class TestLookUp:
    def test_encoders_of_the_package_have_the_constant_names(self):
        assert {DEFAULT_ENCODER, BASELINE_ENCODER} < set(OURS)
        assert encoder_info(DEFAULT_ENCODER).cls is gac_sj.GatedAttentionCoding
        assert encoder_info(BASELINE_ENCODER).cls is gac_sj.DirectCoding

    @pytest.mark.parametrize("call", [encoder_info, create_encoder, parse_encoder])
    @pytest.mark.parametrize("name, near", [("latenzy", "latency"), ("direct_lief", "direct_lif"), ("xyz", None)])
    def test_unknown_names_list_the_registered_ones_and_the_nearest(self, call, name, near):
        register_encoder("plain")(Plain)
        with pytest.raises(UsageError, match=f"^encoder .*'{name}'") as caught:
            call(name)
        assert caught.value.argument == "encoder"
        assert list(caught.value.options) == [*OURS, "plain"]
        assert all(other in str(caught.value) for other in list_encoders())
        assert ("did you mean" in str(caught.value)) == (near is not None)
        assert near is None or f"did you mean '{near}'?" in str(caught.value)

    def test_find_encoder_returns_none_for_unknown_names(self):
        assert find_encoder("xyz") is None
        assert find_encoder("gac") is encoder_info("gac")

    def test_explicit_options_replace_the_registered_ones(self):
        assert create_encoder("gac").form == encoder_info("gac").default_form
        assert create_encoder("gac", form="reference", T=2).form == "reference"
        assert create_encoder("direct_lif").neuron is not None
        assert create_encoder("direct_lif", neuron=None).neuron is None


def names_with_options():
    """Every registered form and shorthand by name, and keywords of every kind."""
    for info in map(encoder_info, OURS):
        yield info.name
        yield from (f"{info.name}:{word}" for word in (*info.forms, *info.shorthands))
        yield f"{info.name}:depth=1"
    yield from (
        "gac:current,temporal",
        "gac:reference,kernel_size=3,depth=1",
        "gac:gain=1.5",
        "gac:gain=1.0e-05",
        "gac:gain=null",
        "gac:attention=spatial,step_mode=s",
        "direct:block_attention=TCSA,spike_driven=true",
        "direct:blocks=[1, 2, 1],drop_rate=0.1",
        "direct:name='3'",
    )


class TestNames:
    @pytest.mark.parametrize("text", list(names_with_options()))
    def test_label_is_read_back_as_the_same_encoder(self, text):
        name, form, options = parse_encoder(text)
        label = encoder_label(name, form, options)
        default = encoder_info(name).default_form
        again, other_form, other_options = parse_encoder(label)
        assert (again, other_form or default, other_options) == (name, form or default, options)
        assert [type(value) for value in other_options.values()] == [type(value) for value in options.values()]
        assert encoder_label(again, other_form, other_options) == label

    @pytest.mark.parametrize(
        "text, expected",
        [
            ("gac", ("gac", None, {})),
            ("gac:current", ("gac", "current", {})),
            ("gac:temporal", ("gac", None, {"attention": "temporal"})),
            ("gac:spatial,reference,gain=2", ("gac", "reference", {"attention": "spatial", "gain": 2})),
            ("direct:spike_driven=true,name=", ("direct", None, {"spike_driven": True, "name": None})),
            ("direct:blocks=[1, 2, 1],depth=1", ("direct", None, {"blocks": [1, 2, 1], "depth": 1})),
        ],
    )
    def test_options_are_read_as_forms_shorthands_and_yaml(self, text, expected):
        assert parse_encoder(text) == expected

    @pytest.mark.parametrize(
        "text",
        [
            *("gac:", "gac:nope", "gac:=3", "gac:current,", "gac:gain={", "gac:current,reference"),
            *("gac:temporal,spatial", "gac:attention=both,temporal", "direct:reference", "direct:spatial"),
        ],
    )
    def test_unreadable_options_are_refused(self, text):
        with pytest.raises(UsageError, match=r"^encoder ") as caught:
            parse_encoder(text)
        name = text.partition(":")[0]
        assert repr(text) in str(caught.value) and f"{name}:KEYWORD=VALUE" in str(caught.value)
        assert all(f"{name}:{word}" in str(caught.value) for word in encoder_info(name).forms)

    @pytest.mark.parametrize(
        "name, form, options, label",
        [
            ("gac", "low_threshold", {}, "gac"),
            ("gac", "current", {"gain": 1.5}, "gac:current,gain=1.5"),
            ("gac", None, {"spike_driven": True}, "gac:spike_driven=True"),
            ("direct", "reference", {}, "direct"),
            ("somebody_elses", "big", {"depth": 1}, "somebody_elses:big,depth=1"),
            ("somebody_elses", None, {}, "somebody_elses"),
        ],
    )
    def test_label_leaves_out_defaults(self, name, form, options, label):
        """The form of an encoder without forms is the network's; unregistered names come from rows of others."""
        assert encoder_label(name, form, options) == label


class TestPixelRange:
    def test_encoders_of_pixels_need_the_unit_range(self):
        needed = {name for name in OURS if encoder_info(name).needs_unit_range}
        assert needed == {"poisson", "latency", "weighted_phase"}

    @pytest.mark.parametrize("needs_unit_range", [True, False])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_networks_normalise_unless_the_encoder_needs_the_unit_range(self, needs_unit_range, channels):
        @register_encoder("plain", needs_unit_range=needs_unit_range)
        class Derived(Plain):
            pass

        assert encoder_info("plain").needs_unit_range == Derived.needs_unit_range == needs_unit_range
        assert not Plain.needs_unit_range
        given = {"mean": (0.3,) * channels, "std": (0.4,) * channels}
        model = timm.create_model(SMALL, encoder="plain", in_chans=channels, pretrained_cfg_overlay=given)
        expected = {"mean": (0.0,) * channels, "std": (1.0,) * channels} if needs_unit_range else given
        assert {name: tuple(model.pretrained_cfg[name]) for name in given} == expected


class TestSource:
    def test_encoders_of_the_package_have_none(self):
        assert {encoder_info(name).source for name in OURS} == {None}
        assert Settings(encoder="direct").key()["encoder_source"] is None

    def test_source_is_the_file_and_its_digest(self, mine):
        import_plugins([str(mine)])
        assert encoder_info("mine").source == source_of(mine)

    def test_source_of_an_importable_module_is_its_name_and_digest(self, mine, monkeypatch):
        package = mine.parent / "package_of_mine"
        package.mkdir()
        (package / "__init__.py").touch()
        mine.rename(package / "encoder.py")
        monkeypatch.syspath_prepend(mine.parent)
        import_plugins(["package_of_mine.encoder"])
        digest = source_of(package / "encoder.py").partition(":")[2]
        assert encoder_info("mine").source == f"package_of_mine.encoder:{digest}"

    def test_settings_record_it_in_key_and_name(self, mine, forget):
        import_plugins([str(mine)])
        first = Settings(encoder="mine")
        assert first.key()["encoder_source"] == source_of(mine)
        assert Settings(**first.key()) == first
        forget()
        mine.write_text(f"{MINE}\n# another version\n")
        import_plugins([str(mine)])
        second = Settings(encoder="mine")
        assert second.key()["encoder_source"] == source_of(mine) != first.encoder_source
        assert second.name() != first.name()
        with pytest.raises(UsageError, match=r"'mine'.*mine\.py.*SHA-256"):
            Settings(**first.key())

    def test_matching_sources_are_accepted(self, mine):
        require_source("gac", None)
        import_plugins([str(mine)])
        require_source("mine", source_of(mine))

    def test_missing_and_differing_sources_are_refused(self, mine, forget):
        with pytest.raises(UsageError, match=r"^encoder .*'mine'.*choose one of gac"):
            require_source("mine", None)
        with pytest.raises(UsageError, match=r"'mine' is defined in mine\.py.*add --import mine\.py"):
            require_source("mine", source_of(mine))
        import_plugins([str(mine)])
        with pytest.raises(UsageError, match=rf"'mine'.*0123456789ab.*{source_of(mine)}.*import the mine\.py"):
            require_source("mine", "mine.py:0123456789ab")
        forget()
        register_encoder("mine")(type("Mine", (Plain,), {"__module__": "gac_sj.nothing"}))
        with pytest.raises(UsageError, match=r"comes from gac_sj"):
            require_source("mine", source_of(mine))


class TestWeights:
    @pytest.fixture
    def folder(self, mine, tmp_path):
        """The weights of a network with "mine"."""
        import_plugins([str(mine)])
        model = timm.create_model(SMALL, T=2, encoder="mine", factor=0.5).eval()
        save_pretrained(model, tmp_path / "net")
        return tmp_path / "net"

    def test_network_with_a_users_encoder_is_loaded(self, folder, mine):
        loaded = load_pretrained(folder)
        assert type(loaded.encoder) is encoder_info("mine").cls
        assert loaded.encoder.scale.flatten().tolist() == [0.5, 0.5]
        save_pretrained(loaded, folder.with_name("again"))
        assert (folder.with_name("again") / "config.json").read_text() == (folder / "config.json").read_text()
        assert source_of(mine) in (folder / "config.json").read_text()

    def test_encoder_that_was_not_imported_is_named_with_its_file(self, folder, mine, forget):
        forget()
        with pytest.raises(UsageError, match=r"'mine'.*mine\.py.*add --import mine\.py"):
            load_pretrained(folder)
        import_plugins([str(mine)])
        assert isinstance(load_pretrained(folder).encoder, gac_sj.Encoder)

    def test_encoder_of_another_version_is_refused(self, folder, mine, forget):
        digest = source_of(mine).partition(":")[2]
        forget()
        mine.write_text(MINE.replace("self.scale *", "2 * self.scale *"))
        import_plugins([str(mine)])
        with pytest.raises(UsageError, match=rf"'mine'.*{digest}.*{source_of(mine)}"):
            load_pretrained(folder)

    def test_network_of_the_package_records_no_source(self, tmp_path):
        save_pretrained(timm.create_model(SMALL, T=2), tmp_path / "net")
        assert "encoder_source" not in (tmp_path / "net" / "config.json").read_text()


class TestImportPlugins:
    def test_imported_encoder_works_in_networks(self, mine):
        import_plugins([str(mine)])
        model = timm.create_model(SMALL, T=2, encoder="mine")
        assert model(torch.rand(2, 3, 16, 16)).shape == (2, 10)
        model(torch.rand(2, 3, 16, 16)).sum().backward()
        assert model.encoder.scale.grad.any()
        assert gac_sj.list_encoders()[-1] == "mine"

    def test_same_file_is_run_once(self, mine, monkeypatch):
        monkeypatch.chdir(mine.parent)
        import_plugins(["mine.py", str(mine), "./mine.py"])
        import_plugins([str(mine)])
        assert list_encoders() == [*OURS, "mine"]

    def test_same_module_is_run_once(self, mine, monkeypatch):
        mine.rename(mine.with_name("module_of_mine.py"))
        monkeypatch.syspath_prepend(mine.parent)
        import_plugins(["module_of_mine", "module_of_mine"])
        import_plugins(["module_of_mine"])
        assert list_encoders() == [*OURS, "mine"]

    @pytest.mark.parametrize("place", ["absent.py", "no/such/folder/file.py", "absent_module", "absent.module"])
    def test_places_that_do_not_exist_are_refused(self, place, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError, match=r"^import .*does not exist.*pass the path") as caught:
            import_plugins([place])
        assert repr(place) in str(caught.value) and caught.value.argument == "import"

    @pytest.mark.parametrize(
        "text, words",
        [
            ("raise RuntimeError('It broke. Badly.')", r"RuntimeError \(It broke\).*correct the file"),
            ("import nothing_of_that_name", r"ModuleNotFoundError .*nothing_of_that_name"),
            ("def f(:", "SyntaxError"),
            ("open('nothing_there')", "FileNotFoundError"),
            ("import gac_sj", "registers no encoder.*register_encoder"),
            ("", "registers no encoder.*register_encoder"),
            (MINE.replace('"mine"', '"gac"'), "'gac' is already registered.*choose another name"),
            (MINE.replace('"mine"', '"my encoder"'), "name .*'my encoder'"),
            (MINE.replace("(gac_sj.Encoder)", "(nn.Module)"), r"Mine .*gac_sj\.Encoder"),
        ],
        ids=["raises", "imports", "syntax", "reads", "nothing", "empty", "taken", "no word", "no encoder"],
    )
    def test_failing_files_are_refused_and_can_be_corrected(self, text, words, mine, tmp_path):
        path = tmp_path / "bad.py"
        path.write_text(text)
        for _ in range(2):
            with pytest.raises(UsageError, match=rf"^import .*bad\.py: .*{words}") as caught:
                import_plugins([str(path)])
            assert "\n" not in str(caught.value) and list_encoders() == OURS
        path.write_text(MINE)
        import_plugins([str(path)])
        assert list_encoders() == [*OURS, "mine"]

    def test_file_that_raises_after_registering_leaves_nothing(self, tmp_path):
        path = tmp_path / "bad.py"
        path.write_text(f"{MINE}\nraise RuntimeError('too late')\n")
        with pytest.raises(UsageError, match="too late"):
            import_plugins([str(path)])
        assert list_encoders() == OURS
