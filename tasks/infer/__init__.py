"""The order becomes durable answers.

Begin with `infer`: an engine runs behind `backends/`, `session` takes its messages, `part_writer` writes them
down. `placement/` says where all that is done.
"""
