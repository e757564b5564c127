"""Which request is admitted next, and how many tokens a step takes."""
