"""What timm asks of every network: its own tests and scripts, restated for the names of this package.

Of timm 1.0.31's ``tests/test_models.py``, forward, backward, default configurations, feature maps, intermediates and
pretrained weights are here, for every name. What contradicts the layout ``[T, N, ...]`` is restated:

- ``forward_features`` and ``forward_head(pre_logits=True)`` have the steps in front of what timm expects; ``forward``,
  with or without classifier and pooling, returns their mean over time, which has timm's shape.
- Feature maps have timm's shape with ``time="mean"``, and the steps in front without it.

What does not apply:

- TorchScript and FX (``test_model_forward_torchscript``, ``..._fx``): neurons have state, and operators choose a path
  at the call. ``torch.compile(fullgraph=True)``, ``torch.export`` and ONNX are tested elsewhere.
- Weights on the Hub (``test_model_inference``, ``..._load_pretrained``): there are none of these networks; a folder of
  weights takes their place.
- Of the scripts: ``--test-pool`` averages ``forward_features`` as ``[N, C, h, w]``, ``--split-bn`` splits the first
  dimension, ``--torchscript`` as above; ``--sync-bn`` needs ``gac_sj.convert_sync_batchnorm`` (the error says so).
"""

import math
from argparse import Namespace

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.networks import skip_where_layers_cannot_be_traced
from timm.data import resolve_data_config, resolve_input_data_config
from timm.layers import convert_sync_batchnorm as timms_converter
from timm.layers import set_fast_norm
from timm.models import (
    FeatureInfo,
    get_model_args,
    group_parameters,
    load_checkpoint,
    model_parameters,
    reparameterize_model,
    resolve_model_input_args,
    resume_checkpoint,
    safe_model_name,
)
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask
from timm.utils import AverageMeter, CheckpointSaver, ModelEmaV3, NativeScaler, accuracy
from torch import nn

import gac_sj
from gac_sj.checkpoint import save_pretrained
from gac_sj.encoders.base import attention_weights
from gac_sj.models import MODULES, MSBlock
from gac_sj.models.drop_path import DropPath

NAMES = timm.list_models(module=MODULES)
EVENTS = "ma_snn"
#: For both releases of SpikingJelly; the others differ in depth or in the encoder.
OF_EACH_KIND = {"gac_ms_resnet8_cifar", "gac_ms_resnet18", "gac_max_resnet18_cifar", "att_ms_resnet8_cifar", EVENTS}


def few(name):
    """Keywords for all layers of a network, but few channels and steps."""
    channels = (8, 8, 16) if "cifar" in name or name == EVENTS else (8, 8, 8, 16)
    return {"T": 2, "channels": channels} | ({"hidden": 12} if name == EVENTS else {"stem_channels": 8})


def narrow(name, **options):
    size = {"img_size": 32} if name == EVENTS else {}
    return timm.create_model(name, **few(name) | size | options)


def images(model, n=2):
    return torch.rand(n, model.in_chans, 32, 32)


def on_every_name(function):
    once = {name: [pytest.mark.one_release] * (name not in OF_EACH_KIND) for name in NAMES}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks) for name, marks in once.items()])(function)


@pytest.mark.medium
@on_every_name
def test_forward(name):
    model = narrow(name).eval()
    x = images(model)
    logits = model(x)
    assert logits.shape == (2, model.num_classes) and logits.isfinite().all()
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), logits)


@pytest.mark.medium
@on_every_name
def test_backward(name):
    model = narrow(name, num_classes=42).train()
    logits = model(images(model))
    logits.mean().backward()
    assert logits.shape == (2, 42) and logits.isfinite().all()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.medium
@on_every_name
def test_default_configuration(name):
    """At full size; tensors without memory have shapes."""
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        config, T = model.default_cfg, model.T
        keys = model.state_dict().keys()
        x = torch.rand(1, *config["input_size"])
        assert min(model.num_classes, model.num_features, model.head_hidden_size) > 0
        features = model.forward_features(x)
        assert features.shape == (T, 1, model.num_features, *config["pool_size"])
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (T, 1, model.head_hidden_size)
        model.reset_classifier(0)
        assert model.num_classes == 0
        assert model(x).shape == pooled.shape[1:]
        model.reset_classifier(0, "")
        assert model.forward_head(features).shape == features.shape[1:]
        model.reset_classifier(3, "avg")
        assert model.forward_head(features).shape == (1, 3)
        bare = timm.create_model(name, num_classes=0, global_pool="")
        assert bare.forward_head(features).shape == features.shape[1:]
    assert {f"{config[part]}.weight" for part in ("first_conv", "classifier")} <= keys
    assert model.get_classifier(name_only=True) == config["classifier"]
    assert model.get_classifier() is model.get_submodule(config["classifier"])


