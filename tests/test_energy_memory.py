"""Energy with memory: a network computed by hand, both machines, SpikingJelly's counters, and profiles of costs."""

from dataclasses import replace
from pathlib import Path

import pytest
import run_cifar
import timm
import torch
import train
import yaml
from helpers.networks import sequence, small_network, wake
from helpers.programs import refused
from helpers.rows import cells, row, tables
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import gac_sj
from gac_sj._utils.errors import UsageError
from gac_sj.analysis import energy_profile, measure_energy
from gac_sj.analysis.memory_energy import KINDS
from gac_sj.cli import main as command_line
from gac_sj.training.run import is_analysed

try:
    from spikingjelly.activation_based import op_counter
except ImportError:
    op_counter = None
NEEDS_COUNTERS = pytest.mark.skipif(op_counter is None, reason="SpikingJelly 0.0.0.0.14 has no op_counter")
HOROWITZ = energy_profile("45nm")
#: Picojoules of a bit in the levels of 45 nm.
SRAM_8K, SRAM_32K = 10 / 64, 20 / 64


def memory_by_name(energy):
    return {each.name: each for each in energy.memory.layers}


def bits(weights=0, inputs=0, outputs=0, potentials=0):
    return dict(zip(KINDS, (weights, inputs, outputs, potentials)))


class TestHandComputed:
    def test_dense_machine(self):
        found = memory_by_name(measure_energy(small_network(), [sequence()]))
        assert found["0"].dense_bits == bits(2 * 2 * 32, 2 * 4 * 32, 2 * 8 * 32)
        assert found["1"].dense_bits == bits(0, 2 * 8 * 32, 2 * 8 * 1, 2 * 2 * 8 * 32)
        assert found["3"].dense_bits == bits(2 * 24 * 32, 2 * 8 * 1, 2 * 3 * 32)

    def test_event_driven_machine(self):
        """Three pixels at two steps, each to two channels; then six spikes, each to three outputs."""
        found = memory_by_name(measure_energy(small_network(), [sequence()]))
        assert found["0"].event_bits == bits(12 * 32, 6 * (32 + 32), 0, 2 * 12 * 32)
        assert found["1"].event_bits == bits(0, 0, 6 * 32, 0)
        assert found["3"].event_bits == bits(18 * 32, 6 * 32, 0, 2 * 18 * 32)

    def test_energies(self):
        energy = measure_energy(small_network(), [sequence()])
        assert energy.memory.dense_pj == pytest.approx(SRAM_8K * (896 + 1552 + 1744))
        assert energy.memory.event_pj == pytest.approx(SRAM_8K * (1536 + 192 + 1920))
        assert energy.dense_pj == pytest.approx(16 * 4.6 + 48 * 0.9 + energy.memory.dense_pj)
        assert energy.event_pj == pytest.approx(12 * 4.6 + 18 * 0.9 + energy.memory.event_pj)

    def test_printed_table(self):
        lines = str(measure_energy(small_network(), [sequence()]).memory).splitlines()
        assert [line.split()[0] for line in lines] == ["memory", "0", "3", "1", "total"]
        assert "SRAM 8 kB" in lines[1] and lines[-1].split()[1:] == ["0.66", "0.57"]

    def test_gate_reads_both_inputs_and_writes_their_product(self):
        class Gate(nn.Module):
            def forward(self, x):
                return x * torch.tensor([[0.5], [0.25]])

        spikes = (torch.tensor([[[1.0], [0.0]]]), [0])
        found = memory_by_name(measure_energy(nn.Sequential(Gate(), nn.Linear(1, 1), neuron.IFNode()), [spikes]))
        assert found["0 (gate)"].dense_bits == bits(0, 2 * 1 + 2 * 32, 2 * 32)
        assert found["0 (gate)"].event_bits == bits(0, 1 * 32 + 2 * (32 + 32), 1 * (32 + 32))


