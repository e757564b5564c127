"""The commands of `nightblend`, a module each; `flows.cli` lists them and loads the one that is typed.

A module offers `make_parser()`, its options, and `execute(options)`, which does the work and returns the exit
code. What it imports at its top is what `nightblend COMMAND --help` waits for, so heavy imports go inside.
"""
