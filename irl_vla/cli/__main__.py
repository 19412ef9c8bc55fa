"""`python -m irl_vla.cli`: the command line."""

import sys

from irl_vla.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
