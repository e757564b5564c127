"""``python -m engine FOLDER FD``: the engine process; see `engine.worker`."""

import sys

from engine.worker import main

sys.exit(main(sys.argv[1:]))
