"""Records of every log format, written after its published schema with our own content.

`SAMPLES[name]` are records in the order of a file, `EXPECTED[name]` what some columns of their rows must
hold. The first records lack fields that later ones have, and contents come as texts and as lists of parts.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

T0 = datetime(2026, 3, 1, 8, 30, tzinfo=UTC)
EPOCH = T0.timestamp()


def chat(*turns: tuple[str, str]) -> str:
    return json.dumps(
        [{"content": text, "role": role} for role, text in turns], separators=(",", ":"), ensure_ascii=False
    )


PARTS = [{"type": "text", "text": "Grüße "}, {"type": "text", "text": "an alle"}]

SAMPLES: dict[str, list[dict[str, Any]]] = {
    "openai-batch": [
        {
            "custom_id": "a",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": "Name a river."}]},
        },
        {
            "custom_id": "b",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "m",
                "messages": [{"role": "user", "content": PARTS}],
                "max_tokens": 7,
                "metadata": {"workload": "greet"},
            },
        },
        {"custom_id": "c", "url": "/v1/completions", "body": {"prompt": "Once", "temperature": 0.5}},
    ],
    "openai-output": [
        {
            "id": "batch_req_1",
            "custom_id": "a",
            "response": {
                "status_code": 200,
                "request_id": "r1",
                "body": {
                    "id": "chatcmpl-1",
                    "object": "chat.completion",
                    "created": int(EPOCH),
                    "model": "m",
                    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Elbe"}}],
                    "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13},
                },
            },
            "error": None,
        },
        {
            "id": "batch_req_2",
            "custom_id": "b",
            "response": {
                "status_code": 200,
                "body": {"object": "response", "usage": {"input_tokens": 5, "output_tokens": 9}},
            },
            "error": None,
        },
        {
            "id": "batch_req_3",
            "custom_id": "c",
            "response": {"status_code": 500, "body": {}},
            "error": {"code": "server_error"},
        },
        {
            "id": "batch_req_4",
            "custom_id": "d",
            "response": {
                "status_code": 200,
                "body": {
                    "object": "chat.completion",
                    "choices": [{"index": 0}, {"index": 1}],
                    "usage": {"prompt_tokens": 7, "completion_tokens": 8},
                },
            },
            "error": None,
        },
    ],
    "openai-body": [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "One?"},
                {"role": "assistant", "content": "Two"},
            ]
        },
        {"model": "m", "messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 7},
        {
            "id": "b3",
            "messages": [
                {"role": "user", "content": "One?"},
                {"role": "assistant", "content": "Two", "weight": 0},
                {"role": "user", "content": "Three?"},
                {"role": "assistant", "content": "Four", "weight": 1},
            ],
        },
        {"id": 4, "model": "m", "prompt": "Once", "completion": " upon", "created": int(EPOCH)},
        {"messages": [{"role": "user", "content": "One?"}], "tools": [{"type": "function"}]},
        {"messages": [{"role": "assistant", "content": "Two"}]},
    ],
    "litellm": [
        {
            "id": "call-1",
            "call_type": "acompletion",
            "status": "success",
            "startTime": EPOCH,
            "endTime": EPOCH + 1.5,
            "completionStartTime": EPOCH + 0.2,
            "model": "gpt-x",
            "messages": [{"role": "user", "content": "Name a river."}],
            "response": {"choices": []},
            "prompt_tokens": 11,
            "completion_tokens": 4,
            "model_parameters": {},
            "metadata": {},
            "cache_hit": None,
        },
        {
            "id": "call-2",
            "call_type": "completion",
            "status": "failure",
            "startTime": EPOCH + 2,
            "endTime": EPOCH + 3,
            "model": "gpt-x",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PARTS}],
            "response": None,
            "prompt_tokens": 9,
            "completion_tokens": 0,
            "model_parameters": {"max_tokens": 20, "temperature": 0.25, "stream": True},
            "metadata": {"user_api_key_hash": "never-shown", "user_api_key_team_alias": "search"},
            "request_tags": ["night"],
            "end_user": "u7",
        },
        {
            "id": "call-3",
            "call_type": "aembedding",
            "startTime": EPOCH,
            "model": "emb",
            "messages": [{"role": "user", "content": "x"}],
        },
        {
            "id": "call-4",
            "call_type": "acompletion",
            "status": "success",
            "startTime": EPOCH,
            "endTime": EPOCH + 1,
            "model": "gpt-x",
            "messages": [{"role": "user", "content": "redacted-by-litellm"}],
            "prompt_tokens": 77,
            "completion_tokens": 3,
        },
    ],
    "azure-llm": [
        {"TIMESTAMP": "2026-03-01 08:30:00.1234567", "ContextTokens": "100", "GeneratedTokens": "7"},
        {"TIMESTAMP": "2026-03-01 08:30:01.0000000", "ContextTokens": "1", "GeneratedTokens": "0"},
    ],
    "azure-multimodal": [
        {
            "TIMESTAMP": "2026-03-01 08:30:00.5000000",
            "NumImages": "2",
            "ContextTokens": "900",
            "GeneratedTokens": "40",
        },
        {
            "TIMESTAMP": "2026-03-01 08:30:09.0000001",
            "NumImages": "0",
            "ContextTokens": "30",
            "GeneratedTokens": "4",
        },
    ],
    "burstgpt": [
        {
            "Timestamp": "45",
            "Session ID": "s1",
            "Elapsed time": "2.5",
            "Model": "GPT-4",
            "Request tokens": "472",
            "Response tokens": "18",
            "Total tokens": "490",
            "Log Type": "Conversation log",
        },
        {
            "Timestamp": "46",
            "Session ID": "",
            "Elapsed time": "",
            "Model": "ChatGPT",
            "Request tokens": "10",
            "Response tokens": "0",
            "Total tokens": "10",
            "Log Type": "API log",
        },
    ],
    "burstgpt-old": [
        {
            "Timestamp": "5",
            "Model": "ChatGPT",
            "Request tokens": "472",
            "Response tokens": "18",
            "Total tokens": "490",
            "Log Type": "API log",
        },
    ],
    "mooncake": [
        {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 27, "input_length": 513, "output_length": 6, "hash_ids": [0, 2]},
    ],
    "sharegpt": [
        {
            "id": "c1",
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
        },
        {
            "id": "c2",
            "model": "v1",
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "One?"},
                {"from": "gpt", "value": "Two"},
                {"from": "human", "value": "Three?"},
                {"from": "gpt", "value": "Four"},
            ],
        },
        {"id": "c3", "conversations": [{"from": "gpt", "value": "only an answer"}]},
    ],
    "wildchat": [
        {
            "conversation_hash": "h1",
            "model": "gpt-4",
            "timestamp": T0.isoformat(),
            "conversation": [
                {"role": "user", "content": "Hi", "country": "X", "hashed_ip": "never-shown"},
                {"role": "assistant", "content": "Hello"},
            ],
            "turn": 1,
            "language": "English",
            "hashed_ip": "never-shown",
        },
        {
            "conversation_hash": "h2",
            "model": "gpt-4",
            "timestamp": T0.isoformat(),
            "conversation": [
                {"role": "user", "content": "One?"},
                {"role": "assistant", "content": "Two"},
                {"role": "user", "content": "Three?"},
                {"role": "assistant", "content": "Four"},
            ],
            "turn": 2,
            "language": "German",
        },
    ],
    "bedrock": [
        {
            "recordId": "R1",
            "modelInput": {
                "anthropic_version": "bedrock-2023-05-31",
                "max_tokens": 64,
                "messages": [{"role": "user", "content": [{"type": "text", "text": "Name a river."}]}],
            },
        },
        {
            "recordId": "R2",
            "modelInput": {
                "inputText": "Once",
                "textGenerationConfig": {"maxTokenCount": 9, "topP": 0.5, "stopSequences": ["."]},
            },
        },
        {
            "recordId": "R3",
            "modelInput": {
                "system": [{"text": "Be brief."}],
                "messages": [{"role": "user", "content": [{"text": "One?"}]}],
                "inferenceConfig": {"maxTokens": 5, "temperature": 0.5},
            },
        },
        {"recordId": "R4", "modelInput": {"prompt": "Twice", "max_gen_len": 3}},
        {
            "recordId": "R5",
            "modelInput": {"messages": [{"role": "user", "content": "x"}], "thinking": {"type": "enabled"}},
        },
        {
            "recordId": "R6",
            "modelInput": {
                "anthropic_version": "bedrock-2023-05-31",
                "max_tokens": 64,
                "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}],
            },
        },
    ],
    "otel": [
        {
            "trace_id": "t1",
            "span_id": "s1",
            "name": "chat m",
            "start_time": T0.isoformat(),
            "end_time": "2026-03-01T08:30:02.500000Z",
            "attributes": {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "m",
                "gen_ai.usage.input_tokens": 11,
                "gen_ai.usage.output_tokens": 4,
                "gen_ai.input.messages": [
                    {"role": "user", "parts": [{"type": "text", "content": "Name a river."}]}
                ],
            },
        },
        {
            "traceId": "t1",
            "spanId": "s2",
            "startTimeUnixNano": str(int(EPOCH) * 10**9),
            "endTimeUnixNano": str(int(EPOCH) * 10**9 + 10**9),
            "attributes": [
                {"key": "gen_ai.request.model", "value": {"stringValue": "m"}},
                {"key": "gen_ai.request.max_tokens", "value": {"intValue": "12"}},
                {"key": "gen_ai.request.temperature", "value": {"doubleValue": 0.5}},
                {
                    "key": "gen_ai.request.stop_sequences",
                    "value": {"arrayValue": {"values": [{"stringValue": "."}]}},
                },
                {
                    "key": "gen_ai.system_instructions",
                    "value": {"stringValue": json.dumps([{"type": "text", "content": "Be brief."}])},
                },
                {
                    "key": "gen_ai.input.messages",
                    "value": {
                        "stringValue": json.dumps(
                            [{"role": "user", "parts": [{"type": "text", "content": "One?"}]}]
                        )
                    },
                },
            ],
        },
        {"trace_id": "t1", "span_id": "s3", "name": "GET /", "attributes": {"http.method": "GET"}},
        {
            "trace_id": "t2",
            "span_id": "s4",
            "attributes": {
                "llm.request.type": "chat",
                "gen_ai.request.model": "m",
                "gen_ai.prompt.0.role": "system",
                "gen_ai.prompt.0.content": "Be brief.",
                "gen_ai.prompt.1.role": "user",
                "gen_ai.prompt.1.content": "Three?",
                "gen_ai.usage.prompt_tokens": 8,
                "gen_ai.usage.completion_tokens": 6,
            },
        },
        {
            "trace_id": "t2",
            "span_id": "s5",
            "attributes": {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 21},
        },
    ],
    "langfuse": [
        {
            "id": "o1",
            "trace_id": "t",
            "type": "GENERATION",
            "name": "triage",
            "start_time": T0.isoformat(),
            "end_time": "2026-03-01T08:30:03Z",
            "input": [{"role": "user", "content": "Name a river."}],
            "output": {"role": "assistant", "content": "Elbe"},
            "provided_model_name": "m",
            "model_parameters": json.dumps({"temperature": 0.5, "max_tokens": 20}),
            "usage_details": {"input": 11, "output": 4, "total": 15},
            "latency": 3.0,
        },
        {"id": "o2", "trace_id": "t", "type": "SPAN", "start_time": T0.isoformat(), "input": {"q": 1}},
        {
            "id": "o3",
            "trace_id": "t",
            "type": "GENERATION",
            "start_time": "2026-03-01 08:30:00.000",
            "input": json.dumps({"messages": [{"role": "user", "content": PARTS}]}),
            "provided_model_name": "m",
            "usage_details": json.dumps({"input": 3, "output": 2}),
        },
        {
            "id": "o4",
            "trace_id": "t",
            "type": "GENERATION",
            "start_time": T0.isoformat(),
            "input": "Just text",
            "provided_model_name": "m",
            "metadata": {"workload": "free"},
        },
        {
            "id": "o5",
            "trace_id": "t",
            "type": "GENERATION",
            "start_time": T0.isoformat(),
            "input": None,
            "usage_details": {"input": 30, "output": 1},
        },
    ],
    "helicone": [
        {
            "request_id": "q1",
            "request_created_at": T0.isoformat(),
            "request_body": {"model": "m", "messages": [{"role": "user", "content": "Name a river."}]},
            "response_body": {"choices": []},
            "prompt_tokens": 11,
            "completion_tokens": 4,
            "delay_ms": 1500,
            "request_model": "m",
            "request_properties": None,
        },
        {
            "request_id": "q2",
            "request_created_at": "2026-03-01 08:30:00",
            "request_body": json.dumps({"prompt": "Once", "max_tokens": 5}),
            "response_body": "{}",
            "prompt_tokens": 1,
            "completion_tokens": 5,
            "delay_ms": 20,
            "request_model": "m",
            "request_properties": {"workload": "tales", "tenant": "acme"},
        },
        {
            "request_id": "q3",
            "request_created_at": T0.isoformat(),
            "request_body": "",
            "prompt_tokens": 42,
            "completion_tokens": None,
            "delay_ms": None,
        },
    ],
    "openai-responses": [
        {
            "custom_id": "a",
            "method": "POST",
            "url": "/v1/responses",
            "body": {"model": "m", "input": "Name a river.", "max_output_tokens": 20, "store": False},
        },
        {
            "custom_id": "b",
            "method": "POST",
            "url": "/v1/responses",
            "body": {
                "model": "m",
                "instructions": "Be brief.",
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "One?"}]},
                    {
                        "type": "message",
                        "id": "msg_1",
                        "status": "completed",
                        "role": "assistant",
                        "content": [{"type": "output_text", "text": "Two", "annotations": []}],
                    },
                    {"role": "user", "content": "Three?"},
                ],
                "text": {"format": {"type": "text"}},
                "reasoning": {"effort": None},
                "truncation": "disabled",
                "metadata": {"workload": "greet"},
            },
        },
        {
            "custom_id": "c",
            "url": "/v1/responses",
            "body": {
                "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://h/x"}]}]
            },
        },
        {"custom_id": "d", "url": "/v1/responses", "body": {"input": "x", "previous_response_id": "r"}},
        {"custom_id": "e", "url": "/v1/responses", "body": {"model": "m", "input": []}},
        {"custom_id": "f", "url": "/v1/responses"},
    ],
    "anthropic-batch": [
        {
            "custom_id": "a",
            "params": {
                "model": "m",
                "max_tokens": 20,
                "messages": [{"role": "user", "content": "Name a river."}],
            },
        },
        {
            "custom_id": "b",
            "params": {
                "model": "m",
                "max_tokens": 5,
                "system": [
                    {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
                ],
                "messages": [{"role": "user", "content": [{"type": "text", "text": "One?"}]}],
                "stop_sequences": ["."],
                "temperature": 0.5,
                "thinking": {"type": "disabled"},
                "metadata": {"user_id": "u"},
            },
        },
        {
            "custom_id": "c",
            "params": {
                "max_tokens": 5,
                "tools": [{"name": "f", "input_schema": {"type": "object"}}],
                "messages": [{"role": "user", "content": "x"}],
            },
        },
        {
            "custom_id": "d",
            "params": {
                "max_tokens": 5,
                "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}],
            },
        },
        {"custom_id": "e", "params": None},
    ],
    "gemini-batch": [
        {
            "key": "a",
            "request": {"contents": [{"role": "user", "parts": [{"text": "Name a river."}]}]},
        },
        {
            "key": "b",
            "request": {
                "systemInstruction": {"parts": [{"text": "Be brief."}]},
                "contents": [
                    {"parts": [{"text": "One?"}], "role": "user"},
                    {"parts": [{"text": "hm", "thought": True}, {"text": "Two"}], "role": "model"},
                    {"parts": [{"text": "Three?"}]},
                ],
                "generationConfig": {
                    "maxOutputTokens": 9,
                    "temperature": 0.5,
                    "topK": 4,
                    "stopSequences": ["."],
                    "candidateCount": 1,
                    "responseMimeType": "text/plain",
                },
                "safetySettings": [{"category": "c", "threshold": "BLOCK_NONE"}],
            },
        },
        {
            "request": {
                "contents": [
                    {"role": "user", "parts": [{"text": "x"}, {"fileData": {"fileUri": "gs://b/o"}}]}
                ]
            },
        },
        {
            "request": {
                "contents": [{"role": "user", "parts": [{"text": "x"}]}],
                "generationConfig": {"responseMimeType": "application/json"},
            },
        },
        {
            "status": "",
            "processed_time": "2026-03-01T08:30:09.000+00:00",
            "request": {"contents": [{"role": "user", "parts": [{"text": "Name a river."}]}]},
            "response": {
                "candidates": [],
                "createTime": T0.isoformat(),
                "modelVersion": "m-002",
                "usageMetadata": {
                    "promptTokenCount": 5,
                    "candidatesTokenCount": 2,
                    "thoughtsTokenCount": 30,
                },
            },
        },
        {
            "custom_id": "v",
            "request": {
                "anthropic_version": "vertex-2023-10-16",
                "system": "Be brief.",
                "max_tokens": 9,
                "messages": [{"role": "user", "content": "One?"}],
            },
        },
        {"key": "e", "request": 5},
    ],
    "bedrock-logs": [
        {
            "schemaType": "ModelInvocationLog",
            "schemaVersion": "1.0",
            "timestamp": "2026-03-01T08:30:00Z",
            "accountId": "111122223333",
            "identity": {"arn": "never-shown"},
            "region": "eu-central-1",
            "requestId": "q1",
            "operation": "Converse",
            "modelId": "amazon.nova-lite-v1:0",
            "input": {
                "inputContentType": "application/json",
                "inputBodyJson": {
                    "messages": [
                        {"role": "user", "content": [{"text": "One?"}, {"cachePoint": {"type": "default"}}]}
                    ],
                    "system": [{"text": "Be brief."}],
                    "inferenceConfig": {"maxTokens": 20, "temperature": 0.5, "stopSequences": []},
                    "additionalModelRequestFields": {},
                },
                "inputTokenCount": 11,
            },
            "output": {
                "outputContentType": "application/json",
                "outputBodyJson": {"output": {"message": {}}, "metrics": {"latencyMs": 1500}},
                "outputTokenCount": 4,
            },
        },
        {
            "schemaType": "ModelInvocationLog",
            "timestamp": "2026-03-01T08:30:00Z",
            "requestId": "q2",
            "operation": "InvokeModelWithResponseStream",
            "modelId": "anthropic.claude-3-haiku-20240307-v1:0",
            "input": {
                "inputBodyJson": {
                    "anthropic_version": "bedrock-2023-05-31",
                    "max_tokens": 64,
                    "messages": [{"role": "user", "content": [{"type": "text", "text": "Name a river."}]}],
                },
                "inputTokenCount": 5,
            },
            "output": {"outputBodyJson": [{"type": "message_start"}], "outputTokenCount": 2},
        },
        {
            "schemaType": "ModelInvocationLog",
            "timestamp": "2026-03-01T08:30:00Z",
            "requestId": "q3",
            "operation": "InvokeModel",
            "modelId": "meta.llama3-8b-instruct-v1:0",
            "input": {
                "inputBodyS3Path": "s3://logs/data/q3_input.json.gz",
                "inputTokenCount": 9000,
                "cacheReadInputTokenCount": 1000,
            },
            "output": {"outputTokenCount": 7},
        },
        {
            "schemaType": "ModelInvocationLog",
            "timestamp": "2026-03-01T08:30:00Z",
            "requestId": "q4",
            "operation": "InvokeModel",
            "modelId": "amazon.titan-embed-text-v2:0",
            "input": {"inputBodyJson": {"inputText": "x"}, "inputTokenCount": 1},
        },
        {
            "schemaType": "ModelInvocationLog",
            "timestamp": "2026-03-01T08:30:00Z",
            "requestId": "q5",
            "operation": "Converse",
            "modelId": "m",
            "input": {
                "inputBodyJson": {
                    "messages": [{"role": "user", "content": [{"text": "x"}]}],
                    "toolConfig": {"tools": [{"toolSpec": {"name": "f"}}]},
                }
            },
        },
        {
            "schemaType": "ModelInvocationLog",
            "timestamp": "2026-03-01T08:30:00Z",
            "requestId": "q6",
            "operation": "InvokeModel",
            "modelId": "stability.sd3-large-v1:0",
            "input": {"inputBodyJson": {"text_prompts": [{"text": "x"}]}},
        },
        {
            "schemaType": "ModelInvocationLog",
            "requestId": "q7",
            "operation": "Converse",
            "modelId": "m",
            "input": {},
        },
    ],
    "bedrock-converse": [
        {
            "modelId": "m",
            "messages": [{"role": "user", "content": [{"text": "Name a river."}]}],
        },
        {
            "requestId": "q2",
            "timestamp": T0.isoformat(),
            "modelId": "m",
            "system": [{"text": "Be brief."}],
            "messages": [{"role": "user", "content": [{"text": "One?"}]}],
            "inferenceConfig": {"maxTokens": 20, "topP": 0.5},
            "requestMetadata": {"app": "x"},
            "output": {"message": {"role": "assistant", "content": [{"text": "Two"}]}},
            "stopReason": "end_turn",
            "usage": {"inputTokens": 7, "outputTokens": 2, "totalTokens": 9},
            "metrics": {"latencyMs": 250},
        },
        {
            "request": {
                "modelId": "m",
                "messages": [{"role": "user", "content": [{"image": {"format": "png"}}]}],
            },
            "response": {"usage": {"inputTokens": 7, "outputTokens": 2}},
        },
        {
            "modelId": "m",
            "messages": [{"role": "user", "content": [{"text": "x"}]}],
            "guardrailConfig": {"guardrailIdentifier": "g"},
        },
    ],
    "databricks": [
        {
            "databricks_request_id": "q1",
            "client_request_id": "c1",
            "timestamp_ms": int(EPOCH) * 1000,
            "date": "2026-03-01",
            "status_code": 200,
            "execution_time_ms": 1500,
            "sampling_fraction": 1.0,
            "request": json.dumps(
                {"messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 20}
            ),
            "response": json.dumps({"usage": {"prompt_tokens": 11, "completion_tokens": 4}}),
            "request_metadata": {"endpoint_name": "e", "model_name": "m", "model_version": "3"},
        },
        {
            "databricks_request_id": "q2",
            "request_time": T0.isoformat(),
            "status_code": 200,
            "execution_duration_ms": 20,
            "request": json.dumps({"prompt": "Once", "max_tokens": 5, "model": "named"}),
            "response": "{}",
            "served_entity_name": "e",
        },
        {
            "databricks_request_id": "q3",
            "timestamp_ms": int(EPOCH) * 1000,
            "status_code": 200,
            "request": json.dumps({"dataframe_split": {"columns": ["x"], "data": [[1]]}}),
            "response": "{}",
        },
        {
            "databricks_request_id": "q4",
            "timestamp_ms": int(EPOCH) * 1000,
            "status_code": 200,
            "request": json.dumps({"input": ["Name a river."]}),
            "response": json.dumps({"object": "list", "data": [{"object": "embedding"}]}),
        },
        {
            "databricks_request_id": "q5",
            "timestamp_ms": int(EPOCH) * 1000,
            "status_code": 200,
            "request": None,
            "response": json.dumps({"usage": {"prompt_tokens": 4000, "completion_tokens": 4}}),
        },
        {
            "databricks_request_id": "q6",
            "timestamp_ms": int(EPOCH) * 1000,
            "request": json.dumps(
                {"input": [{"role": "user", "content": "One?"}], "instructions": "Be brief."}
            ),
        },
        {"databricks_request_id": "q7", "timestamp_ms": int(EPOCH) * 1000, "request": "[1]"},
        {"databricks_request_id": "q8", "timestamp_ms": int(EPOCH) * 1000, "request": None},
    ],
    "mlflow": [
        {
            "trace_id": "t1",
            "span_id": "s1",
            "name": "Completions",
            "start_time_unix_nano": int(EPOCH) * 10**9,
            "end_time_unix_nano": int(EPOCH) * 10**9 + 1_500_000_000,
            "attributes": {
                "mlflow.traceRequestId": '"tr-1"',
                "mlflow.spanType": '"CHAT_MODEL"',
                "mlflow.spanInputs": json.dumps(
                    {
                        "model": "m",
                        "messages": [{"role": "user", "content": "Name a river."}],
                        "max_tokens": 20,
                    }
                ),
                "mlflow.spanOutputs": "{}",
                "mlflow.chat.tokenUsage": json.dumps(
                    {"input_tokens": 11, "output_tokens": 4, "total_tokens": 15}
                ),
            },
        },
        {
            "trace_id": "t1",
            "span_id": "s2",
            "attributes": {"mlflow.spanType": '"CHAIN"', "mlflow.spanInputs": '{"messages": []}'},
        },
        {
            "trace_id": "t1",
            "span_id": "s3",
            "attributes": {
                "mlflow.spanType": '"CHAT_MODEL"',
                "mlflow.spanInputs": json.dumps(
                    [
                        [
                            {"content": "Be brief.", "type": "system", "additional_kwargs": {}, "name": None},
                            {"content": "One?", "type": "human", "example": False, "id": None},
                        ]
                    ]
                ),
                "invocation_params": json.dumps(
                    {"model": "m", "_type": "chat", "temperature": 0.5, "stop": None}
                ),
            },
        },
        {
            "trace_id": "t1",
            "span_id": "s4",
            "attributes": {
                "mlflow.spanType": '"CHAT_MODEL"',
                "mlflow.spanInputs": json.dumps({"messages": [{"role": "user", "content": "x"}]}),
                "mlflow.chat.tools": json.dumps([{"type": "function", "function": {"name": "f"}}]),
            },
        },
        {
            "trace_id": "t1",
            "span_id": "s5",
            "attributes": {
                "mlflow.spanType": '"LLM"',
                "mlflow.spanInputs": "null",
                "mlflow.chat.tokenUsage": '{"input_tokens": 21, "output_tokens": 1}',
            },
        },
    ],
    "openinference": [
        {
            "name": "ChatCompletion",
            "context": {"trace_id": "t1", "span_id": "s1"},
            "start_time": T0.isoformat(),
            "end_time": "2026-03-01T08:30:02.500000Z",
            "attributes": {
                "openinference.span.kind": "LLM",
                "input.value": json.dumps(
                    {
                        "model": "m",
                        "messages": [{"role": "user", "content": "Name a river."}],
                        "max_tokens": 20,
                    }
                ),
                "input.mime_type": "application/json",
                "llm.token_count.prompt": 11,
                "llm.token_count.completion": 4,
            },
        },
        {
            "name": "chain",
            "context": {"trace_id": "t1", "span_id": "s2"},
            "attributes": {"openinference.span.kind": "CHAIN", "input.value": "x"},
        },
        {
            "name": "llm",
            "context": {"trace_id": "t1", "span_id": "s3"},
            "attributes": {
                "openinference": {"span": {"kind": "LLM"}},
                "llm": {
                    "model_name": "m",
                    "invocation_parameters": '{"temperature": 0.5}',
                    "input_messages": [
                        {"message": {"role": "system", "content": "Be brief."}},
                        {"message": {"role": "user", "content": "One?"}},
                    ],
                },
            },
        },
        {
            "name": "llm",
            "context": {"trace_id": "t1", "span_id": "s4"},
            "attributes": {
                "openinference.span.kind": "LLM",
                "input.value": "__REDACTED__",
                "llm.token_count.prompt": 21,
            },
        },
    ],
    "langfuse-spans": [
        {
            "traceId": "t1",
            "spanId": "s1",
            "name": "ask",
            "startTimeUnixNano": str(int(EPOCH) * 10**9),
            "endTimeUnixNano": str(int(EPOCH) * 10**9 + 1_500_000_000),
            "attributes": {
                "langfuse.observation.type": "generation",
                "langfuse.observation.input": json.dumps([{"role": "user", "content": "Name a river."}]),
                "langfuse.observation.model.name": "m",
                "langfuse.observation.model.parameters": '{"max_tokens": 20}',
                "langfuse.observation.usage_details": '{"input": 11, "output": 4}',
            },
        },
        {"traceId": "t1", "spanId": "s2", "attributes": {"langfuse.observation.type": "span"}},
        {
            "traceId": "t1",
            "spanId": "s3",
            "attributes": {
                "langfuse.observation.type": "generation",
                "langfuse.observation.input": json.dumps(
                    {"messages": [{"role": "user", "content": "One?"}], "tools": [{"type": "function"}]}
                ),
            },
        },
        {
            "traceId": "t1",
            "spanId": "s4",
            "attributes": {
                "langfuse.observation.type": "generation",
                "langfuse.observation.usage_details": '{"input": 21}',
            },
        },
    ],
    "otel-events": [
        {
            "traceId": "t1",
            "spanId": "s1",
            "timeUnixNano": str(int(EPOCH) * 10**9),
            "eventName": "gen_ai.client.inference.operation.details",
            "body": {},
            "attributes": {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "m",
                "gen_ai.request.max_tokens": 20,
                "gen_ai.usage.output_tokens": 4,
                "gen_ai.input.messages": [
                    {"role": "user", "parts": [{"type": "text", "content": "Name a river."}]}
                ],
            },
        },
        {
            "traceId": "t1",
            "spanId": "s2",
            "eventName": "gen_ai.user.message",
            "body": {"kvlistValue": {"values": [{"key": "content", "value": {"stringValue": "One?"}}]}},
            "attributes": {"gen_ai.system": "openai"},
        },
        {
            "traceId": "t1",
            "spanId": "s2",
            "body": {"message": {"content": "Two"}},
            "attributes": {"gen_ai.system": "openai", "event.name": "gen_ai.choice"},
        },
    ],
}

RIVER = chat(("user", "Name a river."))
GREET = chat(("user", "Grüße an alle"))
BRIEF = ("system", "Be brief.")

# Per record: a dict of columns of its row, or where else it goes.
EXPECTED: dict[str, list[dict[str, Any] | str]] = {
    "openai-batch": [
        {"custom_id": "a", "messages_json": RIVER, "requested_model": "m", "max_tokens": None},
        {"custom_id": "b", "messages_json": GREET, "max_tokens": 7, "workload": "greet"},
        {"custom_id": "c", "prompt": "Once", "endpoint": "completions"},
    ],
    "openai-output": [
        {
            "custom_id": "a",
            "input_tokens": 11,
            "observed_output_tokens": 2,
            "event_time": T0,
            "prefix_block_hashes": [],
        },
        {"custom_id": "b", "input_tokens": 5, "observed_output_tokens": 9},
        "failed_before",
        {"custom_id": "d", "input_tokens": 7, "observed_output_tokens": 4},
    ],
    "openai-body": [
        {"custom_id": None, "messages_json": chat(BRIEF, ("user", "One?")), "requested_model": None},
        {"messages_json": RIVER, "max_tokens": 7, "requested_model": "m", "sampling": None},
        {
            "custom_id": "b3",
            "messages_json": chat(("user", "One?"), ("assistant", "Two"), ("user", "Three?")),
        },
        {"custom_id": "4", "prompt": "Once", "endpoint": "completions", "event_time": T0},
        "unsupported_parameter",
        "empty_prompt",
    ],
    "litellm": [
        {
            "custom_id": "call-1",
            "messages_json": RIVER,
            "event_time": T0,
            "observed_latency_s": 1.5,
            "observed_output_tokens": 4,
            "requested_model": "gpt-x",
        },
        {
            "messages_json": chat(BRIEF, ("user", "Grüße an alle")),
            "max_tokens": 20,
            "tenant": "search",
            "observed_output_tokens": None,
            "observed_latency_s": None,
        },
        "filtered",
        {"input_tokens": 77, "messages_json": None, "prefix_block_hashes": []},
    ],
    "azure-llm": [
        {"input_tokens": 100, "observed_output_tokens": 7, "event_time": T0.replace(microsecond=123456)},
        {"input_tokens": 1, "observed_output_tokens": 0, "block_size": 1, "prefix_block_hashes": []},
    ],
    "azure-multimodal": [
        {"input_tokens": 900, "passthrough_json": '{"envelope":{"NumImages":2}}'},
        {"input_tokens": 30, "passthrough_json": '{"envelope":{"NumImages":0}}'},
    ],
    "burstgpt": [
        {
            "input_tokens": 472,
            "observed_output_tokens": 18,
            "observed_latency_s": 2.5,
            "requested_model": "GPT-4",
            "workload": "Conversation log",
            "event_time": None,
        },
        {"input_tokens": 10, "observed_output_tokens": None, "workload": "API log"},
    ],
    "burstgpt-old": [{"input_tokens": 472, "observed_latency_s": None}],
    "mooncake": [
        {"input_tokens": 1000, "prefix_block_hashes": [0, 1], "block_size": 512, "observed_output_tokens": 5},
        {"input_tokens": 513, "prefix_block_hashes": [0, 2]},
    ],
    "sharegpt": [
        {"custom_id": "c1", "messages_json": chat(("user", "Hi"))},
        {
            "messages_json": chat(BRIEF, ("user", "One?"), ("assistant", "Two"), ("user", "Three?")),
            "requested_model": "v1",
        },
        "empty_prompt",
    ],
    "wildchat": [
        {"custom_id": "h1", "messages_json": chat(("user", "Hi")), "event_time": T0},
        {
            "messages_json": chat(("user", "One?"), ("assistant", "Two"), ("user", "Three?")),
            "passthrough_json": '{"envelope":{"language":"German","turn":2}}',
        },
    ],
    "bedrock": [
        {"custom_id": "R1", "messages_json": RIVER, "max_tokens": 64},
        {"prompt": "Once", "max_tokens": 9, "endpoint": "completions"},
        {"messages_json": chat(BRIEF, ("user", "One?")), "max_tokens": 5},
        {"prompt": "Twice", "max_tokens": 3},
        "unsupported_parameter",
        {
            "custom_id": "R6",
            "messages_json": '[{"content":"x","role":"user"},'
            '{"content":"{","prefix":true,"role":"assistant"}]',
        },
    ],
    "otel": [
        {
            "custom_id": "t1/s1",
            "messages_json": RIVER,
            "event_time": T0,
            "observed_latency_s": 2.5,
            "observed_output_tokens": 4,
        },
        {
            "custom_id": "t1/s2",
            "messages_json": chat(BRIEF, ("user", "One?")),
            "max_tokens": 12,
            "event_time": T0,
            "observed_latency_s": 1.0,
        },
        "filtered",
        {"messages_json": chat(BRIEF, ("user", "Three?")), "observed_output_tokens": 6},
        {"input_tokens": 21, "prefix_block_hashes": []},
    ],
    "langfuse": [
        {
            "custom_id": "o1",
            "messages_json": RIVER,
            "max_tokens": 20,
            "workload": "triage",
            "observed_latency_s": 3.0,
            "observed_output_tokens": 4,
            "event_time": T0,
        },
        "filtered",
        {"messages_json": GREET, "observed_output_tokens": 2, "event_time": T0},
        {"messages_json": chat(("user", "Just text")), "workload": "free"},
        {"input_tokens": 30, "observed_output_tokens": 1},
    ],
    "helicone": [
        {"messages_json": RIVER, "observed_latency_s": 1.5, "event_time": T0, "observed_output_tokens": 4},
        {
            "prompt": "Once",
            "max_tokens": 5,
            "workload": "tales",
            "tenant": "acme",
            "requested_model": "m",
            "event_time": T0,
        },
        {"input_tokens": 42, "observed_output_tokens": None},
    ],
    "openai-responses": [
        {"custom_id": "a", "messages_json": RIVER, "requested_model": "m", "max_tokens": 20},
        {
            "custom_id": "b",
            "messages_json": chat(BRIEF, ("user", "One?"), ("assistant", "Two"), ("user", "Three?")),
            "workload": "greet",
        },
        "unsupported_parameter",
        "unsupported_parameter",
        "empty_prompt",
        "missing_field",
    ],
    "anthropic-batch": [
        {"custom_id": "a", "messages_json": RIVER, "requested_model": "m", "max_tokens": 20},
        {"messages_json": chat(BRIEF, ("user", "One?")), "max_tokens": 5},
        "unsupported_parameter",
        "unsupported_parameter",
        "missing_field",
    ],
    "gemini-batch": [
        {"custom_id": "a", "messages_json": RIVER, "max_tokens": None},
        {
            "messages_json": chat(BRIEF, ("user", "One?"), ("assistant", "Two"), ("user", "Three?")),
            "max_tokens": 9,
        },
        "unsupported_parameter",
        "unsupported_parameter",
        {
            "messages_json": RIVER,
            "observed_output_tokens": 32,
            "requested_model": "m-002",
            "event_time": T0,
            "custom_id": None,
        },
        {"custom_id": "v", "messages_json": chat(BRIEF, ("user", "One?")), "max_tokens": 9},
        "invalid_field",
    ],
    "bedrock-logs": [
        {
            "custom_id": "q1",
            "messages_json": chat(BRIEF, ("user", "One?")),
            "max_tokens": 20,
            "event_time": T0,
            "observed_latency_s": 1.5,
            "observed_output_tokens": 4,
            "requested_model": "amazon.nova-lite-v1:0",
        },
        {"messages_json": RIVER, "max_tokens": 64, "observed_output_tokens": 2},
        {"input_tokens": 10_000, "messages_json": None, "observed_output_tokens": 7},
        "filtered",
        "unsupported_parameter",
        "filtered",
        "missing_field",
    ],
    "bedrock-converse": [
        {"messages_json": RIVER, "requested_model": "m", "custom_id": None},
        {
            "custom_id": "q2",
            "messages_json": chat(BRIEF, ("user", "One?")),
            "max_tokens": 20,
            "observed_output_tokens": 2,
            "observed_latency_s": 0.25,
            "event_time": T0,
        },
        "unsupported_parameter",
        "unsupported_parameter",
    ],
    "databricks": [
        {
            "custom_id": "q1",
            "messages_json": RIVER,
            "max_tokens": 20,
            "event_time": T0,
            "observed_latency_s": 1.5,
            "observed_output_tokens": 4,
            "requested_model": "m",
        },
        {"prompt": "Once", "max_tokens": 5, "requested_model": "named", "event_time": T0},
        "filtered",
        "filtered",
        {"input_tokens": 4000, "observed_output_tokens": 4},
        {"messages_json": chat(BRIEF, ("user", "One?"))},
        "invalid_field",
        "missing_field",
    ],
    "mlflow": [
        {
            "custom_id": "t1/s1",
            "messages_json": RIVER,
            "max_tokens": 20,
            "event_time": T0,
            "observed_latency_s": 1.5,
            "observed_output_tokens": 4,
            "requested_model": "m",
        },
        "filtered",
        {"messages_json": chat(BRIEF, ("user", "One?")), "requested_model": "m"},
        "unsupported_parameter",
        {"input_tokens": 21, "observed_output_tokens": 1},
    ],
    "langfuse-spans": [
        {
            "custom_id": "t1/s1",
            "messages_json": RIVER,
            "max_tokens": 20,
            "event_time": T0,
            "observed_latency_s": 1.5,
            "observed_output_tokens": 4,
            "requested_model": "m",
            "workload": "ask",
        },
        "filtered",
        "unsupported_parameter",
        {"input_tokens": 21, "messages_json": None},
    ],
    "otel-events": [
        {
            "custom_id": "t1/s1",
            "messages_json": RIVER,
            "max_tokens": 20,
            "event_time": T0,
            "observed_latency_s": None,
            "observed_output_tokens": 4,
            "requested_model": "m",
        },
        "missing_field",
        "filtered",
    ],
    "openinference": [
        {
            "custom_id": "t1/s1",
            "messages_json": RIVER,
            "max_tokens": 20,
            "event_time": T0,
            "observed_latency_s": 2.5,
            "observed_output_tokens": 4,
        },
        "filtered",
        {"messages_json": chat(BRIEF, ("user", "One?")), "requested_model": "m"},
        {"input_tokens": 21, "messages_json": None},
    ],
}

FORMAT = {
    "azure-multimodal": "azure-llm",
    "burstgpt-old": "burstgpt",
    "mlflow": "otel",
    "langfuse-spans": "otel",
    "openinference": "otel",
    "otel-events": "otel",
}
"""Name of the format where the sample has another."""
TABLES_OF_TEXT = ("azure-llm", "azure-multimodal", "burstgpt", "burstgpt-old")
"""Samples of formats that are CSV."""
