"""How a night that computes elsewhere finds and starts its flow run there."""
