#!/usr/bin/env bash
# Supervise a job: run a command that keeps running when the connection is gone, and store how it ended.
#
#   job.sh FLOOR COMMAND [DIRECTORY]...
#
# Runs in the job's state directory, with its lock on file descriptor 8 and its output going to a file there. The
# command is stopped when less than FLOOR bytes are free (for users other than root) on the disk of a DIRECTORY or of the
# state directory, and when that cannot be read. A SIGTERM to all processes that hold the lock stops the command too;
# this script survives it. At the end, `status` has the exit status, the time in seconds, and why the output could not
# be stored, if that is so. The status is written over zeros that are on the disk already: a full disk takes no more.
set -uo pipefail
floor="$1" command="$2"
shift 2

free() { stat --file-system --format='%a %S' -- "$1" | { read -r blocks size && echo $((blocks * size)); }; }

watch() {
  local left why
  while sleep 1 && kill -0 -- "-$child" 2> /dev/null; do
    for directory in "$@"; do
      why=""
      if ! left="$(free "$directory")"; then
        why="the free space on the disk of ${directory/#./$PWD} cannot be read"
      elif ((left < floor)); then
        why="$left bytes are free on the disk of ${directory/#./$PWD}, and $floor must stay free"
      fi
      if [[ -n "$why" ]]; then
        echo "stopped: $why"
        kill -- "-$child"
        return
      fi
    done
  done
}

trap : TERM # not '', which the command would inherit
exec 9>&2 2> /dev/null # bash's own messages about jobs, such as "Done", are not output of the command
set -m      # the command is a process group of its own, so that all of it can be stopped
/bin/sh -c "$command" 2>&9 9>&- &
child=$!
set +m
watch "$@" . 2>&9 8>&- 9>&- &
watcher=$!

trap '' TERM # from here on, nothing cuts the wait short, and the status is that of the command
wait "$child"
status=$?
kill "$watcher"

# What the command cannot print on a full disk is lost: one more block shows whether that is so.
problem="$({ head -c 4096 /dev/zero > probe; } 2>&1)"
rm -f -- probe
line="$status $(date +%s.%N) ${problem//$'\n'/ }"
line="${line:0:1000}"
printf '%s\n' "$line" 1<> status.new && truncate --size="$((${#line} + 1))" status.new &&
  sync -- status.new && mv -- status.new status
