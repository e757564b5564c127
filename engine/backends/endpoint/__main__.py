"""``python -m engine.backends.endpoint FOLDER FD``: the process that asks the servers."""

import resource
import sys

if __name__ == "__main__":
    # A connection is an open file, and the usual limit is that of two servers.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    from engine.backends.endpoint.answer import answer
    from engine.backends.process import main

    sys.exit(main(answer, sys.argv[1:]))
