"""Servers with an OpenAI-compatible API; ``python -m engine.backends.endpoint FOLDER FD`` asks them.

Begin with `answer`. `options` is what a night may set, `examine` what is found out about the servers before
any work; `bodies` is what is sent and what counts as an answer; `feed` says which request goes to which
server next, `limit` how many at a time, `server` how one is doing.
"""
