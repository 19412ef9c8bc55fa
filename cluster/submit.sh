#!/usr/bin/env bash
# Runs one stage on a Ray cluster:  cluster/submit.sh ADDRESS STAGE CONFIG [key=value ...]
#
# ADDRESS is the head's dashboard, e.g. http://127.0.0.1:8265. The code of this checkout travels with the job. Data and
# results do not: relative paths such as data/ and runs/ are taken from IRL_VLA_FOLDER (default: this checkout), which
# every machine of the cluster must see below the same path. CONFIG lies in this checkout or below that folder.
#
# Ends with 0 only if the stage succeeded: 1 if it failed or was stopped, 2 on wrong arguments, 3 if the cluster does
# not answer within IRL_VLA_CONNECT_TIMEOUT_S (default 20) seconds or refuses the token.
set -euo pipefail

fail() {
  echo "submit.sh: $2" >&2
  exit "$1"
}

if [ $# -lt 3 ]; then
  sed -n '2,9{s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
fi
address=$1 stage=${2//-/_} config=$3
shift 3
root=$(cd "$(dirname "$0")/.." && pwd -P)
folder=$(realpath "${IRL_VLA_FOLDER:-$root}")
if [ -x "$root/.venv/bin/ray" ]; then PATH="$root/.venv/bin:$PATH"; fi
command -v ray >/dev/null || fail 2 "no command \`ray\`; run \`make install\` first"
[ -f "$root/pipelines/$stage.py" ] || fail 2 "no stage $stage; the stages are the files of pipelines/"
[ -f "$config" ] || fail 2 "$config: no such configuration; the ready ones are in configs/"
config=$(realpath "$config")
case $config in
  "$root"/*) config=${config#"$root"/} ;; # travels with the code
  "$folder"/*) ;;
  *) fail 2 "$config lies neither in $root nor in $folder: the cluster cannot read it" ;;
esac

# `ray job submit` has no timeout of its own and answers trouble with a traceback of pages.
python - "$address" "${IRL_VLA_CONNECT_TIMEOUT_S:-20}" <<'PYTHON' || exit 3
import os, sys, urllib.error, urllib.request
from pathlib import Path

address, timeout_s = sys.argv[1].rstrip("/"), float(sys.argv[2])
path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray/auth_token"))
token = os.environ.get("RAY_AUTH_TOKEN") or (path.read_text().strip() if path.is_file() else "")
headers = {"Authorization": f"Bearer {token}"} if token else {}
try:
    urllib.request.urlopen(urllib.request.Request(f"{address}/api/version", headers=headers), timeout=timeout_s)
except urllib.error.HTTPError as error:
    reason = "the token is missing or wrong: set RAY_AUTH_TOKEN_PATH" if error.code in (401, 403) else error
    sys.exit(f"submit.sh: {address} answered {error.code}: {reason}")
except (OSError, ValueError) as error:
    sys.exit(f"submit.sh: no cluster at {address}: {getattr(error, 'reason', error)}; is it the head's dashboard?")
PYTHON

id="irl-vla-$stage-$(date +%Y%m%d-%H%M%S)-$$"
# The job starts in a temporary copy of the code; it moves to the shared folder but keeps importing the copy (-P leaves
# the current directory out of Python's path).
# shellcheck disable=SC2016
entry='export PYTHONPATH=$PWD; config=$(realpath "$3") && cd "$1" && exec python -P -m "$2" "$config" "${@:4}"'
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
ray job submit --address "$address" --submission-id "$id" --working-dir "$root" \
  --runtime-env-json '{"excludes": ["/.git", "/.venv", "/data", "/runs", "/tests", "/docs"]}' \
  -- bash -c "$entry" bash "$folder" "pipelines.$stage" "$config" "$@" || exit 1
# A stopped job counts as a success with `ray job submit`.
case $(ray job status --address "$address" "$id" 2>&1) in
  *succeeded*) ;;
  *) fail 1 "the job $id was stopped, or the cluster went away" ;;
esac
