"""From logits to tokens, log probabilities and text: `sampler`, `logprobs`, `stops`, `token_text`.

What a request may ask for is in `settings`, which needs the standard library alone.
"""
