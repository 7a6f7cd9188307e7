"""The parts of benchmarks/speed.py: what is compared, and how it is checked, measured and recorded."""
