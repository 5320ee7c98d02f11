#!/usr/bin/env bash
# Pretrain on a Cloud TPU slice of one or many hosts; a slice that is taken away is asked for again, and the run resumes.
#
#     TPU=sdclr ZONE=us-central2-b TYPE=v4-32 SOURCE=git+https://github.com/OWNER/sdclr_jax \
#     experiments/launch/tpu_pod.sh --config=imagenet100_lt:sdclr --workdir=gs://BUCKET/runs/sdclr --data_dir=/data
#
# --workdir must be a bucket, or a disk that all hosts mount: each host has a disk of its own. The prepared data may lie
# on every host (--data_dir) or on a shared disk. It needs the `gcloud` command and a quota for TYPE.
#
# The slice stays when the run has ended, and costs money until you delete it. The last line says how:
#
#     gcloud compute tpus queued-resources delete TPU --zone=ZONE --force
set -euo pipefail
: "${TPU:?name of the slice}" "${ZONE:?}" "${TYPE:?such as v4-32}" "${SOURCE:?what pip installs}"
VERSION=${VERSION:-tpu-ubuntu2204-base}
trap 'echo "You pay for a slice until it is deleted: gcloud compute tpus queued-resources delete $TPU --zone=$ZONE --force" >&2' EXIT

everywhere() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }

# The state of the slice; ABSENT where there is none; UNKNOWN where gcloud cannot say, even when asked again for an hour.
state() {
    local said
    for _ in $(seq 60); do
        if said=$(gcloud compute tpus queued-resources describe "$TPU" --zone="$ZONE" --format='value(state.state)' 2>&1); then
            tail -n 1 <<< "$said"
            return
        elif grep -qi 'not.found' <<< "$said"; then
            echo ABSENT
            return
        fi
        sleep 60
    done
    echo UNKNOWN
}

ask_for_it() {
    gcloud compute tpus queued-resources create "$TPU" --node-id="$TPU" --zone="$ZONE" --accelerator-type="$TYPE" \
        --runtime-version="$VERSION" --spot
    wait_for_it
}

wait_for_it() {
    local now
    for _ in $(seq 1440); do # a day, in minutes
        now=$(state)
        case $now in
            ACTIVE) return ;;
            FAILED | SUSPENDING | SUSPENDED | UNKNOWN) break ;;
        esac
        sleep 60
    done
    echo "no slice of type $TYPE in $ZONE: it is $now" >&2
    exit 1
}

# A slice with the program on it, whatever an earlier start has left.
make_ready() {
    case $(state) in
        ACTIVE) ;;
        ABSENT) ask_for_it ;;
        FAILED | SUSPENDING | SUSPENDED) # taken away
            gcloud compute tpus queued-resources delete "$TPU" --zone="$ZONE" --force --quiet
            ask_for_it
            ;;
        *) wait_for_it ;;
    esac
    # Ubuntu 22.04 has Python 3.10, without venv: uv brings a Python of its own.
    everywhere "export PIP_BREAK_SYSTEM_PACKAGES=1 && python3 -m pip install -q --user uv && cd ~/.local/bin &&
        ./uv venv -q --allow-existing --python 3.12 ~/sdclr &&
        ./uv pip install -q --python ~/sdclr 'sdclr_jax[tpu,gcs] @ $SOURCE' && ~/sdclr/bin/sdclr --version"
}

make_ready
# One line starts all hosts: the same command on each. JAX knows a TPU slice by itself. What `gcloud` makes of the exit
# status of many hosts is not documented, so each host prints its own.
command="\$HOME/sdclr/bin/sdclr pretrain $(printf '%q ' "$@") --distributed --noprogress; echo \"sdclr: status \$?\""
# Where the line to the hosts broke, they may go on: they are to save and end before they are started again.
stop="pkill -TERM -f '[s]dclr pretrain'; for _ in \$(seq 60); do pgrep -f '[s]dclr pretrain' > /dev/null || break; sleep 5; done"
log=$(mktemp)
for _ in $(seq 100); do # starts
    everywhere "$command" 2>&1 | tee "$log" || true
    if [[ $(state) == ACTIVE ]]; then
        if ! grep -q '^sdclr: status ' "$log"; then
            everywhere "$stop" || true
        elif ! grep -q '^sdclr: status 75$' "$log"; then # 75: all stopped and saved, as before maintenance
            exit "$(sed -n 's/^sdclr: status //p' "$log" | sort -n | tail -n 1)"
        fi
    fi
    make_ready
done
exit 75
