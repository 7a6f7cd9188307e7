"""torch.compile of what training runs: one graph for network and loss, which later steps run again, and its setting."""

import copy

import pytest
import timm
import torch
from helpers.networks import skip_where_layers_cannot_be_traced, wake

from gac_sj._utils.errors import UsageError
from gac_sj.encoders import parse_encoder
from gac_sj.results.columns import parse
from gac_sj.results.schema import RUNS
from gac_sj.training import step
from gac_sj.training.objective import Objective
from gac_sj.training.settings import Settings

IMAGES, FRAMES = (2, 3, 16, 16), (2, 2, 2, 32, 32)
SLOW_ONCE = [pytest.mark.slow, pytest.mark.one_release]


@pytest.mark.parametrize(
    ("model", "encoder", "shape", "changes"),
    [
        pytest.param("ms_resnet8_cifar", "gac", IMAGES, {"amp": "bf16"}, marks=pytest.mark.medium),
        pytest.param("ms_resnet8_cifar", "gac:lite,gate=before", IMAGES, {"amp": "bf16"}, marks=pytest.mark.medium),
        pytest.param("ms_resnet8_cifar", "direct", IMAGES, {"loss": "tet"}, marks=SLOW_ONCE),
        pytest.param("att_ms_resnet8_cifar", "gac", IMAGES, {}, marks=pytest.mark.slow),
        pytest.param("att_ms_resnet8_cifar", "direct", IMAGES, {}, marks=SLOW_ONCE),
        pytest.param("ma_snn", "gac", FRAMES, {}, marks=pytest.mark.medium),
        pytest.param("ma_snn", "direct", FRAMES, {}, marks=SLOW_ONCE),
    ],
)
def test_a_step_is_one_graph(model, encoder, shape, changes, monkeypatch):
    skip_where_layers_cannot_be_traced()
    monkeypatch.setenv("GAC_SJ_OPS", "torch")
    torch._dynamo.reset()
    encoder, form, options = parse_encoder(encoder)
    options |= {"img_size": shape[-2:]} if model == "ma_snn" else {}
    network = timm.create_model(model, T=2, encoder=encoder, form=form, num_classes=10, drop_rate=0.0, **options)
    images, labels = torch.randn(shape), torch.eye(10)[:2]
    wake(network, images).train()
    plain = Objective(network, Settings(model=model, encoder=encoder, T=2, **changes))
    compiled = copy.deepcopy(plain)
    backend = "aot_eager" if changes else "eager"  # the backward pass as well
    forwards = plain, torch.compile(compiled, fullgraph=True, backend=backend)
    for again in range(2):
        with torch._dynamo.config.patch(error_on_recompile=bool(again)):
            losses = [forward(images, labels)[0] for forward in forwards]
        for loss in losses:
            loss.backward()
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-3)
    for (name, ours), theirs in zip(compiled.named_parameters(), plain.parameters()):
        assert (ours.grad - theirs.grad).norm() <= 2e-2 * theirs.grad.norm() + 1e-4, name
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-3)


@pytest.mark.one_release
class TestSetting:
    @pytest.mark.parametrize(
        ("given", "kept", "mode"),
        [
            (False, False, None),
            ("off", False, None),
            (True, True, "default"),
            ("default", True, "default"),
            ("max-autotune", "max-autotune", "max-autotune"),
        ],
    )
    def test_values(self, given, kept, mode, monkeypatch):
        """Rows, keys and names of runs with true and false stay what they were."""
        settings = Settings(compile=given)
        assert settings.compile == kept and settings.name() == Settings(compile=kept).name()
        (column,) = (each for each in RUNS.columns if each.name == "compile")
        assert parse({"compile": str(settings.compile)}, [column]) == {"compile": kept} and column.absent == "False"
        modes = []
        monkeypatch.setattr(torch, "compile", lambda module, mode: modes.append(mode) or module)
        compiled = step.compiled(torch.nn.Identity(), settings)
        assert modes == ([mode] if mode else []) and isinstance(compiled, torch.nn.Identity)

    def test_an_unknown_mode(self):
        with pytest.raises(UsageError, match="reduce-overhead"):
            Settings(compile="reduce_overhead")
