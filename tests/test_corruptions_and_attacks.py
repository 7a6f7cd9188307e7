"""Corruptions, dropped time steps and attacks, by hand and on small networks."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gac_sj import DirectCoding, LatencyCoding, PoissonCoding, WeightedPhaseCoding
from gac_sj._utils.errors import UsageError
from gac_sj._utils.randomness import seeded
from gac_sj.analysis.attacks import EPSILONS, fgsm, pgd, pixel_gradient
from gac_sj.analysis.corruptions import CORRUPTIONS, SEVERITIES, corrupt, dropped_steps

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def images():
    """Pixels that cover [0, 1], including both ends."""
    return (1.4 * torch.rand(6, 3, 8, 8) - 0.2).clamp(0, 1)


@pytest.mark.one_release
class TestCorruptions:
    @pytest.mark.parametrize("name", CORRUPTIONS)
    def test_pixels_stay_in_range_and_the_input_is_not_changed(self, name):
        for shape, severity in product([(2, 1, 8, 8), (1, 3, 9, 6), (1, 1, 3, 3)], SEVERITIES):
            pixels = torch.rand(shape).round()
            before = pixels.clone()
            changed = corrupt(pixels, name, severity)
            assert changed.shape == shape and changed.dtype == pixels.dtype
            assert changed.min() >= 0 and changed.max() <= 1
            assert torch.equal(pixels, before)

    @pytest.mark.parametrize("name", CORRUPTIONS)
    def test_an_image_is_corrupted_the_same_in_any_batch(self, name, images):
        """It depends only on the index of the image, not on earlier random numbers."""
        whole = corrupt(images, name, 3, seed=5)
        state = torch.get_rng_state()
        parts = [corrupt(images[:1], name, 3, seed=5), corrupt(images[1:], name, 3, seed=5, first=1)]
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(torch.cat(parts), whole)

    @pytest.mark.parametrize("name", ["gaussian_noise", "salt_and_pepper", "occlusion"])
    def test_images_and_seeds_differ(self, name):
        grey = torch.full((8, 1, 32, 32), 0.25)
        first = corrupt(grey, name, 3)
        assert any(not torch.equal(first[0], other) for other in first[1:])
        assert not torch.equal(first, corrupt(grey, name, 3, seed=1))

    @pytest.mark.parametrize("name", CORRUPTIONS)
    def test_a_higher_severity_changes_more(self, name):
        pixels = torch.rand(20, 1, 16, 16)
        distances = [(corrupt(pixels, name, severity) - pixels).abs().mean().item() for severity in SEVERITIES]
        assert distances[0] > 0 and distances == sorted(distances) and len(set(distances)) == 5

    def test_gaussian_noise_has_the_standard_deviations(self):
        for severity, std in zip(SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.10)):
            noise = corrupt(torch.full((1, 3, 100, 100), 0.5), "gaussian_noise", severity) - 0.5
            assert noise.std().item() == pytest.approx(std, rel=0.03) and abs(noise.mean().item()) < 0.002

    def test_salt_and_pepper_change_the_fractions(self):
        for severity, fraction in zip(SEVERITIES, (0.01, 0.02, 0.03, 0.05, 0.07)):
            changed = corrupt(torch.full((1, 3, 200, 200), 0.5), "salt_and_pepper", severity)
            salt, pepper = changed == 1, changed == 0
            assert (salt | pepper | (changed == 0.5)).all()
            for mask in (salt, pepper):
                assert mask.float().mean().item() == pytest.approx(fraction / 2, rel=0.12)
            assert not torch.equal(salt[0, 0], salt[0, 1])

    def test_blur_turns_a_point_into_a_gaussian(self):
        point = torch.zeros(1, 1, 17, 17)
        point[0, 0, 8, 8] = 1
        for severity, std in zip(SEVERITIES, (0.4, 0.6, 0.7, 0.8, 1.0)):
            bell = np.exp(-((np.arange(17) - 8.0) ** 2) / (2 * std**2))
            bell /= bell.sum()
            blurred = corrupt(point, "blur", severity)[0, 0].numpy()
            np.testing.assert_allclose(blurred, np.outer(bell, bell), atol=1e-4)
            assert blurred.sum() == pytest.approx(1, abs=1e-5)

    def test_contrast_by_hand(self):
        """Every channel towards its own mean: 0.4 and 0.5."""
        pixels = torch.tensor([[[[0.0, 1.0], [0.5, 0.1]], [[0.5, 0.5], [0.0, 1.0]]]])
        expected = torch.tensor([[[[0.2, 0.7], [0.45, 0.25]], [[0.5, 0.5], [0.25, 0.75]]]])
        torch.testing.assert_close(corrupt(pixels, "contrast", 2), expected)
        strongest = corrupt(pixels, "contrast", 5)
        torch.testing.assert_close(strongest[0, 0], torch.tensor([[0.34, 0.49], [0.415, 0.355]]))

    @pytest.mark.parametrize("size", [(8, 8), (32, 32), (8, 24)], ids=str)
    def test_occlusion_is_a_grey_square_inside_the_image(self, size):
        for severity in SEVERITIES:
            side = severity * min(size) // 8
            changed = corrupt(torch.ones(30, 2, *size), "occlusion", severity)
            corners = set()
            for image in changed:
                rows, columns = (image[0] == 0.5).nonzero(as_tuple=True)
                top, left = rows.min().item(), columns.min().item()
                square = torch.ones(2, *size)
                square[:, top : top + side, left : left + side] = 0.5
                assert torch.equal(image, square)
                corners.add((top, left))
            assert len(corners) > 5

    def test_errors_list_the_corruptions_and_severities(self, images):
        with pytest.raises(UsageError, match=r"^name .*'fog'.*gaussian_noise, "):
            corrupt(images, "fog", 1)
        for severity in (0, 6):
            with pytest.raises(UsageError, match=f"^severity .*got {severity}.*1, 2, 3, 4, 5"):
                corrupt(images, "blur", severity)


class TestDroppedSteps:
    """Encoders that output 1 at every step: spikes of white pixels, or the pixels themselves."""

    WHITE = torch.ones(1000, 1, 2, 2)

    def sequence(self, cls=DirectCoding, seed=0, probability=0.3):
        encoder = cls(4, 1, 1, stem=nn.Identity())
        with dropped_steps(encoder, probability, seed), torch.no_grad():
            return encoder(self.WHITE)

    @pytest.mark.parametrize("probability", [0.1, 0.5])
    def test_whole_steps_at_the_rate(self, probability):
        sequence = self.sequence(probability=probability)
        assert sequence.shape == (4, 1000, 1, 2, 2) and set(sequence.unique().tolist()) == {0, 1}
        steps = sequence[..., 0, 0, 0]
        assert torch.equal(sequence, steps[..., None, None, None].expand_as(sequence))
        assert (steps == 0).float().mean().item() == pytest.approx(probability, abs=0.03)
        assert all(not torch.equal(steps[0], other) for other in steps[1:])

    def test_the_same_steps_for_every_encoder(self):
        """Random encoders included."""
        assert torch.equal(self.sequence(), self.sequence(PoissonCoding))
        assert not torch.equal(self.sequence(), self.sequence(seed=1))

    def test_nothing_is_dropped_after_the_block(self):
        encoder = DirectCoding(4, 1, 1, stem=nn.Identity())
        with pytest.raises(KeyboardInterrupt), dropped_steps(encoder, 1.0):
            assert not encoder(self.WHITE).any()
            raise KeyboardInterrupt
        assert encoder(self.WHITE).all()

    def test_single_steps_are_refused(self):
        encoder = DirectCoding(4, 1, 1, step_mode="s")
        with pytest.raises(UsageError, match=r"^encoder .*'s'.*to 'm'"), dropped_steps(encoder, 0.5):
            pass


class TestStraightThrough:
    ENCODERS = (PoissonCoding, LatencyCoding, WeightedPhaseCoding)

    @pytest.mark.parametrize("cls", ENCODERS)
    def test_off_by_default(self, cls):
        pixels = torch.rand(2, 1, 3, 3, requires_grad=True)
        assert not cls(4, 1, 1, stem=nn.Identity())(pixels).requires_grad

    @pytest.mark.parametrize("cls", ENCODERS)
    def test_gradient_is_1_for_each_step_and_spikes_are_the_same(self, cls):
        encoder = cls(4, 1, 1, stem=nn.Identity())
        pixels = torch.rand(2, 1, 3, 3, requires_grad=True)
        with seeded(3):
            before = encoder(pixels)
        with pixel_gradient(encoder) as name, seeded(3):
            sequence = encoder(pixels)
        assert name == "straight-through" and torch.equal(sequence, before)
        weights = torch.randn_like(sequence)
        (sequence * weights).sum().backward()
        torch.testing.assert_close(pixels.grad, weights.sum(0))
        assert not encoder(pixels).requires_grad

    def test_each_step_has_its_own_pixel(self):
        encoder = PoissonCoding(3, 1, 1, stem=nn.Identity())
        pixels = torch.rand(3, 2, 1, 2, 2, requires_grad=True)
        weights = torch.randn(3, 2, 1, 2, 2)
        with pixel_gradient(encoder):
            (encoder(pixels) * weights).sum().backward()
        torch.testing.assert_close(pixels.grad, weights)

    def test_through_the_stem(self):
        encoder = PoissonCoding(2, 1, 1, stem=nn.Conv2d(1, 1, 1, bias=False))
        pixels = torch.rand(1, 1, 2, 2, requires_grad=True)
        with pixel_gradient(encoder):
            encoder(pixels).sum().backward()
        torch.testing.assert_close(pixels.grad, (2 * encoder.stem.weight.detach()).expand(1, 1, 2, 2))

    def test_off_again_after_an_error(self):
        encoder = PoissonCoding(2, 1, 1)
        with pytest.raises(KeyboardInterrupt), pixel_gradient(encoder):
            raise KeyboardInterrupt
        assert encoder.straight_through is False

    def test_a_network_with_surrogates_all_the_way(self):
        with pixel_gradient(DirectCoding(2, 1, 1)) as name:
            assert name == "surrogate"


class Distance(nn.Module):
    """Logits 0 and 10 |x - 0.52| of images of one pixel: class 0 is most probable at 0.52."""

    def forward(self, x):
        value = 10 * (x.flatten(1) - 0.52).abs()
        return torch.cat([torch.zeros_like(value), value], 1)


class TestAttacks:
    @pytest.fixture
    def linear(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), torch.rand(7, 3, 4, 4), torch.arange(7) % 5

    def test_fgsm_on_a_linear_model(self, linear):
        """dL/dx = W^T (softmax(Wx + b) - onehot)."""
        model, pixels, labels = linear
        weight, bias = model[1].weight.detach(), model[1].bias.detach()
        error = F.softmax(pixels.flatten(1) @ weight.T + bias, 1) - F.one_hot(labels, 5)
        expected = (pixels + 0.1 * (error @ weight).sign().view_as(pixels)).clamp(0, 1)
        torch.testing.assert_close(fgsm(model, pixels, labels, 0.1), expected)

    def test_pgd_on_a_model_with_two_classes_finds_the_best_corner(self, linear):
        """The loss of a linear one is highest at ``x + eps sign(w_other - w_label)``."""
        _, pixels, labels = linear
        labels = labels % 2
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
        difference = model[1].weight.detach()[1] - model[1].weight.detach()[0]
        direction = torch.where(labels[:, None] == 0, difference, -difference).sign().view_as(pixels)
        best = (pixels + 0.1 * direction).clamp(0, 1)
        torch.testing.assert_close(pgd(model, pixels, labels, 0.1), best)

    def test_pgd_beats_fgsm_where_the_loss_is_not_linear(self):
        pixels, labels = torch.full((50, 1, 1, 1), 0.5), torch.ones(50, dtype=torch.long)
        once, often = (attack(Distance(), pixels, labels, 0.1) for attack in (fgsm, pgd))
        torch.testing.assert_close(once, torch.full_like(pixels, 0.6))  # past the maximum
        assert (often - 0.52).abs().max() < 0.0251  # a step of 2.5 eps / 10 around it
        with torch.no_grad():
            assert F.cross_entropy(Distance()(often), labels) > F.cross_entropy(Distance()(once), labels)

    @pytest.mark.parametrize("steps", [1, 2])
    def test_steps_of_pgd(self, steps):
        """With logits (0, -x) of one pixel every step adds 2.5 eps / steps, up to eps."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
        model[1].weight.data = torch.tensor([[0.0], [-1.0]])
        pixels, labels = torch.full((200, 1, 1, 1), 0.5), torch.ones(200, dtype=torch.long)
        torch.manual_seed(1)
        start = torch.empty(200, 1, 1, 1).uniform_(-0.08, 0.08)
        assert start.min() < -0.07 and start.max() > 0.07
        torch.manual_seed(1)
        expected = 0.5 + (start + 2.5 * 0.08).clamp(max=0.08)
        torch.testing.assert_close(pgd(model, pixels, labels, 0.08, steps), expected)

    @pytest.mark.parametrize("attack", [fgsm, pgd])
    def test_within_eps_and_the_range_of_pixels(self, attack, images):
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        for eps in EPSILONS:
            changed = attack(model, images, torch.arange(6) % 4, eps)
            assert changed.shape == images.shape and not changed.requires_grad
            assert changed.min() >= 0 and changed.max() <= 1
            assert (changed - images).abs().max() <= eps + 1e-6
            assert (changed - images).abs().max() > 0.9 * eps

    def test_pgd_starts_from_the_global_generator(self):
        pixels, labels = torch.full((5, 1, 1, 1), 0.5), torch.ones(5, dtype=torch.long)
        with seeded(1):
            first = pgd(Distance(), pixels, labels, 0.1)
        with seeded(1):
            second = pgd(Distance(), pixels, labels, 0.1)
        assert torch.equal(first, second)
        assert not torch.equal(first, pgd(Distance(), pixels, labels, 0.1))

    def test_the_network_is_attacked_in_evaluation_mode_and_not_changed(self):
        model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4, 2))
        model[1].eval()
        pixels, labels = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
        changed = fgsm(model, pixels, labels, 0.1)
        assert [module.training for module in model] == [True, False, True, True]
        assert model[0].num_batches_tracked == 0 and all(p.grad is None for p in model.parameters())
        assert torch.equal(changed, fgsm(model.eval(), pixels, labels, 0.1))

    @pytest.mark.parametrize("attack", [fgsm, pgd])
    @pytest.mark.parametrize("frozen", [False, True])
    def test_a_network_without_a_gradient_is_refused(self, attack, frozen):
        encoder = PoissonCoding(2, 1, 1, stem=nn.Conv2d(1, 1, 1)).requires_grad_(not frozen)

        class Network(nn.Module):
            encode = encoder

            def forward(self, x):
                return self.encode(x).mean(0).flatten(1)

        arguments = Network(), torch.rand(1, 1, 2, 2), torch.tensor([0]), 0.1
        with pytest.raises(UsageError, match=r"gradient.*inside .*pixel_gradient"):
            attack(*arguments)