class TestMachines:
    @staticmethod
    def at(rate):
        """A layer between neurons of which a fraction fires."""
        network = nn.Sequential(neuron.IFNode(), layer.Conv2d(1, 3, 1, bias=False), neuron.IFNode())
        nn.init.ones_(network[1].weight)
        functional.set_step_mode(network, "m")
        x = torch.zeros(2, 1, 1, 10, 10)
        x.view(2, -1)[:, : round(100 * rate)] = 1.0
        return measure_energy(network, [x]).memory

    def test_only_the_event_driven_one_depends_on_the_firing_rate_and_in_proportion(self):
        quarter, half = self.at(0.25), self.at(0.5)
        assert half.dense_pj == quarter.dense_pj > 0
        assert half.event_pj == pytest.approx(2 * quarter.event_pj) and quarter.event_pj > 0
        assert self.at(0).event_pj == 0

    def test_the_smallest_level_that_holds_the_weights(self):
        network = nn.Sequential(neuron.IFNode(), layer.Linear(64, 48, bias=False))  # 12 kB
        functional.set_step_mode(network, "m")
        x = (torch.rand(2, 1, 64) > 0.5).float()
        floats = memory_by_name(measure_energy(network, [x]))["1"]
        assert floats.levels["weights"].name == "SRAM 32 kB" and floats.levels["inputs"].name == "SRAM 8 kB"
        assert floats.event_pj > SRAM_32K * floats.event_bits["weights"] > 0
        names = [HOROWITZ.level(8 * size).name for size in (2**13, 2**13 + 1, 2**20, 2**20 + 1)]
        assert names == ["SRAM 8 kB", "SRAM 32 kB", "SRAM 1 MB", "DRAM"]

    @pytest.mark.parametrize("weight", [8, 16])
    def test_integer_weights_have_their_bits(self, weight):
        network = nn.Sequential(neuron.IFNode(), layer.Linear(64, 48, bias=False)).eval()
        functional.set_step_mode(network, "m")
        x = (torch.rand(2, 1, 64) > 0.5).float()
        integers = gac_sj.quantize(network, weight, x, backend="torch")
        before, after = (memory_by_name(measure_energy(each, [x]))["1"] for each in (network, integers))
        for machine in ("dense_bits", "event_bits"):
            assert getattr(after, machine)["weights"] == weight / 32 * getattr(before, machine)["weights"] > 0
        assert after.levels["weights"].name == "SRAM 8 kB"

    def test_per_image_whatever_the_batch_and_the_step_mode(self):
        network, image = small_network(), sequence()[0]
        alone = measure_energy(network, [sequence()])
        assert measure_energy(network, [sequence().expand(2, 3, 1, 2, 2), sequence()]).memory == alone.memory
        functional.set_step_mode(network, "s")
        assert measure_energy(network, [image], T=2).memory == alone.memory

    def test_an_image_is_encoded_once(self):
        network = timm.create_model("gac_ms_resnet8_cifar", T=4)
        found = memory_by_name(measure_energy(network, [torch.randn(1, 3, 32, 32)]))
        assert found["encoder.stem.0"].dense_bits["weights"] == 32 * network.encoder.stem[0].weight.numel()
        assert found["head"].dense_bits["weights"] == 4 * 32 * network.head.weight.numel()
        assert found["encoder.neuron"].dense_bits["outputs"] == 4 * 16 * 32 * 32

    def test_weights_that_are_computed_are_weights(self):
        network = small_network()
        nn.utils.parametrizations.weight_norm(network[0])
        found = memory_by_name(measure_energy(network, [sequence(), sequence()]))
        assert found["0"].dense_bits["weights"] == 2 * 2 * 32


@NEEDS_COUNTERS
class TestSpikingJellyCounters:
    """Where the definitions coincide."""

    def test_bytes_of_layers_for_one_image_and_step(self):
        network = nn.Sequential(
            layer.Conv2d(3, 8, 3, padding=1, stride=2, bias=False), neuron.IFNode(v_threshold=0.1),
            layer.Flatten(), layer.Linear(128, 10, bias=False),
        )  # fmt: skip
        x = torch.randn(1, 3, 8, 8)
        counter = op_counter.MemoryAccessCounter(extra_ignore_modules=[neuron.BaseNode])
        with torch.no_grad(), op_counter.DispatchCounterMode([counter]):
            network(x)
        functional.reset_net(network)
        energy = measure_energy(network, [x], energy=replace(HOROWITZ, spike=32))
        layers = [each for name, each in memory_by_name(energy).items() if name in ("0", "3")]
        assert sum(sum(each.dense_bits.values()) for each in layers) == 8 * counter.get_total() > 0

    def test_weights_that_spikes_read_and_potentials(self):
        images = torch.randn(2, 3, 16, 16)
        network = wake(timm.create_model("ms_resnet8_cifar", T=2), images)
        counter = op_counter.NeuromorphicMemoryAccessCounter()
        functional.reset_net(network)
        with torch.no_grad(), op_counter.base.ModuleCounterMode([counter], model=network):
            network(images)
        counts = {name.partition(".")[2]: each for name, each in counter.get_counts().items()}
        energy = measure_energy(network, [images])
        found = memory_by_name(energy)
        spiking = [each.name for each in energy.layers if each.receives == "spikes"]
        neurons = [name for name, module in network.named_modules() if isinstance(module, neuron.BaseNode)]
        assert len(spiking) == 6 and len(neurons) == 7
        for name in spiking:
            assert 2 * found[name].event_bits["weights"] == 8 * counts[name]["weight_read_bytes"] > 0
        for name in neurons:
            states = counts[name]["neuron_state_read_bytes"] + counts[name]["neuron_state_write_bytes"]
            assert 2 * found[name].dense_bits["potentials"] == 8 * states > 0


def write_profile(path, change=lambda content: None):
    """The shipped profile, changed, as a file."""
    shipped = Path(gac_sj.__file__).parent / "analysis" / "profiles" / "45nm.yaml"
    content = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


