#!/usr/bin/env bash
# Restore a backup into a scratch directory, check the restored database, and remove it again.
#
#   drill.sh KEY=VALUE...
#
# If root runs this for another user (uid), root restores into `work`, in a directory that only root can write to. Then
# root gives the file to the user, by a hard link in `run`, a directory of that user. Below `run`, root does nothing:
# everything there runs as the user. Otherwise `work` is `run`.
#
# It prints `-- STEP` before a step, after `| ` each line that the step prints, and `== STEP STATUS` after it.
set -uo pipefail
umask 077
export LC_ALL=C PATH="$PATH:/usr/bin:/bin"
cd / || exit

keys=(work run upload name backup link copy uid gid user home path restore integrity foreign_keys query command limit)
work="" run="" upload="" name="" backup="" link="" copy="" uid="" gid="" user="" home="" path=""
restore="" integrity="" foreign_keys="" query="" command="" limit=""
MARK=DEMO_BACKUPS_DRILL # a variable in the environment of every process that the command starts
MOST=8192               # bytes that are kept of the start of an output, and of its end
ENDED=124               # the status of a command that was stopped after its time, as of timeout(1)

for argument; do
  key="${argument%%=*}"
  [[ " ${keys[*]} " == *" $key "* ]] || { echo "not an argument: $key" >&2; exit 2; }
  printf -v "$key" "%s" "${argument#*=}"
done

# Keep the start and the end of a long output.
shorten() { head --bytes="$MOST"; tail --bytes="$MOST"; }

# Run a command as the user. It gets no descriptor of the job: what it leaves must not look like the job.
as_user() {
  if [[ -z "$uid" ]]; then
    "$@" 8>&-
  else
    setpriv --reuid="$uid" --regid="$gid" --init-groups env --ignore-environment \
      HOME="$home" USER="$user" LOGNAME="$user" SHELL=/bin/sh PATH="$path" "$@" 8>&-
  fi
}

step() {
  local step="$1" status
  shift
  echo "-- $step"
  "$@" 2>&1 < /dev/null | shorten | { sed --unbuffered "s/^/| /"; echo; }
  status="${PIPESTATUS[0]}"
  echo "== $step $status"
  return "$status"
}

# --- the processes of the command (as the user) ----------------------------------------------------------------------

# Print the processes that the command has started, also those that have left its session: by a variable in their
# environment, and by the files of the scratch directory that they have open.
list_processes() {
  local run="$1" session="$2" pattern stat line id
  pattern="$(printf "%s" "$run" | sed "s/[][*?\\\\]/\\\\&/g")"
  {
    grep --files-with-matches --null-data --fixed-strings --line-regexp --no-messages -e "$MARK=$run" /proc/[0-9]*/environ
    find /proc/[0-9]*/fd -maxdepth 1 -lname "$pattern/*" 2> /dev/null
    for stat in /proc/[0-9]*/stat; do
      [[ -n "$session" ]] || break
      { read -r line < "$stat"; } 2> /dev/null || continue
      # After the name, which may have any characters: the state, the parent, the group and the session (proc(5)).
      read -r _ _ _ id _ <<< "${line##*) }"
      [[ "$id" != "$session" ]] || echo "$stat"
    done
  } | cut -d / -f 3 | sort -u
}

