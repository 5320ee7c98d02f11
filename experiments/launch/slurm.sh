#!/usr/bin/env bash
# Pretrain on a Slurm cluster, one process a node; the job goes on by itself after a time limit or a preemption.
#
#     sbatch --nodes=2 --gpus-per-node=8 --time=24:00:00 experiments/launch/slurm.sh \
#         --config=imagenet100_lt:sdclr --workdir=/shared/runs/sdclr --config.optimizer.learning_rate=1.0
#
# --workdir must be on a disk that all nodes see. What stands on sbatch's own command line wins over the lines below.
# Started in an environment that has the package, which all nodes see, too.
#SBATCH --job-name=sdclr
#SBATCH --ntasks-per-node=1
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=sdclr-%j.log

# Since 22.05 srun does not take sbatch's --cpus-per-task over by itself.
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi

# USR1 comes to every process 120 seconds before the limit (Slurm may send it up to a minute earlier): all stop at one
# step, save, and end with status 75. Then the job is queued again, and goes on from there. A run that ends has status
# 0; any other status is an error, and stays.
srun --kill-on-bad-exit=0 sdclr pretrain "$@" --distributed --noprogress
status=$?
if [[ $status == 75 ]]; then
    echo "$(date --iso-8601=seconds): stopped and saved; job $SLURM_JOB_ID is queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
