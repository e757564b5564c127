"""``PYTHON -m engine.backends.sglang FOLDER FD``: the process that feeds SGLang."""

import os
import sys

# SGLang's own processes begin by importing this file.
if __name__ == "__main__":
    # What is set is left as it is; each is read when SGLang is imported.
    for name, value in {
        # Log probabilities of the model, before temperature: as ours.
        "SGLANG_RETURN_ORIGINAL_LOGPROB": "1",
        # Nothing is fetched.
        "HF_HUB_OFFLINE": "1",
    }.items():
        os.environ.setdefault(name, value)

    from engine.backends.foreign.order import prepare
    from engine.backends.process import leave, main
    from engine.backends.sglang.answer import answer

    leave(main(answer, sys.argv[1:], prepare))
