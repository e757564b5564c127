"""What a request asks for: body, prompt, sampling, choices, log probabilities."""
