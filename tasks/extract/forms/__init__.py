"""Bodies of other APIs, as bodies of OpenAI chat and text completions.

A form's fields are renamed to those of OpenAI. One without a counterpart keeps its name, so that it is
refused by it; one that cannot change the answer is set aside, to come back with it.

Begin with `any_form`, which tells what form a body has.
"""
