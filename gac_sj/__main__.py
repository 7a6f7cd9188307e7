"""python -m gac_sj: the commands of :mod:`gac_sj.command_line`."""

import sys

from gac_sj.command_line import main

if __name__ == "__main__":
    sys.exit(main())
