"""`python -m helpers.study` is the command `study`."""

import sys

from helpers.study.command import main

sys.exit(main())
