#!/usr/bin/env bash
# Submits one stage to a Ray cluster:  cluster/submit.sh ADDRESS STAGE CONFIG [key=value ...]
# ADDRESS is the head's dashboard, e.g. http://127.0.0.1:8265. The cluster's machines need this project installed and
# the data on a path that all of them see; the job runs on the head and stages spread their work from there.
set -euo pipefail
if [ $# -lt 3 ]; then
  sed -n '2,4p' "$0" | cut -c3-
  exit 2
fi
address=$1 stage=$2 config=$3
shift 3
root=$(cd "$(dirname "$0")/.." && pwd)
exec timeout "${IRL_VLA_SUBMIT_TIMEOUT_S:-86400}" ray job submit --address "$address" --working-dir "$root" \
  --runtime-env-json '{"excludes": [".git", ".venv", "data", "runs", "tests"]}' \
  -- python -m "pipelines.${stage//-/_}" "$config" "$@"
