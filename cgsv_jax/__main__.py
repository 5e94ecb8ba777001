"""`python -m cgsv_jax` is `cgsv`."""

import sys

from cgsv_jax.cli import main

sys.exit(main())