class TestProfiles:
    def test_costs_of_45nm(self):
        assert (HOROWITZ.mac, HOROWITZ.ac, HOROWITZ.int8_mac, HOROWITZ.int8_ac) == (4.6, 0.9, 0.3, 0.1)
        assert [64 * level.pj_per_bit for level in HOROWITZ.levels] == [10, 20, 100, 1300]
        assert measure_energy(small_network(), [sequence()]).profile == HOROWITZ

    def test_other_hardware(self, tmp_path):
        def dearer(content):
            content["operations"]["mac"] = "0.0092 nJ"
            content["memory"] = [{"name": "all", "energy": "1000 fJ", "bits": 1}]

        path = write_profile(tmp_path / "mine.yaml", dearer)
        energy = measure_energy(small_network(), [sequence()], energy=path)
        assert energy.complete_pj == pytest.approx(12 * 9.2 + 18 * 0.9)
        assert energy.memory.event_pj == pytest.approx(1536 + 192 + 1920)
        assert energy.profile.name.startswith("mine.yaml:") and len(energy.profile.name) == 22

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda it: it["operations"].pop("mac"), r"lacks mac in operations"),
            (lambda it: it.pop("bits"), r"lacks bits"),
            (lambda it: it["memory"][0].pop("size"), r"lacks size in memory\[0\]"),
            (lambda it: it["bits"].update(spikes=1), r"unknown entry spikes in bits"),
            (lambda it: it["operations"].update(mac="4.6 kJ"), r"'4.6 kJ' as operations.mac.*fJ, pJ, nJ"),
            (lambda it: it["operations"].update(ac=0.9), r"0.9 as operations.ac.*units"),
            (lambda it: it["operations"].update(ac="nan pJ"), r"'nan pJ' as operations.ac"),
            (lambda it: it["memory"][1].update(energy="-20 pJ"), r"'-20 pJ' as memory\[1\].energy.*at least 0"),
            (lambda it: it["memory"][1].update(size="8 kB"), r"'8 kB' as memory\[1\].size.*above"),
            (lambda it: it["memory"][3].update(size="8 MB"), r"unknown entry size in memory\[3\]"),
            (lambda it: it["bits"].update(weight=0), r"0 as bits.weight.*positive integer"),
            (lambda it: it.update(memory=[]), r"as memory.*list of levels"),
            (lambda it: it.update(bits=[1]), r"as bits.*mapping"),
        ],
    )
    def test_wrong_entries(self, change, words, tmp_path):
        with pytest.raises(UsageError, match=rf"^energy .*mine.yaml .*{words}"):
            energy_profile(write_profile(tmp_path / "mine.yaml", change))

    def test_wrong_files_and_names(self, tmp_path):
        with pytest.raises(UsageError, match=r"^energy .*'65nm'.*45nm, FILE.yaml"):
            measure_energy(small_network(), [sequence()], energy="65nm")
        with pytest.raises(UsageError, match=r"^energy .*none.yaml cannot be read"):
            energy_profile(tmp_path / "none.yaml")
        (tmp_path / "broken.yml").write_text("a: [", encoding="utf-8")
        with pytest.raises(UsageError, match=r"^energy .*broken.yml is not YAML"):
            energy_profile(tmp_path / "broken.yml")

    def test_programs_refuse_them_before_any_work(self, capsys, tmp_path):
        refused(capsys, train.main, ["--energy", "65nm", "--output", tmp_path / "run"], "--energy", "45nm")
        digits = ["--dataset", "digits", "--output", tmp_path / "out"]
        refused(capsys, run_cifar.main, [*digits, "--energy", tmp_path / "none.yaml"], "--energy", "none.yaml")
        refused(capsys, command_line.main, ["summary", "ms_resnet8_cifar", "--energy", "45"], "--energy", "45nm")


class TestRows:
    WITH_MEMORY = {
        "energy_profile": "45nm", "energy_dense_pj": 5e6, "energy_event_pj": 2.5e7, "memory_by_layer": '{"lif": [1, 2]}'
    }  # fmt: skip

    def test_tables_have_both_machines_where_rows_have_them(self):
        energy = tables(row(analysed=2) | {name: str(value) for name, value in self.WITH_MEMORY.items()})[1]
        assert cells(energy, "gac")["dense, with memory (µJ)"] == "5.00" and energy.note.endswith("Costs: 45nm.")
        assert cells(energy, "gac")["event-driven, with memory (µJ)"] == "25.00"
        older = tables(row(analysed=2))[1]
        assert not any("memory" in name for name in older.head) and "Costs" not in older.note

    def test_energies_of_several_profiles_are_not_averaged(self):
        other = row("direct", analysed=2, energy_profile="mine.yaml:0123456789ab")
        with pytest.raises(UsageError, match=r"45nm, mine.yaml:0123456789ab"):
            tables(row(analysed=2), other)

    def test_another_profile_asks_for_another_analysis(self):
        assert is_analysed(row(analysed=2), HOROWITZ)  # of before there were profiles
        assert not is_analysed(row(analysed=2), replace(HOROWITZ, name="mine.yaml:0123456789ab"))
        assert not is_analysed(row(), HOROWITZ)
