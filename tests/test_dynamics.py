"""Dynamics of encoders: patterns made by hand, the exact period of direct coding, the first proposition on images."""

import copy
import math

import pytest
import torch
from torch import nn

import gac_sj
from gac_sj._utils.errors import UsageError
from gac_sj.analysis import compare_durations, firing_period, measure_dynamics, time_to_repeat
from gac_sj.data import load_datasets


def digits(count=200):
    """Handwritten digits, normalised: real images that come with a package."""
    images = torch.tensor(load_datasets("digits")[1].source.data[:count]).unsqueeze(1) / 255
    return (images - images.mean()) / images.std()


class Playback(gac_sj.Encoder):
    """Outputs a given sequence ``[T, N, C, H, W]`` for any input."""

    def __init__(self, sequence):
        super().__init__(len(sequence), 1, sequence.shape[2], stem=nn.Identity())
        self.given = sequence

    def encode(self, x):
        return self.given


def play(*patterns):
    """Dynamics of one unit, one image per pattern."""
    sequence = torch.tensor(patterns).t()[:, :, None, None, None]
    return measure_dynamics(Playback(sequence), [torch.zeros(len(patterns), 1, 1, 1)])


class TestTimeToRepeat:
    @pytest.mark.parametrize(
        "pattern, steps",
        [
            ([3.0, 3.0, 3.0, 3.0], 1),
            ([0.0, 0.0, 0.0, 0.0], 1),
            ([0.0, 1.0, 0.0, 1.0], 2),
            ([0.0, 0.5, 0.0, 0.7], 4),  # equal spikes, other amplitudes
            ([0.0, 0.0, 1.0, 0.0], 3),
            ([1.0, 0.0, 0.0, 1.0], 3),
            ([0.0, 0.0, 0.0, 1.0], 4),
            ([2.0], 1),
        ],
    )
    def test_patterns(self, pattern, steps):
        assert time_to_repeat(torch.tensor(pattern)).item() == steps

    @pytest.mark.medium
    @pytest.mark.parametrize("T", [1, 2, 5, 8])
    @pytest.mark.parametrize("name", ["cifar", "imagenet"])
    def test_direct_coding_repeats_after_its_exact_period(self, T, name):
        node = gac_sj.lif_preset(name)
        stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)).eval()
        encoder = gac_sj.DirectCoding(T, 1, 6, stem=stem, neuron=node).eval()
        images = 2 * digits()
        period = firing_period(stem(images), node.tau, node.v_threshold, T)
        measured = time_to_repeat(encoder(images))
        assert torch.equal(measured, period.clamp(min=1))
        assert set(period.unique().tolist()) >= set(range(min(T, 3) + 1))

    def test_period_by_hand(self):
        # potentials of a current z: z, 1.5 z, 1.75 z, 1.875 z
        current = torch.tensor([1.0, 0.9, 0.6, 0.55, 0.5, -1.0])
        assert firing_period(current, 2.0, 1.0, 4).tolist() == [1, 2, 3, 4, 0, 0]


