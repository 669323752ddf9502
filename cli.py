"""`python cli.py COMMAND`: the command line from a checkout."""

import sys

from facegallery.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
