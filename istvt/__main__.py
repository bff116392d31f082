"""`python -m istvt` is `istvt`."""

import sys

from .command_line import main

sys.exit(main())
