"""The parts of run_cifar.py."""
