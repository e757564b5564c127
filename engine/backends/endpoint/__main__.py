"""``python -m engine.backends.endpoint FOLDER FD``: the process that asks the servers."""

import sys

if __name__ == "__main__":
    from engine.backends.endpoint.answer import answer
    from engine.backends.process import main

    sys.exit(main(answer, sys.argv[1:]))
