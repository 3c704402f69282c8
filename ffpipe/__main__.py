"""`python -m ffpipe` does what `ffpipe` does."""

import sys

from ffpipe.commands.cli import main


def run() -> None:
    """Entry point of the installed command."""
    sys.exit(main())


if __name__ == "__main__":
    run()
