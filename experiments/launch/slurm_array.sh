#!/usr/bin/env bash
# The runs of a table, one a task of a Slurm array, each on one node; a task goes on by itself after a time limit.
#
#     sbatch --array=0-19%4 --gpus=1 --time=24:00:00 experiments/launch/slurm_array.sh cifar10_lt --out=/shared/runs
#
# `python experiments/tables.py cifar10_lt --plan` says how many runs there are, and which number is which. --out must be
# on a disk that all nodes see. Started from a clone of the repository, in an environment that has the package.
#SBATCH --job-name=sdclr-table
#SBATCH --ntasks=1
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=sdclr-table-%A_%a.log

# Since 22.05 srun does not take sbatch's --cpus-per-task over by itself.
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi

# USR1 comes 120 seconds before the limit: the run saves and ends with status 75, and the task is queued again. A run
# that another task is at has status 75, too.
srun python experiments/tables.py "$@" --run --index="$SLURM_ARRAY_TASK_ID"
status=$?
if [[ $status == 75 ]]; then
    echo "$(date --iso-8601=seconds): stopped and saved; task $SLURM_ARRAY_TASK_ID is queued again"
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit $status
