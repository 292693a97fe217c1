# shellcheck shell=bash
# What the batch scripts of this folder share: ranks on every node, told in time to stop, and the job requeued.
#
# Nodes, ranks and time are sbatch's own flags: --nodes, --ntasks-per-node (the ranks of a node), --gpus-per-node,
# --cpus-per-task, --time, --partition. The rest are variables of the environment in which sbatch is called:
#
#   LAUNCHER   horovodrun: scripts/launch.py in the batch step, other nodes reached through srun       [horovodrun]
#              srun: one job step with all ranks; what containers on several nodes need
#   PYTHON     the interpreter                                       [SOURCE/.venv/bin/python, in an image: python]
#   SOURCE     the project's folder, the same on all nodes                       [the folder where sbatch is called]
#   NIC        network interface that the ranks talk through, such as ib0                                   [found]
#   REQUEUES   how often the job may be started again in all                                                  [100]
#   IMAGE      container image: everything runs in `launch_container.sh TXT_DB IMG_DB OUTPUT PRETRAIN`       [none]
#   TXT_DB, IMG_DB, OUTPUT, PRETRAIN   its four folders, needed with IMAGE; inside they are /txt, /img, /storage and
#              /pretrain. ENGINE names its engine, PASS variables that go in; see there
#
# SLURM tells the batch script two minutes before the time limit, and where a job of higher priority needs the nodes
# (SIGUSR1 by --signal, SIGTERM). The ranks finish their update, save and leave with 75, and the job requeues itself;
# requeued it goes on with the same command (--resume auto). Any other exit code ends the job, and so does scancel,
# after saving.

SOURCE=${SOURCE:-$SLURM_SUBMIT_DIR}
LAUNCHER=${LAUNCHER:-horovodrun}
REQUEUES=${REQUEUES:-100}
told='' payload='' inside=() code=$SOURCE

say() { printf '%s job %s: %s\n' "$(date '+%F %T')" "$job" "$1" >&2; }
refuse() { say "$1"; exit 2; }

# One task of an array is named by the array's number and its own: its plain number may mean the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

# The ranks know their time limit from this variable, which older versions of SLURM do not set.
if [[ -z ${SLURM_JOB_END_TIME:-} ]] && ends=$(date -d "$(squeue -h -j "$SLURM_JOB_ID" -o %e)" +%s 2>/dev/null); then
    export SLURM_JOB_END_TIME=$ends
fi

if [[ -n ${IMAGE:-} ]]; then
    for folder in TXT_DB IMG_DB OUTPUT PRETRAIN; do
        [[ -n ${!folder:-} ]] || refuse "IMAGE=$IMAGE needs $folder, a folder to mount"
    done
    inside=("$SOURCE/launch_container.sh" "$TXT_DB" "$IMG_DB" "$OUTPUT" "$PRETRAIN")
    export PASS="${PASS:-} NIC MEETING_PORT"
    PYTHON=${PYTHON:-python} code=.  # the source is mounted where its commands start
fi
PYTHON=${PYTHON:-$SOURCE/.venv/bin/python}

hear() {
    [[ $told == USR1 ]] || told=$1  # at the end of the time that USR1 has announced, TERM comes too
    # srun kills its tasks at SIGTERM and passes SIGUSR1 on; the ranks take both for the same.
    [[ -z $payload ]] || kill -USR1 "$payload" 2>/dev/null
}
trap 'hear USR1' USR1
trap 'hear TERM' TERM

# run PROGRAM FLAGS...: the ranks, to their end; then the job's own. PROGRAM is looked for in the project's folder.
run() {
    local status again words program=$1
    [[ $program == /* ]] || program=$code/$program
    say "start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST: $*"
    arrange "$program" "${@:2}"
    exec "${words[@]}" & payload=$!
    [[ $told ]] && kill -USR1 "$payload" 2>/dev/null  # it came before there was anybody to pass it on to
    while true; do
        wait "$payload"
        status=$?
        kill -0 "$payload" 2>/dev/null || break
    done
    # A wait that a signal has cut short does not know how the ranks ended; the next one does.
    wait "$payload" 2>/dev/null
    again=$?
    ((again == 127)) || status=$again
    [[ -z ${MEETING_PID:-} ]] || kill "$MEETING_PID" 2>/dev/null
    finish "$status"
}

# The command that starts all ranks, in `words`.
arrange() {
    local each=${SLURM_NTASKS_PER_NODE:-1} nodes=$SLURM_JOB_NUM_NODES hosts port
    local all=$((each * nodes))
    hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/:$each/" | paste -sd,)
    if ((all == 1)); then
        words=("${inside[@]}" "$PYTHON" "$@")
    elif [[ $LAUNCHER == horovodrun ]]; then
        ((nodes == 1)) && hosts=localhost:$each
        ((nodes == 1 || ${#inside[@]} == 0)) || refuse "IMAGE on $nodes nodes needs LAUNCHER=srun"
        words=("${inside[@]}" "$PYTHON" "$code/scripts/launch.py" -np "$all" -H "$hosts"
            ${NIC:+--network-interfaces "$NIC"} "$PYTHON" "$@")
    elif [[ $LAUNCHER == srun ]]; then
        coproc MEETING { exec "${inside[@]}" "$PYTHON" "$code/scripts/slurm/ranks.py" serve "$hosts"; }
        read -r -t 300 port <&"${MEETING[0]}" || refuse "the ranks' meeting place did not start"
        export MEETING_PORT=$port
        words=(srun --nodes="$nodes" --ntasks-per-node="$each" --distribution=block --kill-on-bad-exit=0 --wait=300
            ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} --label --input=none
            "${inside[@]}" "$PYTHON" "$code/scripts/slurm/ranks.py" run "$PYTHON" "$@")
    else
        refuse "LAUNCHER=$LAUNCHER: should be horovodrun or srun"
    fi
}

# finish STATUS: requeue the job where the ranks want to be started again.
finish() {
    local status=$1
    # Ranks that are told before they can listen are ended by the signal; they have nothing to save.
    [[ $told ]] && ((status == 128 + 10 || status == 128 + 15)) && status=75
    if ((status != 75)); then
        say "ended with $status"
        exit "$status"
    fi
    # SIGTERM alone, to a job that is ending: somebody has cancelled it, or SLURM requeues it by itself.
    if [[ $told == TERM && $(squeue -h -j "$SLURM_JOB_ID" -o %T) != RUNNING ]]; then
        say "saved; SLURM has ended the job"
        exit 75
    fi
    if ((${SLURM_RESTART_COUNT:-0} >= REQUEUES)); then
        say "saved, and not requeued: started again $SLURM_RESTART_COUNT times, REQUEUES=$REQUEUES"
        exit 75
    fi
    say "saved; requeued"
    scontrol requeue "$job" || say "could not be requeued; submit it again"
    exit 75
}
