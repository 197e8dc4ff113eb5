"""``python -m captum_globenc`` is the ``captum-globenc`` command."""

import sys

from captum_globenc.app.cli import main

sys.exit(main())
