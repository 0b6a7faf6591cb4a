"""A Slurm job array over the tasks of a plan, as one shell script. Printed, never run."""

import shlex
from pathlib import Path

MOST_TASKS = 1_000  # the usual MaxArraySize is 1,001, slurm.schedmd.com/job_array.html

SCRIPT = """\
#!/bin/bash
# {segments} segments of {folder} in {tasks} tasks, {at_once} at a time. Look it through, then: bash THIS_FILE
# Submitting it again, whole or in part, is harmless: finished segments are kept.
set -euo pipefail
array=$(sbatch --parsable <<'JOB'
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}%{at_once}
#SBATCH --cpus-per-task={cpus}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@60
# At the time limit and at a preemption the task stops within two seconds (143), and is put in the queue again.
code=0
srun picollm shard run {folder} --task "$SLURM_ARRAY_TASK_ID/{tasks}" --workers {cpus}{more} || code=$?
if [ "$code" -eq 143 ]; then scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"; fi
exit "$code"
JOB
)
sbatch --dependency=afterok:"${{array%%;*}}" <<'JOB'
#!/bin/bash
#SBATCH --job-name={name}-finalize
srun picollm shard finalize {folder}{tokens}
JOB
"""


def script(
    folder: Path,
    segments: int,
    *,
    tasks: int | None = None,
    at_once: int = 32,
    cpus: int = 8,
    root: Path | None = None,
    tokens: int | None = None,
) -> str:
    """The script for a plan in `folder`, which every node sees under this path.

    `tasks`: None is one per segment; never more than there are segments or than an array may hold. The number is
    written out rather than read from SLURM_ARRAY_TASK_COUNT, which changes when a part of the array is sent again.
    """
    tasks = max(1, min(tasks or segments, segments, MOST_TASKS))
    return SCRIPT.format(
        segments=segments,
        folder=shlex.quote(str(folder.absolute())),
        name=shlex.quote(f"shard-{folder.name}"),
        tasks=tasks,
        last=tasks - 1,
        at_once=min(at_once, tasks),
        cpus=cpus,
        more="" if root is None else f" --root {shlex.quote(str(root))}",
        tokens="" if tokens is None else f" --tokens {tokens}",
    )
