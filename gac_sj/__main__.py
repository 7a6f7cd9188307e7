"""``python -m gac_sj``: the commands of :mod:`gac_sj.cli`."""

import sys

from gac_sj.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
