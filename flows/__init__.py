"""What a person triggers: the nightly flow, its parameters and the command line."""
