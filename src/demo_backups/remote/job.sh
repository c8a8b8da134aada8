#!/usr/bin/env bash
# Run a command that goes on when whoever started it is gone, and keep how it ended.
#
#   job.sh FLOOR COMMAND [FOLDER]...
#
# Runs in the run's own folder, with its lock on file descriptor 8 and its output going to a file there. The command
# is stopped when less than FLOOR bytes are free on the disk of a FOLDER or of its own (for others than root), when that
# cannot be seen, and by a SIGTERM to all that hold the lock, which this script outlives. At the end, `status` holds the
# exit status and the time in seconds.
set -uo pipefail
floor="$1" command="$2"
shift 2

free() { stat --file-system --format='%a %S' -- "$1" | { read -r blocks size && echo $((blocks * size)); }; }

watch() {
  local left why
  while sleep 1 && kill -0 -- "-$child" 2> /dev/null; do
    for folder in "$@"; do
      why=""
      if ! left="$(free "$folder")"; then
        why="how much is free on the disk of ${folder/#./$PWD} cannot be seen"
      elif ((left < floor)); then
        why="$left bytes are free on the disk of ${folder/#./$PWD}, and $floor are to stay free"
      fi
      if [[ -n "$why" ]]; then
        echo "stopped: $why"
        kill -- "-$child"
        return
      fi
    done
  done
}

trap : TERM # and not yet '', which the command would inherit
exec 9>&2 2> /dev/null # bash's own words on its jobs, such as "Done", are no output of the command
set -m      # the command is a process group of its own, so that all of it can be stopped
/bin/sh -c "$command" 2>&9 9>&- &
child=$!
set +m
watch "$@" . 2>&9 8>&- 9>&- &
watcher=$!

trap '' TERM # from here on, nothing cuts short the wait, and the status is the command's own
wait "$child"
status=$?
kill "$watcher"

printf '%s %s\n' "$status" "$(date +%s.%N)" > status.new && sync -- status.new && mv -- status.new status
