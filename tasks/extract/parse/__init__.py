"""Records become rows: requests, errors, quarantine."""
