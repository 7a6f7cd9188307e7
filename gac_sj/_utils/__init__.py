"""Helpers that import nothing else of the package: errors, files, checks of arguments, configuration, randomness."""
