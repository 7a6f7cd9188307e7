"""The command line: ``gac-sj`` (and ``python -m gac_sj``), one module for each command, and what all programs share.

A command's docstring is its help. ``add_arguments(parser)`` declares its arguments; ``run(args)`` carries it out and
raises ValueError or OSError with one sentence where the user has to change something.
"""
