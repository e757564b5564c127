"""What people see: terminal, progress, Prefect artifacts and events."""
