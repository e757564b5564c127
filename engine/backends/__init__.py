"""What answers a job folder: one module per engine, behind one contract."""
