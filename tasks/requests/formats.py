"""Names of the formats, for whoever only offers a choice: the readers themselves take longer to import."""

from __future__ import annotations

from typing import Final

AUTO: Final = "auto"
GENERIC: Final = "generic"
FORMATS: Final = (
    AUTO,
    "openai-batch",
    "openai-output",
    "openai-body",
    "litellm",
    "bedrock",
    "bedrock-logs",
    "bedrock-converse",
    "openai-responses",
    "anthropic-batch",
    "gemini-batch",
    "databricks",
    "otel",
    "langfuse",
    "helicone",
    "canonical",
    "wildchat",
    "sharegpt",
    "mooncake",
    "azure-llm",
    "burstgpt",
    GENERIC,
)
"""What `--format` takes; the readers are in `tasks.extract.readers.registry`."""