# End them: first by SIGTERM, then by SIGKILL.
end_processes() {
  local attempt pids
  for attempt in {1..60}; do
    mapfile -t pids < <(list_processes "$@")
    ((${#pids[@]})) || return 0
    if ((attempt == 1)); then
      kill -s TERM -- "${pids[@]}" 2> /dev/null
      kill -s CONT -- "${pids[@]}" 2> /dev/null # those that are stopped (SIGSTOP)
    elif ((attempt > 15)); then
      kill -s KILL -- "${pids[@]}" 2> /dev/null
    fi
    sleep 0.2
  done
  echo "processes that cannot be ended: ${pids[*]}"
  return 1
}

milliseconds() { date +%s%3N; }

# Run the command of the settings in the scratch directory for `limit` milliseconds at most.
run_command() {
  local run="$1" limit="$2" command="$3" child="" reader="" end status=0 ended="" others attempt
  trap "end_processes \"\$run\" \"\$child\"; kill -s KILL -- -\$reader; exit 143" TERM INT HUP
  exec 5> >(exec setsid bash -c "head --bytes=$MOST; exec tail --bytes=$MOST")
  reader=$!
  (cd -- "$run" && exec setsid env "$MARK=$run" sh -c "$command") < /dev/null >&5 2>&1 5>&- &
  child=$!
  exec 5>&-
  end=$(($(milliseconds) + limit))
  while kill -0 "$child" 2> /dev/null; do
    (($(milliseconds) < end)) || { ended=yes; break; }
    sleep 0.1
  done
  others="$(list_processes "$run" "$child" | grep --invert-match --line-regexp -e "$child")"
  end_processes "$run" "$child"
  wait "$child" || status=$?
  # The reader ends when nothing has the pipe open any more.
  for attempt in {1..50}; do kill -0 "$reader" 2> /dev/null || break; sleep 0.1; done
  kill -s KILL -- "-$reader" 2> /dev/null
  echo
  [[ -z "$others" || -n "$ended" ]] || echo ":: left ${others//$'\n'/ }"
  [[ -z "$ended" ]] || { echo ":: ended"; status=$ENDED; }
  return "$status"
}

FUNCTIONS="MARK=$MARK MOST=$MOST ENDED=$ENDED; $(declare -f list_processes end_processes milliseconds run_command)"

# Run one of these functions as the user.
function_as_user() { as_user bash -c "set -uo pipefail; $FUNCTIONS; \"\$@\"" drill.sh "$@"; }

# --- the directories ---------------------------------------------------------------------------------------------------

# As the user, also where the command has taken permissions away.
remove_directory() {
  as_user sh -c "[ ! -d \"\$0\" ] || chmod -R u+rwX -- \"\$0\" 2> /dev/null; exec rm -rf --one-file-system -- \"\$0\"" "$1"
}

# Remove the scratch directories, also those of a drill that was killed, and end what its command has left.
remove_all() {
  local status=0
  function_as_user end_processes "$run" "" || status=1
  remove_directory "$run" || status=1
  if [[ "$work" != "$run" && -e "$work" ]]; then
    # The directory above may be one such as /tmp, where another user could have created it.
    if [[ -O "$work" ]]; then rm -rf --one-file-system -- "$work" || status=1; else
      echo "$work does not belong to this user"
      status=1
    fi
  fi
  [[ -z "$link" ]] || rm -f -- "$link" "${link%/*}/.restore.${link##*/}" || status=1
  return "$status"
}

create_all() {
  mkdir -m 700 -- "$work" || return
  [[ "$work" == "$run" ]] || as_user mkdir -m 700 -- "$run" || return
  [[ -z "$link" ]] || link_backup
}

# Give the backup another name, for the restore: the rotation may delete it, and another restore may hold it. Or copy it,
# only without root, for a user who cannot create a link. The user may be able to replace the directory of the backup, so
# enter it first, and then look whose it is.
link_backup() {
  cd -- "${backup%/*}" || return
  [[ "$work" == "$run" || -n "$(find . -maxdepth 0 -uid 0 ! -perm /022)" ]] ||
    { echo "refused: others than root can write to $PWD, and root would read the backup for $user"; return 1; }
  if [[ -n "$copy" && "$work" == "$run" ]]; then
    cp --no-dereference --reflink=auto --no-target-directory -- "./${backup##*/}" "$link" || return
  else
    ln --physical --no-target-directory -- "./${backup##*/}" "$link" || return
  fi
  [[ -f "$link" && ! -L "$link" ]] || { echo "$backup is not a regular file"; return 1; }
}

# The command must not find a second name of the backup: it could change it.
#
# The directory of the user may be replaced at any time: enter it first, and then look whose it is. Whichever directory
# of the user this is, root does no more than to create a link to the user's own file in it.
hand_over() {
  [[ -z "$link" ]] || rm -f -- "$link" || return
  [[ "$work" != "$run" ]] || return 0
  chown --no-dereference "$uid:$gid" -- "$work/$name" || return
  cd -- "$run" || return
  [[ "$(stat --format=%u .)" == "$uid" ]] || { echo "$run was replaced"; return 1; }
  ln --no-target-directory -- "$work/$name" "./$name" || return
  rm -- "$work/$name"
}

# That of this drill, or one to which nothing was uploaded for a day: an upload can be continued.
remove_upload() {
  if [[ "$backup" == "$upload"/* || -z "$(as_user find "$upload" -mmin -1440 2> /dev/null)" ]]; then
    remove_directory "$upload"
  fi
}

finish() {
  local status=$?
  trap "" TERM INT HUP
  step cleanup remove_all
  step upload remove_upload
  exit "$status"
}

main() {
  step clear remove_all || return
  trap finish EXIT
  trap "exit 143" TERM INT HUP
  step create create_all || return
  step restore sh -c "$restore" || return
  step give hand_over || return
  step integrity as_user sh -c "$integrity"
  step foreign_keys as_user sh -c "$foreign_keys"
  step query as_user sh -c "$query"
  [[ -z "$command" ]] || step command function_as_user run_command "$run" "$limit" "$command"
  return 0
}

main
