"""OpenInference's instrumentation of the OpenAI client."""

from openai import OpenAI
from openinference.instrumentation.openai import OpenAIInstrumentor

from tests.producers.asking import by_openai, running
from tests.producers.tools.otlp import tracing, write_spans

if __name__ == "__main__":
    with running("openinference-instrumentation-openai", "openai") as run:
        provider, kept = tracing()
        OpenAIInstrumentor().instrument(tracer_provider=provider)
        run.each(by_openai(OpenAI(base_url=f"{run.api.url}/v1", api_key="none", max_retries=0)))
        write_spans(run, kept)
