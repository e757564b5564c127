"""From logits to tokens, log probabilities and text."""
