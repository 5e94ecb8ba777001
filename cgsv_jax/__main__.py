"""`python -m cgsv_jax` is `cgsv`."""

import sys

from cgsv_jax.command.main import main

sys.exit(main())
