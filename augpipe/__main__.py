"""`python -m augpipe`: the command line."""

import sys

from augpipe.cli.main import main

sys.exit(main())