@pytest.mark.medium
@on_every_name
def test_feature_maps_have_the_announced_shapes(name):
    model = narrow(name, features_only=True).eval()
    info = model.feature_info
    assert len(info.channels()) >= 3
    averaged = narrow(name, features_only=True, time="mean").eval()
    averaged.load_state_dict(model.state_dict())
    for extractor, steps in ((model, (2,)), (averaged, ())):
        maps = extractor(images(model))
        assert len(maps) == len(info.channels())
        for channels, reduction, found in zip(info.channels(), info.reduction(), maps):
            side = math.ceil(32 / reduction)
            assert found.shape == (*steps, 2, channels, side, side) and found.isfinite().all()
    # trained in data parallel, each parameter needs a gradient
    sum(level.sum() for level in model.train()(images(model))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.medium
@on_every_name
def test_intermediates_are_the_outputs_of_encoder_and_stages(name):
    model = narrow(name).eval()
    x, seen = images(model), []
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    hooks = [
        model.get_submodule(module).register_forward_hook(lambda _, __, out: seen.append(out))
        for module in info.module_name()
    ]
    features = model.forward_features(x)
    for hook in hooks:
        hook.remove()
    output, maps = model.forward_intermediates(x)
    assert torch.equal(output, features)
    assert len(maps) == len(seen) and all(map(torch.equal, maps, seen))
    only = model.forward_intermediates(x, [-1, 0], norm=True, intermediates_only=True, time="mean")
    torch.testing.assert_close(only, [seen[0].mean(0), features.mean(0)])
    last, early = model.forward_intermediates(x, [0, 1], stop_early=True)
    assert torch.equal(last, seen[1]) and all(map(torch.equal, early, seen[:2]))
    assert torch.equal(*model.get_intermediate_layers(x, 1), seen[-1])
    model.set_grad_checkpointing()
    torch.testing.assert_close(model.forward_intermediates(x), (output, maps))
    # the network is the same with less of it
    assert model.prune_intermediate_layers([0, -2]) == [0, len(seen) - 2]
    assert torch.equal(model.forward_features(x), seen[-2]) and model.num_features == seen[-2].shape[2]
    assert torch.equal(model.forward_intermediates(x, [0, -1], intermediates_only=True)[1], seen[-2])


@pytest.mark.medium
@on_every_name
def test_pretrained_weights_load_into_other_inputs_and_heads(name, tmp_path):
    model = narrow(name)
    save_pretrained(model, tmp_path / "net")
    source, first = f"local-dir:{tmp_path / 'net'}", model.pretrained_cfg["first_conv"]
    weight = model.get_submodule(first).weight
    for classes in (5, 0):
        adapted = timm.create_model(source, pretrained=True, in_chans=1, num_classes=classes).eval()
        torch.testing.assert_close(adapted.get_submodule(first).weight, weight.sum(1, keepdim=True))
        assert adapted(images(adapted)).shape == (2, classes or adapted.head_hidden_size)
    features = timm.create_model(source, pretrained=True, features_only=True, out_indices=(0, 1)).eval()
    maps = model.eval().forward_intermediates(images(model) * 0 + 0.7, (0, 1), intermediates_only=True)
    assert all(map(torch.equal, features(images(model) * 0 + 0.7), maps))
    assert features.pretrained_cfg["input_size"] == model.pretrained_cfg["input_size"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if "104" not in name])
@pytest.mark.one_release
def test_networks_of_full_size(name):
    model = timm.create_model(name, num_classes=42)
    size = model.default_cfg["input_size"][1:] if model.default_cfg.get("fixed_input_size") else (32, 32)
    x = torch.rand(2, model.in_chans, *size)
    model(x).mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.eval()(x).isfinite().all()


