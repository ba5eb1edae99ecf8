"""`python -m faiss_qinco.cli`, also for `torchrun -m`."""

import sys

from . import main

sys.exit(main())
