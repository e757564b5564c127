-- One row per job and date: what was run, what it cost, how busy the device was.
with samples as (
    select
        job,
        run_date,
        any_value(run_key) as run_key,
        sum(seconds) as engine_seconds,
        sum(modelled_compute_seconds) as modelled_compute_seconds,
        sum(modelled_memory_seconds) as modelled_memory_seconds,
        sum(sequences * seconds) / nullif(sum(seconds), 0) as mean_running_requests,
        cast(sum(recomputed_tokens) as bigint) as recomputed_tokens
    from {{ source('nightblend', 'utilization_samples') }}
    group by job, run_date
),

attempts as (
    select
        job,
        run_date,
        count(*) as attempts,
        count(*) filter (publication_id is null) as attempts_without_result
    from {{ source('nightblend', 'batch_runs') }}
    group by job, run_date
),

-- Several runs may have published a date. The tables hold one of them, not always the last: a date can be
-- rolled back. The samples are of the run that they hold.
published as (
    select runs.*, coalesce(runs.gpu_seconds_held, runs.seconds) / 3600 as device_hours
    from {{ source('nightblend', 'batch_runs') }} as runs
    left join samples
        on runs.job = samples.job and runs.run_date = samples.run_date
    where runs.publication_id is not null
    qualify row_number() over (
        partition by runs.job, runs.run_date
        order by coalesce(runs.run_key = samples.run_key, false) desc, runs.ended_at desc nulls last
    ) = 1
),

prices as (
    select cast({{ var('gpu_hour_price') or 'null' }} as double) as hour
)

select
    attempts.job,
    attempts.run_date,
    attempts.attempts,
    attempts.attempts_without_result,
    published.run_key,
    published.status,
    published.requests,
    published.outputs,
    published.errors,
    published.quarantined,
    published.input_tokens,
    published.output_tokens,
    published.seconds,
    published.tokens_per_second,
    published.hit_rate,
    published.hit_rate_optimum,
    samples.engine_seconds,
    samples.modelled_compute_seconds / nullif(samples.engine_seconds, 0) as modelled_compute_share,
    samples.modelled_memory_seconds / nullif(samples.engine_seconds, 0) as modelled_memory_share,
    samples.mean_running_requests,
    samples.recomputed_tokens,
    published.mfu,
    published.mbu,
    published.device_hours,
    -- The price of the run itself, else that of this project.
    coalesce(published.cost, published.device_hours * prices.hour) as cost,
    1e6 * coalesce(published.cost, published.device_hours * prices.hour)
    / nullif(published.input_tokens + published.output_tokens, 0) as cost_per_million_tokens
from attempts
cross join prices
left join published
    on attempts.job = published.job and attempts.run_date = published.run_date
left join samples
    on attempts.job = samples.job and attempts.run_date = samples.run_date
