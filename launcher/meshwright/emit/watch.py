"""A program that is not ours is watched from outside: by the times its log states, and by what it writes.

Ours watches itself (``train.watchdog``) and knows when a step is due. From outside a save looks like a long step, but
writes, too: what hangs writes neither to its logs nor to its checkpoints.
"""

from __future__ import annotations

from meshwright.layout.plan import Plan

__all__ = ["watches", "watching"]

WATCH = """
# A run that hangs writes nothing: it is ended after @FACTOR@ times the usual between two lines of its log, at least
# @SECONDS@ s (launch.watchdog). Before its first step nothing is due.
times() { # of all its logs, if there are any
    { cat "$folder"/logs/@LOGS@ 2>/dev/null || true; } |
        sed -n 's/.*elapsed time per iteration (ms): \\([0-9]*\\).*/\\1/p'
}
before=$(times | wc -l) # of earlier starts; counted before this one can write its first
patience() { # seconds, of the median of the last 20
    times | tail -n 20 | sort -n | awk '{ all[NR] = $1 } END {
        usual = all[int((NR + 1) / 2)] / 1000 * @INTERVAL@ * @FACTOR@
        print int(usual > @SECONDS@ ? usual : @SECONDS@) }'
}
written() { # SECONDS: a file of the last ones
    find "$folder/logs" "$checkpoints" -type f -newermt "-$1 seconds" -print -quit 2>/dev/null
}
watch() { # PROCESS
    local limit
    while sleep @EVERY@ 9>&- >/dev/null 2>&1 && kill -0 "$1" 2>/dev/null; do
        [ "$(times | wc -l)" -gt "$before" ] || continue
        limit=$(patience)
        if [ -z "$(written "$limit")" ]; then
            echo "hangs: nothing was written for $limit s" >&2
            echo "$(date +%FT%T) ${SLURM_JOB_ID:-here} hangs: nothing was written for $limit s" >>"$folder/RESTARTS"
            kill -TERM "$1"
            return
        fi
    done
}
"""


def watches(plan: Plan) -> bool:
    """Whether the scripts watch what they start."""
    return plan.spec.launch.entry != "meshwright" and plan.spec.launch.watchdog.factor > 0


def watching(plan: Plan, logs: str) -> str:
    """The function ``watch PROCESS``, which ends it; ``logs`` is the shell's pattern for its logs in ``logs/``."""
    asked = plan.spec.launch.watchdog
    values = {
        "FACTOR": f"{asked.factor:g}",
        "SECONDS": f"{asked.seconds:g}",
        "INTERVAL": str(plan.spec.training.logging.interval),
        "EVERY": f"{max(0.1, asked.seconds / 10):g}",
        "LOGS": logs,
    }
    text = WATCH
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
