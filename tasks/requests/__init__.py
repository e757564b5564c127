"""What a request asks for, whatever log it came from: body, prompt, sampling, choices.

Begin with `bodies`, which takes the body of a request apart.
"""
