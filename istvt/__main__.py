"""`istvt`, and `python -m istvt`: the command line from its first import to its exit status."""

import sys

from istvt.cli.stops import end_at_once, handle_stops


def main() -> int:
    """Run one command and return the exit status; see `istvt.cli.main.main`."""
    handle_stops(end_at_once)  # and at the end, while Python cleans up
    from istvt.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
