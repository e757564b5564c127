"""The engine at run time: KV pages and radix cache, scheduler, model runner, sampler, step metrics."""
