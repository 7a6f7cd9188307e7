"""The parts of benchmarks/speed.py: what is compared, how it is checked, measured and written down."""
