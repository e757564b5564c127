"""The order becomes durable answers."""
