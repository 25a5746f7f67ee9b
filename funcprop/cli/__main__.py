"""python -m funcprop.cli"""

import sys

from funcprop.cli import main

sys.exit(main())