class TestMeasures:
    def test_all_information_of_direct_coding_is_in_the_first_step(self):
        encoder = gac_sj.DirectCoding(4, 1, 3)
        found = measure_dynamics(encoder, [digits()])
        assert found.time_to_repeat.eq(1).all() and found.silent.eq(0).all() and found.time_to_first_spike.eq(1).all()
        assert found.information[0].mean() > 1
        assert found.information[1:].abs().max() < 1e-5
        assert found.change_by_step.eq(0).all()

    @pytest.mark.parametrize("T", [2, 4])
    def test_direct_coding_with_a_neuron_has_t_plus_one_patterns(self, T):
        found = measure_dynamics(gac_sj.DirectCoding(T, 1, 3, neuron="cifar"), [3 * digits()])
        assert 0 < found.entropy.max() <= math.log2(T + 1) + 1e-5

    def test_gated_spikes_have_more_entropy_than_spikes(self):
        encoder = gac_sj.GatedAttentionCoding(4, 1, 3)
        plain = gac_sj.DirectCoding(4, 1, 3, stem=encoder.stem, neuron=copy.deepcopy(encoder.neuron))
        gated, spikes = (measure_dynamics(each, [3 * digits()]) for each in (encoder, plain))
        assert torch.equal(gated.silent, spikes.silent)
        assert (gated.entropy >= spikes.entropy - 1e-5).all() and gated.entropy.mean() > spikes.entropy.mean() + 0.1

    def test_information_by_hand(self):
        # two of four images differ at the first step, one of each pair at the second
        found = play([1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0])
        assert found.information.flatten().tolist() == pytest.approx([1.0, 1.0])
        found = play([1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0])
        first = 2 - 0.75 * math.log2(3)
        assert found.information.flatten().tolist() == pytest.approx([first, 1.5 - first])

    def test_first_spike_silence_and_change_by_hand(self):
        found = play([0.0, 2.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.0])
        assert found.time_to_first_spike.item() == 2.5
        assert found.silent.item() == pytest.approx(1 / 3)
        # mean output 9 / 9; changes 2 / 3 and 5 / 3
        assert found.change_by_step.tolist() == pytest.approx([2 / 3, 5 / 3])
        assert play([0.0, 0.0]).time_to_first_spike.isnan().all()

    def test_fewer_levels_merge_values(self):
        sequence = torch.arange(1.0, 9.0).view(1, 8, 1, 1, 1)
        encoder, blank = Playback(sequence), [torch.zeros(8, 1, 1, 1)]
        assert measure_dynamics(encoder, blank, levels=8).entropy.item() == pytest.approx(3)
        assert measure_dynamics(encoder, blank, levels=2).entropy.item() == pytest.approx(1)

    def test_readout_is_accurate_only_where_the_labels_are_encoded(self):
        labels = torch.arange(200) % 2
        sequence = torch.randn(2, 200, 1, 4, 4)
        sequence[1, :, 0, 0, 0] = 5.0 * labels  # only in the second step
        found = measure_dynamics(Playback(sequence), [(torch.zeros(200, 1, 1, 1), labels)])
        assert found.readout_by_step[0] < 0.75 and found.readout_by_step[1] > 0.95

    def test_readout_of_digits_is_above_chance(self):
        _, test = load_datasets("digits")
        labels = torch.tensor(test.source.targets[:200])
        found = measure_dynamics(
            gac_sj.DirectCoding(2, 1, 4), [(digits(100), labels[:100]), (digits(200)[100:], labels[100:])]
        )
        assert found.readout_by_step.min() > 0.7  # one in ten by chance
        assert found.images == 200
        assert measure_dynamics(gac_sj.DirectCoding(2, 1, 4), [digits(20)]).readout_by_step is None

    def test_no_readout_if_a_class_has_a_single_image(self):
        batch = digits(3), torch.tensor([0, 0, 1])
        assert measure_dynamics(gac_sj.DirectCoding(2, 1, 3), [batch]).readout_by_step is None

    def test_encoder_is_not_changed(self):
        encoder = gac_sj.GatedAttentionCoding(2, 1, 3).train()
        before = copy.deepcopy(encoder.state_dict())
        measure_dynamics(encoder, [digits(20)])
        assert encoder.training and all(torch.equal(encoder.state_dict()[name], before[name]) for name in before)

    @pytest.mark.parametrize("batches", [[], [torch.zeros(0, 1, 8, 8)]], ids=["no batch", "empty batch"])
    def test_loader_without_images_is_refused(self, batches):
        with pytest.raises(UsageError, match=r"^loader .*at least one batch"):
            measure_dynamics(gac_sj.DirectCoding(2, 1, 3), batches)

    def test_levels_below_1_are_refused(self):
        with pytest.raises(UsageError, match=r"^levels .*got 0"):
            measure_dynamics(gac_sj.DirectCoding(2, 1, 3), [digits(2)], levels=0)


class TestFirstProposition:
    """Our reading: GAC's time to repeat is never shorter than that of direct coding with the same stem."""

    @pytest.mark.parametrize("form", ["reference", "unit_gate", "low_threshold"])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_holds_with_the_same_neuron(self, form, seed):
        torch.manual_seed(seed)
        encoder = gac_sj.GatedAttentionCoding(4, 1, 8, form=form)
        found = compare_durations(encoder, [2 * digits()], copy.deepcopy(encoder.neuron))
        assert found["shorter"] == 0
        assert sum(found.values()) == pytest.approx(1)

    def test_holds_against_the_current_itself(self):
        encoder = gac_sj.GatedAttentionCoding(4, 1, 8, form="current")
        assert compare_durations(encoder, [digits()])["shorter"] == 0

    def test_need_not_hold_with_another_neuron(self):
        """At half the threshold a unit may fire at every step, where the gate is constant, and repeat at once."""
        encoder = gac_sj.GatedAttentionCoding(4, 1, 8, form="low_threshold")
        nn.init.zeros_(encoder.gau.temporal.excite.weight)
        assert compare_durations(encoder, [2 * digits()], gac_sj.lif_preset("cifar"))["shorter"] > 0

    def test_durations_are_equal_with_a_constant_gate(self):
        encoder = gac_sj.GatedAttentionCoding(4, 1, 8, form="unit_gate")
        nn.init.zeros_(encoder.gau.temporal.excite.weight)
        assert compare_durations(encoder, [2 * digits()], copy.deepcopy(encoder.neuron))["equal"] == 1
