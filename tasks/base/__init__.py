"""What everything else stands on: errors, accounting, table schemas, identity, the run date."""
