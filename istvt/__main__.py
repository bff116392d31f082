"""`python -m istvt` is `istvt`."""

import sys

from istvt.cli.main import main

sys.exit(main())
