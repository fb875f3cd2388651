"""A batch script for SLURM: a job array with an element per stage, one task per GPU, requeued until the stage is done."""

import shlex
from collections.abc import Sequence
from pathlib import Path

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={tasks}
#SBATCH --gpus-per-node={tasks}
#SBATCH --cpus-per-task=8
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={out}/slurm-%A_%a.log
# Two minutes before the time is over this shell gets USR1 and passes it on; training saves, ends with 0, and is queued again.
# One task is one process: no launcher stands between the signal and training.
stages=(
{stages}
)
read -ra arguments <<< "${{stages[$SLURM_ARRAY_TASK_ID]}}"
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

told=0
trap 'told=1; kill -USR1 "$training"' USR1
srun --kill-on-bad-exit=1 bash -c \\
  'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS; exec python train.py "$@"' \\
  train "${{arguments[@]}}" &
training=$!
while true; do
  wait "$training"
  code=$?
  [ "$code" = 138 ] || break # 128 + USR1: the signal ended the waiting, not the training
done
if [ "$told" = 1 ] && [ "$code" = 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def batch_script(name: str, stages: Sequence[tuple[str, Sequence[str]]], *, out: Path, nodes: int, tasks: int) -> str:
    """The script for sbatch. stages: names, with arguments of train.py. tasks: processes per node, with a GPU each. Raises
    ValueError for arguments with white space."""
    for _, arguments in stages:
        for argument in arguments:
            if not argument or any(letter.isspace() for letter in argument):
                raise ValueError(
                    f"--slurm: {argument!r} has white space in it, which a list of words cannot hold; rename it"
                )
    lines = "\n".join(f"  {shlex.quote(' '.join(arguments))} # {stage}" for stage, arguments in stages)
    return SCRIPT.format(name=name, last=len(stages) - 1, nodes=nodes, tasks=tasks, out=out, stages=lines).rstrip()
