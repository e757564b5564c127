"""Cost becomes an order."""
