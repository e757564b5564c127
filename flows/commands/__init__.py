"""The commands of `nightblend`: one module each, listed in `flows.cli.COMMANDS`.

A module offers `add(commands)`, which adds its parser, and `execute(options)`, which does the work and
returns the exit code. What it imports at its top is what `nightblend --help` waits for, so heavy imports go
inside.
"""
