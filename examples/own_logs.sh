#!/bin/sh
# A night on request logs of your own, with the command line.
#
#     examples/own_logs.sh [FOLDER]
#
# FOLDER gets the logs and the results; it is .demo/examples/own_logs if none is given. MODEL is the model's
# folder, the demo's if it is not set. `nightblend` must be on the PATH (in a checkout: .venv/bin).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/.demo/examples/own_logs}
model=${MODEL:-$root/infra/demo/model}

# A log as any service may write it: a JSON object a line, the fields with names of its own. The last two lines
# have something wrong with them.
mkdir -p "$folder/logs/2026-11-22"
cat >"$folder/logs/2026-11-22/tickets.jsonl" <<'LINES'
{"ticket": "T-1", "question": "Count from 3 to 9.\nAnswer:", "team": "billing", "asked": "2026-11-22T08:15:00Z"}
{"ticket": "T-2", "question": "Count from 17 to 21.\nAnswer:", "team": "billing", "asked": "2026-11-22T08:40:00Z"}
{"ticket": "T-3", "question": "Count from 100 to 108.\nAnswer:", "team": "returns", "asked": "2026-11-22T09:05:00Z"}
{"ticket": "T-4", "question": "Count from 3 to 9.\nAnswer:", "team": "returns", "asked": "2026-11-22T09:30:00Z"}
{"ticket": "T-5", "team": "returns", "asked": "2026-11-22T10:00:00Z"}
{"ticket": "T-6", "question": "Count fr
LINES

# Which field means what is said by --columns. Two of six lines are bad, so the limit of bad rows is raised;
# without that the night is published as well, with exit code 3.
nightblend run --job tickets --source "$folder/logs/{run_date}/" --store "$folder/store" --model "$model" \
    --run-date 2026-11-22 --max-tokens 64 --max-bad-fraction 0.5 --abort-quarantined-fraction 0.5 \
    --columns prompt=question --columns custom_id=ticket --columns workload=team --columns event_time=asked

# How the date stands. The same command as above again would answer at once: the night is finished.
nightblend status --job tickets --store "$folder/store" --run-date 2026-11-22

echo "The answers, in the form of the OpenAI Batch API:"
cat "$folder"/store/tickets/published/run_date=2026-11-22/*/output.jsonl
