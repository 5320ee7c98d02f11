#!/usr/bin/env bash
# Pretrain on a Cloud TPU slice of one or many hosts; a slice that is taken away is asked for again, and the run resumes.
#
#     TPU=sdclr ZONE=us-central2-b TYPE=v4-32 SOURCE=git+https://github.com/OWNER/sdclr_jax \
#     experiments/launch/tpu_pod.sh --config=imagenet100_lt:sdclr --workdir=gs://BUCKET/runs/sdclr --data_dir=/data
#
# --workdir must be a bucket, or a disk that all hosts mount: each host has a disk of its own. The prepared data may lie
# on every host (--data_dir) or on a shared disk. It needs the `gcloud` command and a quota for TYPE.
set -euo pipefail
: "${TPU:?name of the slice}" "${ZONE:?}" "${TYPE:?such as v4-32}" "${SOURCE:?what pip installs}"
VERSION=${VERSION:-tpu-ubuntu2204-base}

everywhere() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }

state() { gcloud compute tpus queued-resources describe "$TPU" --zone="$ZONE" --format='value(state.state)' 2> /dev/null; }

ask_for_it() {
    gcloud compute tpus queued-resources create "$TPU" --node-id="$TPU" --zone="$ZONE" --accelerator-type="$TYPE" \
        --runtime-version="$VERSION" --spot
    wait_for_it
}

forget_it() { gcloud compute tpus queued-resources delete "$TPU" --zone="$ZONE" --force --quiet; }

wait_for_it() {
    for _ in $(seq 1440); do # a day, in minutes
        [[ $(state) == ACTIVE ]] && return
        sleep 60
    done
    echo "no slice of type $TYPE in $ZONE after a day" >&2
    exit 1
}

install() {
    everywhere "python3 -m venv ~/sdclr && ~/sdclr/bin/pip install -q 'sdclr_jax[tpu,gcs] @ $SOURCE'"
}

# What is there of an earlier start: nothing; a slice; one that is waited for; or one that was taken away or has failed.
case $(state) in
    ACTIVE) ;;
    "") ask_for_it ;;
    ACCEPTED | PROVISIONING | CREATING | WAITING_FOR_RESOURCES) wait_for_it ;;
    *) forget_it && ask_for_it ;;
esac
install
# One line starts all hosts: the same command on each. JAX knows a TPU slice by itself. What `gcloud` makes of the exit
# status of many hosts is not documented, so each host prints its own.
command="\$HOME/sdclr/bin/sdclr pretrain $(printf '%q ' "$@") --distributed --noprogress; echo \"sdclr: status \$?\""
log=$(mktemp)
for _ in $(seq 100); do # starts
    everywhere "$command" 2>&1 | tee "$log" || true
    if [[ $(state) != ACTIVE ]]; then # taken away
        forget_it
        ask_for_it
        install
    elif ! grep -q '^sdclr: status ' "$log"; then # the line to the hosts broke, and they may go on: look again
        sleep 60
    elif ! grep -q '^sdclr: status 75$' "$log"; then # 75: all stopped and saved, as before maintenance
        exit "$(sed -n 's/^sdclr: status //p' "$log" | sort -n | tail -n 1)"
    fi
done
exit 75
