"""Equality with the published code: every recorded number of five networks, in float64."""

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import golden_values
from spikingjelly.activation_based import monitor, neuron

import gac_sj
from gac_sj.checkpoint import reference_names

# the names under which a whole network of the published code is created here
MODELS = {
    "cifar_ms_resnet18_direct_T4": "ms_resnet18_cifar",
    "cifar_ms_resnet18_gac_T4": "gac_ms_resnet18_cifar",
    "cifar_ms_resnet18_gac_T6": "gac_ms_resnet18_cifar",
    "imagenet_ms_resnet18_gac_T4_K4": "gac_ms_resnet18",
    "imagenet_ms_resnet34_gac_T4_K4": "gac_ms_resnet34",
}


def build(golden: dict):
    name = MODELS[golden["tag"]]
    model = timm.create_model(name, T=golden["T"], num_classes=golden["classes"], form="reference").double()
    gac_sj.checkpoint.load_reference_state_dict(model, golden_values.state_dict(golden))
    return model


def close(ours, golden, norm, what):
    """Within 1e-9 of the larger of the number's own magnitude and the norm of its tensor."""
    ours, golden = torch.as_tensor(ours, dtype=torch.float64), torch.as_tensor(golden, dtype=torch.float64)
    bound = 1e-9 * golden.abs().clamp_min(float(norm))
    assert ours.shape == golden.shape, what
    assert bool(((ours - golden).abs() <= bound).all()), f"{what}: {(ours - golden).abs().max()}"


#: one network takes less than a second
SMALL = "imagenet_ms_resnet18_gac_T4_K4"
PARAMS = [
    pytest.param(name, marks=pytest.mark.all_parameters if name == SMALL else pytest.mark.medium)
    for name in golden_values.NAMES
]


@pytest.fixture(scope="module", params=PARAMS)
def golden(request):
    return golden_values.load(request.param)


def test_every_golden_file_has_a_model():
    assert set(golden_values.NAMES) == set(MODELS)


def test_evaluation(golden):
    model = build(golden).eval()
    x, _ = golden_values.batch(golden)
    assert sum(p.numel() for p in model.parameters()) == golden["params"]
    rates = monitor.OutputMonitor(model, neuron.BaseNode, lambda spikes: spikes.mean().item())
    outputs = []
    model.encoder.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        logits = model.forward_sequence(x).transpose(0, 1)
    expected = torch.tensor(golden["eval_logits"], dtype=torch.float64)
    close(logits, expected, expected.norm(), "logits")

    published = dict(golden["eval_firing_rates"])
    # the published CIFAR code uses one module for the encoder's neuron, where there is one, and for the last
    *first, last = published.pop("spike", [None])
    published = [*first, *(rate for rates in published.values() for rate in rates), *([last] if last else [])]
    close(rates.records, published, 1.0, "firing rates")

    if "encoder_output" in golden:
        recorded = golden["encoder_output"]
        (sequence,) = outputs
        steps = sequence.flatten(1)
        assert list(sequence.shape) == recorded["shape_TNCHW"]
        close(steps.mean(1), recorded["mean_per_step"], steps.norm(), "encoder mean")
        close((steps != 0).double().mean(1), recorded["nonzero_per_step"], 1.0, "encoder non-zeros")
        close(steps.norm(dim=1), recorded["norm_per_step"], 0.0, "encoder norm")


@pytest.mark.parametrize("path", ["once", "general"])
def test_training_step(golden, path):
    """Loss, gradients and running statistics, on the image and on its repetition."""
    model = build(golden).train()
    x, y = golden_values.batch(golden)
    logits = model(x if path == "once" else x.repeat(golden["T"], 1, 1, 1, 1))
    loss = F.cross_entropy(logits, y)
    loss.backward()
    close(loss, golden["train_loss"], 0.0, "loss")
    expected = torch.tensor(golden["train_logits_mean"], dtype=torch.float64)
    close(logits, expected, expected.norm(), "logits")

    seen = set()
    for key, parameter in model.named_parameters():
        (name,) = [name for name in reference_names(key) if name in golden["grads"]]
        norm, first, total = golden["grads"][name]
        grad = parameter.grad.flatten()
        close(grad.norm(), norm, 0.0, f"{name} norm")
        close(grad[0], first, norm, f"{name} first element")
        close(grad.sum(), total, norm, f"{name} sum")
        seen.add(name)
    assert seen == set(golden["grads"])

    seen = set()
    for key, buffer in model.named_buffers():
        for name in reference_names(key):
            if name in golden["running_stats_after"]:
                (norm,) = golden["running_stats_after"][name]
                close(buffer.double().norm(), norm, 0.0, name)
                seen.add(name)
    assert seen == set(golden["running_stats_after"])
