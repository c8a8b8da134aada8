#!/usr/bin/env bash
# Supervise a job: run a command that keeps running when the connection is gone, and store how it ended.
#
#   job.sh FLOOR COMMAND [DIRECTORY]...
#
# Runs in the job's state directory, with its lock on file descriptor 8 and its output going to a file there. The
# command is stopped when less than FLOOR bytes are free (for users other than root) on the disk of a DIRECTORY or of the
# state directory, and when that cannot be read. A SIGTERM to all processes that hold the lock stops the command too;
# this script survives it. At the end, `status` has the exit status and the time in seconds.
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

printf '%s %s\n' "$status" "$(date +%s.%N)" > status.new && sync -- status.new && mv -- status.new status