#: What timm's scripts pass to every network; None is left out by ``create_model``.
SCRIPT = dict(
    drop_rate=0.0, drop_path_rate=None, drop_block_rate=None, global_pool=None, bn_momentum=None, bn_eps=None,
    scriptable=False, checkpoint_path="",
)  # fmt: skip
ARGUMENTS = Namespace(
    opt="adamw", lr=1e-3, weight_decay=0.05, momentum=0.9, opt_eps=None, opt_betas=None, layer_decay=0.75, model="net",
    grad_checkpointing=True,
)  # fmt: skip


@pytest.mark.medium
@on_every_name
def test_timms_scripts_make_these_calls(name, tmp_path):
    """``train.py``, one step with layer decay, EMA and a checkpoint, then ``validate.py``, which reads it."""
    classes = timm.get_pretrained_cfg(name).num_classes
    set_fast_norm(False)
    request = {"img_size": 32} if name == EVENTS else {"in_chans": 3}
    model = timm.create_model(**resolve_model_input_args(name, request, num_classes=None, **SCRIPT, **few(name)))
    assert model.num_classes == classes
    with torch.no_grad():
        model.get_classifier().weight.mul_(0.5)
        model.get_classifier().bias.mul_(0.5)
    model.set_grad_checkpointing(enable=True)
    assert safe_model_name(name) == name
    data = resolve_data_config({}, model=model, verbose=True)
    assert data == resolve_input_data_config(model, {}) and len(data["mean"]) == data["input_size"][0] == model.in_chans
    model.to(device=torch.device("cpu"), dtype=None)
    model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, **optimizer_kwargs(cfg=ARGUMENTS))
    ema = ModelEmaV3(model, decay=0.9, use_warmup=True)
    task = ClassificationTask(model, criterion_kwargs=dict(smoothing=0.1), verbose=False)
    schedule, _ = create_scheduler_v2(optimizer, num_epochs=2, warmup_epochs=1)
    schedule.step(0)
    model.train()
    x, target = torch.rand(2, model.in_chans, 32, 32), torch.arange(2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = task(x, target)["loss"]
    NativeScaler(device="cpu")(
        loss, optimizer, clip_grad=1.0, clip_mode="norm", parameters=model_parameters(model, exclude_head=False)
    )
    ema.update(model, step=1)
    meter = AverageMeter()
    meter.update(loss.item(), x.size(0))
    assert math.isfinite(meter.avg)
    saver = CheckpointSaver(model, optimizer, args=ARGUMENTS, model_ema=ema, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=1.0)
    resume_checkpoint(model, str(tmp_path / "last.pth.tar"), optimizer=optimizer, log_info=False)

    other = timm.create_model(**resolve_model_input_args(name, request, num_classes=None, **few(name)))
    load_checkpoint(other, str(tmp_path / "last.pth.tar"), use_ema=True)
    other = reparameterize_model(other).to(memory_format=torch.channels_last).eval()
    with torch.inference_mode():
        logits = other(x)
    torch.testing.assert_close(logits, ema.module.eval()(x))
    assert F.cross_entropy(logits, target).isfinite()
    assert len(accuracy(logits, target, topk=(1, 5))) == 2


def decays(optimizer, model):
    """The weight decay of each parameter."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("features_only", [False, True])
def test_timms_optimisers_do_not_decay_the_gate(features_only):
    model = narrow("gac_ms_resnet8_cifar", features_only=features_only)
    gate = {name for name, _ in model.named_parameters() if ".gau." in f".{name}"}
    assert len(gate) == 4 and model.no_weight_decay() == gate
    for options in ({"filter_bias_and_bn": False}, {"filter_bias_and_bn": True}, {"layer_decay": 0.5}):
        found = decays(create_optimizer_v2(model, "sgd", weight_decay=0.1, **options), model)
        kept = {name for name, decay in found.items() if not decay}
        vectors = {name for name, parameter in model.named_parameters() if parameter.dim() < 2}
        assert kept == (gate if options == {"filter_bias_and_bn": False} else gate | vectors)


def test_the_published_gate_and_networks_without_one_decay_everything():
    assert narrow("gac_ms_resnet8_cifar", form="reference").no_weight_decay() == set()
    assert narrow("att_ms_resnet8_cifar").no_weight_decay() == set()


def test_the_gate_is_found_in_any_network():
    own = nn.Sequential(nn.Sequential(gac_sj.GatedAttentionCoding(T=2, channels=4, attention="temporal")))
    assert attention_weights(own) == {"0.0.gau.temporal.squeeze.weight", "0.0.gau.temporal.excite.weight"}
    assert attention_weights(own[0][0]) == {"gau.temporal.squeeze.weight", "gau.temporal.excite.weight"}


@on_every_name
def test_layer_decay_grows_from_the_encoder_to_the_head(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    blocks = sum(len(stage) for stage in model.stages)
    for coarse, groups in ((True, len(model.stages)), (False, blocks)):
        layers = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert layers.keys() == dict(model.named_parameters()).keys()
        assert {layers[key] for key in layers if key.startswith("encoder.")} == {0}
        assert {layers[key] for key in layers if key.startswith(("head.", "hidden."))} == {groups + 1}
        assert max(layers[key] for key in layers if key.startswith(("stages.", "attention."))) == groups


def test_drop_path_leaves_out_branches_of_whole_samples_at_all_steps():
    torch.manual_seed(0)
    layer = DropPath(0.25)
    dropped = layer(torch.ones(4, 400, 3, 2, 2))
    assert torch.equal(dropped, dropped[:1, :, :1, :1, :1].expand_as(dropped))
    assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert 0.15 < (dropped == 0).float().mean() < 0.35
    x = torch.randn(4, 2, 3, 2, 2)
    assert layer.eval()(x) is x
    block = MSBlock(3, 5, 2, gac_sj.LIFNode, drop_path=0.999999)
    assert torch.equal(block(x), block.shortcut(x))


def test_drop_path_rates_grow_with_depth_and_do_not_change_evaluation():
    model = narrow("ms_resnet18_cifar", drop_path_rate=0.7)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in list(stage)[stage is model.stages[0] :]]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert isinstance(model.stages[0][0].drop_path, nn.Identity)
    plain = narrow("ms_resnet18_cifar")
    plain.load_state_dict(model.state_dict())
    x = images(model)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    for network in (model, plain):
        network.train()
    assert torch.equal(plain(x), plain(x)) and not torch.equal(model(x), model(x))


@pytest.mark.medium
def test_masks_and_maps_are_the_same_under_compilation_without_graph_breaks():
    skip_where_layers_cannot_be_traced()
    model = narrow("ms_resnet8_cifar", drop_path_rate=0.5).train()
    x = images(model, 4)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    results = []
    for network in (model, compiled):
        torch.manual_seed(1)
        results.append(network(x))
    torch.testing.assert_close(*results)
    maps = narrow("gac_ms_resnet8_cifar", features_only=True, time="mean").eval()
    torch.testing.assert_close(torch.compile(maps, fullgraph=True, backend="eager")(x), maps(x))


def test_input_size_is_what_timms_pipeline_delivers():
    model = narrow("ms_resnet18", img_size=(48, 64))
    assert resolve_data_config({}, model=model)["input_size"] == (3, 48, 64)
    assert get_model_args(model)["img_size"] == (48, 64)
    model.set_input_size(64)
    assert resolve_data_config({}, model=model)["input_size"] == (3, 64, 64) and model.img_size == (64, 64)
    assert resolve_input_data_config(model, {})["input_size"] == (3, 64, 64)


@torch.no_grad()
def test_the_first_linear_layer_of_ma_snn_is_resized_with_its_frames(tmp_path):
    model = narrow(EVENTS).eval()
    before, features = model.hidden.linear, torch.rand(2, 3, 16, 1, 1)
    expected = before(features.expand(-1, -1, -1, 2, 2).flatten(2))
    model.set_input_size((48, 64))
    linear = model.hidden.linear
    torch.testing.assert_close(linear(features.expand(-1, -1, -1, 3, 4).flatten(2)), expected)
    assert model(torch.rand(2, 1, 2, 48, 64)).shape == (1, 11)
    assert resolve_input_data_config(model, {})["input_size"] == (2, 48, 64)
    weight = linear.weight.clone()
    model.set_input_size((48, 64))
    assert torch.equal(model.hidden.linear.weight, weight)
    save_pretrained(model, tmp_path / "net")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, img_size=(16, 32), num_classes=3)
    torch.testing.assert_close(loaded.hidden.linear(features.expand(-1, -1, -1, 1, 2).flatten(2)), expected)
    with pytest.raises(ValueError, match=r"^img_size .*multiple of 16.*40"):
        model.set_input_size(40)


def test_without_pooling_the_first_linear_layer_of_ma_snn_goes_and_comes_back():
    model = narrow(EVENTS).eval()
    model.reset_classifier(0, "")
    assert not any(parameter.requires_grad for parameter in model.hidden.parameters())
    assert model.head_hidden_size == model.num_features == 16
    model.reset_classifier(4, "avg")
    assert model.head_hidden_size == 12 and not model.hidden.training and not model.head.training
    assert model(images(model)).shape == (2, 4)


def test_spike_driven_networks_return_maps_without_pooling():
    model = narrow("ms_resnet8_cifar", spike_driven=True, num_classes=0, global_pool="").eval()
    x = images(model)
    assert torch.equal(model(x), model.forward_features(x).mean(0))


@pytest.mark.parametrize("name", ["gac_ms_resnet8_cifar", EVENTS])
@pytest.mark.parametrize("converter", [nn.SyncBatchNorm.convert_sync_batchnorm, timms_converter])
def test_other_converters_name_ours_which_finishes(name, converter):
    model = narrow(name)
    plain = narrow(name).eval()
    plain.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=r"torch's SyncBatchNorm.*gac_sj\.convert_sync_batchnorm"):
        converter(nn.Sequential(model))
    assert gac_sj.convert_sync_batchnorm(model) is model
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert {type(norm) for norm in norms} == {gac_sj.SyncBatchNorm}
    x = images(model)
    assert torch.equal(model.eval()(x), plain(x))


@pytest.mark.parametrize(
    "options,words",
    [
        (dict(num_classes="10"), "^num_classes .*an integer.*'10'"),
        (dict(num_classes=2.0), r"^num_classes .*2\.0"),
        (dict(num_classes=True), "^num_classes .*True"),
        (dict(global_pool="max"), "^global_pool .*'max'"),
        (dict(global_pool=""), "^global_pool .*num_classes=0"),
        (dict(drop_path_rate=1.0), r"^drop_path_rate .*less than 1.*1\.0"),
        (dict(drop_rate="a"), "^drop_rate .*less than 1.*'a'"),
        (dict(img_size=(1, 2, 3)), r"^img_size .*\(1, 2, 3\)"),
        (dict(img_size=0), "^img_size .*0"),
        (dict(time="mean"), "^time is a keyword of neither"),
        (dict(features_only=True, time="sum"), "^time .*'mean'.*'sum'"),
        (dict(features_only=True, out_indices=(7,)), r"^indices .*0 to 3.*\(7,\)"),
        (dict(features_only=True, out_indices=()), r"^indices .*\(\)"),
        (dict(features_only=True, feature_cls="list"), "^feature_cls .*'getter'.*'list'"),
        (dict(features_only=True, feature_cfg=dict(output_fmt="NHWC")), "^output_fmt .*'NHWC'"),
    ],
)
def test_bad_arguments_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        narrow("gac_ms_resnet8_cifar", **options)


def test_a_network_without_shortcuts_has_no_stochastic_depth():
    with pytest.raises(ValueError, match=r"^drop_path_rate .*0 for MASNN.*0\.1"):
        narrow(EVENTS, drop_path_rate=0.1)
    assert narrow(EVENTS, drop_path_rate=0.0, drop_rate=0.5).dropout.p == 0.5


def test_levels_can_be_chosen_from_the_end_and_by_number():
    model = narrow("gac_ms_resnet8_cifar", features_only=True, out_indices=2, feature_cls="getter")
    assert model.feature_info.module_name() == ["stages.1", "stages.2"]
    assert narrow("ms_resnet8_cifar", features_only=True, out_indices=[-4]).feature_info.channels() == [8]
    spikes = narrow("ms_resnet8_cifar", features_only=True, feature_cfg=dict(norm=True)).eval()
    assert set(spikes(torch.rand(1, 3, 16, 16))[-1].unique().tolist()) <= {0.0, 1.0}
