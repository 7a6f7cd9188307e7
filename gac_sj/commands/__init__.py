"""The commands of :mod:`gac_sj.command_line`: each module's docstring is its help, and it has two functions.

``add_arguments(parser)`` says what the command takes; ``run(args)`` does it, and raises ValueError or OSError with one
sentence where the user has to change something.
"""
