"""Several dates: in this process, as flow runs, and catching up."""
