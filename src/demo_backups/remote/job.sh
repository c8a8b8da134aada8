#!/usr/bin/env bash
# Supervise a job: run a command that keeps running when the connection is gone, and store how it ended.
#
#   job.sh FLOOR CACHE FILE LIVE COMMAND [DIRECTORY]...
#
# Runs in the job's state directory, with its lock on file descriptor 8 and its output going to a file there. The
# command is stopped when less than FLOOR bytes are free (for users other than root) on the disk of a DIRECTORY or of the
# state directory, and when that cannot be read.
#
# FILE is kept out of the page cache, so that the pages of the service stay there. CACHE says how: `written` if the
# command writes it: then it is flushed as it grows, since the service waits for a burst of dirty pages; `read` if the
# command reads it once; `reread` if it reads pages again: then they are dropped at the end. FILE is neither created nor
# changed, and it may be missing. Nothing is done to the file LIVE, to a link, and in a directory of other users.
#
# A SIGTERM to all processes that hold the lock stops the command too; this script survives it. At the end, `status` has
# the exit status, the time in seconds, and why the output could not be stored, if that is so. The status is written over
# zeros that are on the disk already: a full disk takes no more.
set -uo pipefail
floor="$1" cache="$2" file="$3" live="$4" command="$5"
shift 5

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

# Only this user and root can put a link in the place of a file in the directory.
is_own_directory() { [[ -n "$(find . -maxdepth 0 \( -uid 0 -o -uid "$EUID" \) ! -perm /022)" ]]; }

# Open the file as descriptor 7, unless it is open.
open_file() {
  [[ -f "$1" && ! -L "$1" && ! "$1" -ef "$live" ]] || return
  [[ "$1" -ef /dev/fd/7 ]] || exec 7< "$1"
}

# Both work on the open file. Only pages that are on the disk can be dropped from the page cache.
flush() { sync --data /dev/fd/7; }
drop() { dd count=0 oflag=nocache conv=notrunc status=none < /dev/null >&7; }

# Flush again and again, so that little is left to write at any time, and drop once a second.
keep_out_of_cache() {
  local last="" ended=""
  cd -- "${file%/*}/" && is_own_directory || return
  trap 'ended=yes' TERM
  while [[ -z "$ended" ]] && kill -0 -- "-$child"; do
    if ! open_file "./${file##*/}"; then
      sleep 0.25
      continue
    fi
    [[ "$cache" != written ]] || flush
    [[ "$cache" == reread || "$SECONDS" == "$last" ]] || drop
    last="$SECONDS"
    if [[ "$cache" == written ]]; then sleep 0.02; else sleep 0.5; fi
  done
  drop # the command may have renamed it: it is still open
}

trap : TERM # not '', which the command would inherit
exec 9>&2 2> /dev/null # bash's own messages about jobs, such as "Done", are not output of the command
set -m      # the command is a process group of its own, so that all of it can be stopped
/bin/sh -c "$command" 2>&9 9>&- &
child=$!
set +m
watch "$@" . 2>&9 8>&- 9>&- &
helpers=("$!")
if [[ -n "$cache" ]]; then
  keep_out_of_cache > /dev/null 2>&1 < /dev/null 8>&- 9>&- &
  helpers+=("$!")
fi

trap '' TERM # from here on, nothing cuts the wait short, and the status is that of the command
wait "$child"
status=$?
kill "${helpers[@]}"

# What the command cannot print on a full disk is lost: one more block shows whether that is so.
problem="$({ head -c 4096 /dev/zero > probe; } 2>&1)"
rm -f -- probe
line="$status $(date +%s.%N) ${problem//$'\n'/ }"
line="${line:0:1000}"
printf '%s\n' "$line" 1<> status.new && truncate --size="$((${#line} + 1))" status.new &&
  sync -- status.new && mv -- status.new status
