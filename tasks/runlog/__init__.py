"""The only memory of a run: records, their fold, parts, and who holds the run."""
