-- One row per request of every date, answered or not, without its texts.
select
    request_id,
    job,
    run_date,
    workload,
    tenant,
    custom_id,
    source_uri,
    source_line,
    true as answered,
    finish_reason,
    usage.prompt_tokens as input_tokens,
    usage.completion_tokens as output_tokens,
    cast(null as varchar) as error_code,
    cast(null as varchar) as error_field,
    cast(null as varchar) as error_message,
    cast(null as boolean) as retryable
from {{ source('nightblend', 'llm_outputs') }}
union all by name
select
    request_id,
    job,
    run_date,
    workload,
    tenant,
    custom_id,
    source_uri,
    source_line,
    false as answered,
    code as error_code,
    field as error_field,
    message as error_message,
    retryable
from {{ source('nightblend', 'llm_errors') }}
