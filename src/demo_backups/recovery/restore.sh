#!/usr/bin/env bash
# Put a backup in place of a database, prove that it is there, and start the service.
#
#   restore.sh restore KEY=VALUE...     the keys are those of `keys`, and those of the service
#   restore.sh complete KEY=VALUE...    finish a restore that was killed, from its journal
#   restore.sh revert KEY=VALUE...      go back to the state before it
#
# Each stage is in the journal, on the disk, before it starts:
#
#   preparing   hold the backup; for a swap, write the new file next to the database
#   stopping    stop the service
#   saving      save the present state; until here, nothing is changed
#   restoring   in place: SQLite replaces the content in one transaction
#   aside       swap: the old files move to the directory $private
#   linking     swap: the new file gets the name of the database
#   starting    the database has the content of the backup: start the service
#   cleaning    the service is up: remove what was only needed to go back
#   reverting   going back; from here, the restore cannot be completed
#   reverted    the old state is back: start the service
#
# The exit status: 0 done, 4 done but a file could not be removed, 20 failed and nothing was changed, 21 failed and
# reverted, or reverted and the service is not up, 22 failed and not reverted.
set -uo pipefail
umask 077
export LC_ALL=C PATH="$PATH:/usr/bin:/bin"
trap : TERM INT HUP # not "", which the commands would inherit: one that is terminated fails, and the restore is reverted

DONE=0 UNCLEAN=4 UNCHANGED=20 REVERTED=21 NOT_REVERTED=22
stages=(preparing stopping saving restoring aside linking starting cleaning reverting reverted)
SIDECARS=(-wal -shm -journal)
SQLITE=(sqlite3 -batch -init /dev/null -bail)
LOCK_TIMEOUT=120000 # milliseconds, as in the backup scripts; meanwhile nobody is blocked
MOST_DIFFERENCES=1000000 # bytes that are looked at to count changed pages

# What the journal has: the request, the stage, the inodes of the old and the new file of a swap, the schema version
# before a restore in place, what was proven.
keys=(started backup target method proof save saved lock wait floor owner mode stage old new schema identical changed)
started="" backup="" target="" method="" proof="" save="" saved="" lock="" wait="" floor="" owner="" mode=""
stage="" old="" new="" schema="" identical="" changed=""
# What only the arguments have: commands are never read from a file.
journal="" stop="" start="" healthy="" directory="" limit=""
action="" failed="" stopped_at=""
work=/proc/self/fd/6 # the directory $private

say() { printf "%s\n" "$*"; }
result() { printf "result: %s\n" "$*"; }

# --- the end of a failed restore ------------------------------------------------------------------------------------

# The one way to fail. What it takes to go back depends on the stage.
fail() {
  # A command substitution ends here; what called it sees the status.
  ((BASH_SUBSHELL == 0)) || exit 1
  failed=yes
  say "failed: $*"
  case "$stage" in
    "" | cleaning) exit "$UNCHANGED" ;;
    preparing | stopping | saving) abandon ;;
    restoring | aside | linking | starting) revert ;;
    reverted) exit "$REVERTED" ;;
    *)
      say "the state before the restore is not back: the journal is in $journal"
      [[ -z "$stopped_at" ]] || say "the service is stopped"
      exit "$NOT_REVERTED"
      ;;
  esac
}

# Run a command that must succeed.
must() {
  local action="$1" printed
  shift
  printed="$("$@" 2>&1)" || fail "could not $action: ${printed:-exit status $?}"
}

# Go back from a stage in which nothing was changed. Killed here, the restore is still in that stage.
abandon() {
  local down=""
  [[ "$stage" == preparing ]] || run_service start "$start" || down="; the service could not be started"
  # The copy of a state that was not changed.
  [[ "$stage" != saving ]] || remove_saved
  clean || true
  say "nothing was changed$down"
  end_reverted "$down" "$UNCHANGED"
}

revert() {
  if is_unchanged; then
    ! write_journal saving || stage=saving
    abandon
  fi
  say "reverting"
  # A full disk must not prevent it: every stage from which it starts can be completed and reverted.
  write_journal reverting || say "the journal cannot be written"
  stage=reverting
  stop_service
  [[ "$action" == restore ]] || (save_restored) || say "what the service has written since the restore could not be saved"
  if [[ "$method" == swap ]]; then
    put_back
  elif [[ "$save" == copy ]]; then
    put_in_place "$saved" || fail "the saved state ${saved##*/} could not be put back"
    [[ "$proof" == transaction ]] || is_equal || fail "the database differs from the saved state ${saved##*/}"
  else
    put_raw_back
  fi
  enter reverted
  finish_revert
}

finish_revert() {
  local down=""
  # The old files have second names in $private, and SQLite wants one.
  remove_work
  start_service || down="; the service is not up"
  clean || true
  say "reverted: the state before the restore is back$down"
  end_reverted "$down" "$REVERTED"
}

# What was asked for is a success.
end_reverted() {
  if [[ "$action" == revert && -z "$failed" && -z "$1" ]]; then
    result "reverted yes"
    result "proof $proof"
    result "identical no"
    exit "$DONE"
  fi
  exit "$2"
}

# --- the journal ----------------------------------------------------------------------------------------------------

write_journal() {
  local stage="$1" key
  {
    for key in "${keys[@]}"; do printf "%s=%s\n" "$key" "${!key}" || return; done
    echo end
  } > journal.new && sync -- journal.new && mv -- journal.new journal && sync -- .
}

enter() {
  write_journal "$1" || fail "the journal $journal cannot be written"
  stage="$1"
}

# Every line must be one that write_journal could have written.
read_journal() {
  local line key number=0
  while IFS= read -r line; do
    [[ "$line" == end && "$number" == "${#keys[@]}" ]] && return
    key="${line%%=*}"
    [[ "$number" -lt "${#keys[@]}" && "$key" == "${keys[number]}" && "$line" == "$key="* ]] || break
    printf -v "$key" "%s" "${line#*=}"
    number=$((number + 1))
  done < journal
  stage=""
  fail "the journal $journal/journal is damaged"
}

check_values() {
  local key
  for key in "${keys[@]}" journal; do [[ "${!key}" != *[[:cntrl:]]* ]] || fail "$key has a control character"; done
  for key in backup target journal; do
    [[ "${!key}" == /* && "${!key}" != */ ]] || fail "$key is not the absolute path of a file: ${!key}"
  done
  [[ "$method" == swap || "$method" == in-place ]] || fail "not a method: $method"
  [[ "$proof" == stopped || "$proof" == locked || "$proof" == transaction ]] || fail "not a proof: $proof"
  [[ "$method" == in-place || "$proof" == stopped ]] || fail "a swap is proven with the service stopped"
  [[ "$save" == copy || "$save" == raw || "$save" == none ]] || fail "not a way to save the state: $save"
  [[ "$method" == swap || "$save" != none ]] || fail "a restore in place must save the state"
  [[ "$save" == none || "${saved%/*}" == "${journal%/*}" ]] || fail "$saved is not in the directory of the journal"
  [[ -z "$lock" || "${lock%/*}" == "${journal%/*}" ]] || fail "$lock is not in the directory of the journal"
  for key in wait floor; do [[ "${!key}" =~ ^[0-9]{1,18}$ ]] || fail "$key is not a number: ${!key}"; done
  [[ "$identical" =~ ^(|yes|no)$ && "$changed" =~ ^[0-9]*$ ]] || fail "not a proof: $identical $changed"
  [[ "$schema" =~ ^(-?[0-9]{1,10})?$ ]] || fail "not a schema version: $schema"
  for key in old new; do [[ "${!key}" =~ ^([0-9]*|none)$ ]] || fail "$key is not an inode: ${!key}"; done
  [[ "$limit" =~ ^[0-9]{1,9}(\.[0-9]+)?$ ]] || fail "limit is not a number of seconds: $limit"
}

# --- the paths ------------------------------------------------------------------------------------------------------

# Another user who can write to a directory could put a link in the place of any file in it.
is_own_directory() { [[ -n "$(find "$1" -maxdepth 0 -type d \( -uid 0 -o -uid "$EUID" \) ! -perm /022)" ]]; }
# One in which the account that sudo was called from may write, too.
is_trusted_directory() {
  [[ -n "$(find "$1" -maxdepth 0 -type d \( -uid 0 -o -uid "$EUID" -o -uid "${SUDO_UID:-0}" \) ! -perm /022)" ]]
}
is_own_file() {
  [[ -n "$(find "$1" -maxdepth 0 -type f -links 1 \( -uid 0 -o -uid "$EUID" -o -uid "${SUDO_UID:-0}" \))" ]]
}

# Work in the directory of the journal: it was checked, and it stays the same if somebody renames the ones above it.
open_journal() {
  cd -- "${journal%/*}" || fail "there is no directory ${journal%/*}"
  is_own_directory . || fail "$PWD belongs to another user, or other users can write to it"
  # One at a time, of backups and restores. The programs that are started inherit the lock: it is held until they end.
  if [[ -n "$lock" ]]; then
    [[ ! -e "./${lock##*/}" && ! -L "./${lock##*/}" ]] || is_own_file "./${lock##*/}" ||
      fail "$lock is not a regular file of this user"
    exec 9>> "./${lock##*/}" || fail "$lock cannot be opened"
    flock --nonblock 9 || fail "a backup or a restore is in progress: $lock is locked"
  fi
  must "create $journal" mkdir --parents -- "./${journal##*/}"
  cd -- "./${journal##*/}" || fail "there is no directory $journal"
  is_own_directory . || fail "$journal belongs to another user, or other users can write to it"
  exec 7>> lock || fail "$journal/lock cannot be opened"
  flock --nonblock 7 || fail "another restore is in progress: $journal/lock is locked"
  [[ lock -ef /proc/self/fd/7 ]] || fail "another restore has just ended: start again"
}

set_paths() {
  folder="${target%/*}" name="${target##*/}"
  folder="${folder:-/}"
  private="$folder/.$name.restore"
  linked="${backup%/*}/.restore.${backup##*/}"
  [[ "$folder" == "$(realpath -e -- "$folder")" ]] || fail "$folder does not exist, or is a link"
  ln --symbolic --force --no-target-directory -- "$target" live || fail "$journal cannot be written"
  [[ ! -e "$private" && ! -L "$private" ]] || open_work
}

# A sidecar file may be removed at any time.
file_size() {
  local printed
  if printed="$(stat --dereference --format=%s -- "$1" 2>&1)"; then echo "$printed"; return; fi
  [[ "$printed" == *": No such file or directory" ]] && echo 0
}

inode() {
  local printed
  if printed="$(stat --format=%i -- "$1" 2>&1)"; then echo "$printed"; return; fi
  [[ "$printed" == *": No such file or directory" ]] && echo none
}

# Tell whether the file with the name of the database has this inode.
is_live() {
  local present
  present="$(inode "$target")" || fail "it cannot be seen whether $target exists"
  [[ "$present" == "$1" ]]
}

# --- space ----------------------------------------------------------------------------------------------------------

free() {
  local blocks size
  read -r blocks size < <(stat --file-system --format="%a %S" -- "$1") && echo $((blocks * size))
}

require_space() {
  local needed="$1" left
  left="$(free "$2")" || fail "the free space on the disk of $2 cannot be read"
  ((left - needed >= floor)) || fail "$needed bytes are needed on the disk of $2, $left are free, $floor must stay free"
}

# Before anything is changed: the saved state, and the new file or a -wal or journal of the full size.
check_space() {
  local present=0 size saved_bytes=0 next suffix
  size="$(file_size "$linked")"
  for suffix in "" "${SIDECARS[@]}"; do present=$((present + $(file_size "$target$suffix"))); done
  [[ "$save" == none ]] || saved_bytes="$present"
  next="$size"
  [[ "$method" == swap ]] || next=$((size > present ? 2 * size - present : present))
  if [[ "$(stat --format=%d -- .)" == "$(stat --format=%d -- "$folder")" ]]; then
    require_space $((saved_bytes + next)) .
  else
    require_space "$saved_bytes" .
    require_space "$next" "$folder"
  fi
}

# --- the service ----------------------------------------------------------------------------------------------------

# Run a command of the service. It gets none of the locks: what it starts runs on when the restore has ended.
run_service() {
  local action="$1" command="$2" status=0 line
  [[ -n "$command" ]] || return 0
  (cd -- "$directory" && exec timeout --kill-after=5 "$limit" sh -c "exec 6>&- 7>&- 8>&- 9>&-; $command") \
    > printed 2>&1 < /dev/null || status=$?
  ((status)) || return 0
  ((status != 124 && status != 137)) || say "$action did not end within $limit s"
  say "$action failed (exit status $status): $command"
  tail --bytes=2000 printed | while IFS= read -r line; do say "  | $line"; done
  return 1
}

stop_service() {
  if [[ -n "$stop" ]]; then
    say "stopping the service"
    stopped_at="${stopped_at:-$(date +%s%3N)}"
    run_service stop "$stop" || fail "the service could not be stopped"
  fi
  [[ "$proof" != stopped ]] || require_unused
}

# A service may take a while until it works.
start_service() {
  local deadline=$((SECONDS + ${limit%.*} + 1))
  [[ -z "$start" ]] || say "starting the service"
  run_service start "$start" || return
  [[ -z "$stopped_at" ]] || result "stopped_milliseconds $(($(date +%s%3N) - stopped_at))"
  [[ -n "$healthy" ]] || return 0
  until run_service healthy "$healthy" > report; do
    ((SECONDS < deadline)) || { cat report; return 1; }
    sleep 1
  done
}

# Print the processes that have the database open, also under the name in $private, or after it was deleted.
list_users() {
  local fd file pid files=() path escaped
  [[ -d /proc/self/fd ]] || { echo "unknown: /proc is not mounted"; return; }
  for file in {"$target","$work/$name","$work/new"}{,-wal,-shm,-journal}; do
    [[ ! -e "$file" ]] || files+=("$file")
  done
  for fd in /proc/[0-9]*/fd/*; do
    for file in "${files[@]}"; do [[ ! "$fd" -ef "$file" ]] || echo "$fd"; done
  done | describe_users
  escaped="$(printf "%s" "$name" | sed "s/[][*?\\\\]/\\\\&/g")"
  find /proc/[0-9]*/fd -lname "*/$escaped (deleted)" 2> /dev/null | while IFS= read -r fd; do
    pid="${fd#/proc/}" path="$(readlink -- "$fd")" || continue
    pid="${pid%%/*}" path="${path%/*}/"
    # The path is that in the mount namespace of the process.
    if [[ "/proc/$pid/root$path" -ef "$folder" || "$path" -ef "$folder" ]]; then echo "$fd"; fi
  done | describe_users
  true
}

describe_users() {
  local pid
  cut -d / -f 3 | sort -u | while read -r pid; do
    echo "process $pid of $(stat --format=%U "/proc/$pid" 2> /dev/null):" \
      "$(tr "\0\n" "  " 2> /dev/null < "/proc/$pid/cmdline" | cut -c -120)"
  done
}

# The proof that the service is stopped. One that is restarted automatically is back soon: look again after a second.
require_unused() {
  local users deadline=$((SECONDS + ${limit%.*}))
  ((EUID == 0)) || say "only the processes of this user can be checked for using the database: not root"
  while users="$(list_users)" && [[ -n "$users" ]]; do
    [[ -n "$stop" && "$SECONDS" -lt "$deadline" ]] || fail "the database is open: ${users//$'\n'/; }"
    sleep 0.2
  done
  [[ -n "$stop" ]] || return 0
  sleep 1
  require_still_unused
}

require_still_unused() {
  local users
  users="$(list_users)"
  [[ -z "$users" ]] || fail "the service was started again during the restore: ${users//$'\n'/; }"
}

# --- the backup and the present state -------------------------------------------------------------------------------

# A hard link: the rotation may delete the backup meanwhile. $1 is not empty if a link of this restore may exist.
hold() {
  is_trusted_directory "${backup%/*}/" || fail "${backup%/*} belongs to another user, or other users can write to it"
  if [[ -z "$1" || ! -f "$linked" || -L "$linked" ]]; then
    [[ -f "$backup" && ! -L "$backup" ]] || fail "there is no regular file $backup"
    must "remove $linked" rm --force -- "$linked"
    must "hold $backup by a hard link" ln --no-target-directory -- "$backup" "$linked"
  fi
  # SQLite takes an empty file for an empty database. A raw copy may be damaged anywhere.
  [[ "$backup" == *.raw.db || "$(head --bytes=15 -- "$linked")" == "SQLite format 3" ]] ||
    fail "$backup is not an SQLite database"
}

# Make a URI of a path (uri.html). With mode=ro, a missing file is an error. Without it, also with immutable=1, SQLite
# creates an empty one, and .restore then empties the live database with exit status 0.
uri() {
  local text="$1" encoded="" character index
  for ((index = 0; index < ${#text}; index++)); do
    character="${text:index:1}"
    [[ "$character" == [A-Za-z0-9/._~-] ]] || printf -v character "%%%02X" "'$character"
    encoded+="$character"
  done
  echo "file:$encoded?$2"
}

# Publish the file `part` as $1 in the directory above.
publish() {
  must "flush the saved state" sync -- part
  must "name the saved state $1" ln --no-target-directory -- part "../$1"
  must "flush the name of the saved state" sync -- ..
  must "remove the second name of the saved state" rm -- part
}

remove_saved() {
  local suffix
  [[ "$save" != none ]] || return 0
  for suffix in "" "${SIDECARS[@]}"; do rm --force -- "../${saved##*/}$suffix" || return; done
}

save_state() {
  local suffix permissions
  remove_saved || fail "an incomplete saved state cannot be removed"
  rm --force -- part part-journal || fail "$journal cannot be written"
  case "$save" in
    copy)
      say "saving the present state as $saved"
      save_copy
      publish "${saved##*/}"
      ;;
    raw)
      say "saving raw copies of the present files as $saved"
      for suffix in "" "${SIDECARS[@]}"; do
        [[ -f "$target$suffix" && ! -L "$target$suffix" ]] || continue
        permissions="$(stat --format=0%a -- "$target$suffix")" || fail "$target$suffix cannot be read"
        # The service may replace it by a link meanwhile.
        must "copy $target$suffix" cp --no-dereference -- "$target$suffix" part
        [[ -f part && ! -L part ]] || fail "$target$suffix is not a regular file"
        printf -v permissions %o "$((permissions & 0755))"
        must "set the mode of the saved state" chmod "$permissions" -- part
        publish "${saved##*/}$suffix"
      done
      ;;
  esac
}

# A service that was killed in a transaction leaves a rollback journal, which only a connection that may write can roll
# back, as the service itself would.
access_mode() { if [[ -s "$target-journal" ]]; then echo rw; else echo ro; fi; }

# Print what is wrong with a rollback journal; nothing if SQLite may roll it back. Its last bytes may name a super-journal
# (fileformat2.html, section 3), which SQLite then deletes: as root, any file that the account of the service names.
find_journal_problem() {
  local size end
  size="$(file_size "$target-journal")" || { echo "$target-journal cannot be read" && return; }
  ((size >= 8)) || return 0
  end="$(dd if="$target-journal" iflag=nonblock,nofollow,skip_bytes skip=$((size - 8)) bs=8 count=1 status=none 2>&1 |
    od --address-radix=n --format=x1 | tr --delete ' \n')"
  [[ "$end" != d9d505f920a163d7 ]] ||
    echo "$target-journal names a super-journal, which rolling it back as root would delete: let the service roll it back"
}

# After a kill, the service may have written to the restored database for days. The new name is that of the newest saved
# state, so that --undo brings it back.
save_restored() {
  local file
  [[ -f "$target" && ! -L "$target" && "$save" != none ]] || return 0
  # Any other file than that of a swap is set aside or stays.
  [[ "$method" == in-place ]] || is_live "$new" || return 0
  require_space "$(file_size "$target")" .
  file="${saved##*/}"
  until [[ ! -e "../$file" ]]; do
    sleep 0.2
    file="${file%????-??-??_??-??-??*}$(date +%Y-%m-%d_%H-%M-%S).db"
  done
  say "saving the restored state as ${saved%/*}/$file"
  rm --force -- part part-journal && save_copy && publish "$file"
}

# The method of the backup scripts: see there.
save_copy() {
  local size permissions left problem
  problem="$(find_journal_problem)"
  [[ -z "$problem" ]] || fail "$problem"
  read -r size permissions < <(stat --format="%s 0%a" -- "$target") || fail "$target cannot be read"
  must "save the present state" "${SQLITE[@]}" "$(uri "$target" "mode=$(access_mode)")" ".timeout $LOCK_TIMEOUT" \
    "BEGIN" "SELECT 1 FROM sqlite_master LIMIT 0" ".backup --async part"
  left="$(stat --format=%s -- "$target")" || fail "$target cannot be read"
  ((left >= size || left >= $(stat --format=%s -- part))) || fail "$target became smaller while it was saved"
  printf -v permissions %o "$((permissions & 0755))"
  must "set the mode of the saved state" chmod "$permissions" -- part
}

# --- in place -------------------------------------------------------------------------------------------------------

# The schema version of a database that can be read. `.restore` always increments it (sqlite3_backup_step in backup.c).
read_schema() {
  local version
  [[ -z "$(find_journal_problem)" ]] || return
  version="$("${SQLITE[@]}" "$(uri "$target" "mode=$(access_mode)")" ".timeout $wait" "PRAGMA schema_version" 2> errors)" &&
    [[ "$version" =~ ^-?[0-9]{1,10}$ ]] && echo "$version"
}

# Whether a restore in place was not committed: nothing was changed, and the service may have written since.
is_unchanged() { [[ "$method" == in-place && -n "$schema" && "$(read_schema)" == "$schema" ]]; }

# Let SQLite replace the content by that of a file, and compare. Returns 1 if SQLite has failed, and so changed nothing.
#
# `.shell` is called with words that need no quotes: the files have fixed names in the directory of the journal. Closing
# a file in another process does not release the locks of sqlite3.
put_in_place() {
  local source="$1" size status=0 statements problem
  problem="$(find_journal_problem)"
  [[ -z "$problem" ]] || { say "$problem" && return 1; }
  ln --symbolic --force --no-target-directory -- "$source" backup || fail "$journal cannot be written"
  rm --force -- equal header differences || fail "$journal cannot be written"
  size="$(file_size "$source")"
  statements=(".timeout $wait" ".restore $(uri "$source" "mode=ro&immutable=1")" "SELECT 'restored'")
  case "$proof" in
    stopped) statements+=("PRAGMA wal_checkpoint(TRUNCATE)") ;;
    # The lock is taken first, and kept: nobody writes between the transaction and the comparison. Waiting in BEGIN
    # blocks nobody; in exclusive mode, it would keep a shared lock, and no writer could commit. From there on, writers
    # wait, so the wait for readers is short.
    locked)
      statements=(
        ".timeout $LOCK_TIMEOUT" "BEGIN IMMEDIATE" "PRAGMA locking_mode = EXCLUSIVE" ".timeout $wait"
        "SELECT count(*) FROM sqlite_master" "COMMIT" "${statements[@]:1}"
        ".shell cmp -s -i 100 live backup && : > equal" ".shell cmp -l -n 100 live backup > header"
        "PRAGMA locking_mode = NORMAL" "SELECT 1 FROM sqlite_master LIMIT 0"
      )
      ;;
    # The checkpoint copies all of the transaction to the file, unless a reader has an older snapshot. The snapshot of
    # BEGIN keeps what the service commits later out of the file, and the -wal that is truncated in the end is short.
    transaction)
      statements+=(
        "SELECT 'checkpoint'" "PRAGMA wal_checkpoint(PASSIVE)" "BEGIN" "SELECT 1 FROM sqlite_master LIMIT 0"
        "SELECT 'pages'" "PRAGMA page_count"
        ".shell cmp -s -i 100 -n $((size - 100)) live backup && : > equal"
        ".shell cmp -l -n $size live backup | head -n $MOST_DIFFERENCES > differences"
        "COMMIT" ".timeout 200" "SELECT 'truncated'" "PRAGMA wal_checkpoint(TRUNCATE)"
      )
      ;;
  esac
  "${SQLITE[@]}" "$(uri "$target" mode=rw)" "SELECT 'starting'" "${statements[@]}" > printed 2> errors || status=$?
  if ! grep --quiet --line-regexp restored printed; then
    say "sqlite3 failed (exit status $status): $(head --bytes=1000 errors)"
    # Ended by a signal, or on a disk too full for what it prints, it may have committed.
    ((status < 126)) || fail "sqlite3 was killed"
    grep --quiet --line-regexp starting printed || fail "what sqlite3 has printed is lost"
    return 1
  fi
  ((status == 0)) || fail "sqlite3 failed after the restore (exit status $status): $(head --bytes=1000 errors)"
}

# Print the line of `printed` after a word.
answer() { grep --after-context=1 --line-regexp "$1" printed | tail -n 1; }

# Decide by the comparison whether the database has the content of the backup. Bytes of the header that .restore sets
# (fileformat2.html, section 1.3): the versions 18-19, the counters 24-27, 40-43 and 92-95, the version of SQLite 96-99.
is_equal() {
  local offset
  if [[ "$proof" == stopped ]]; then
    [[ ! -s "$target-wal" && ! -s "$target-journal" ]] || { say "a -wal or -journal is left"; return 1; }
    cmp --silent --ignore-initial=100 live backup || return 1
    cmp --verbose --bytes=100 live backup > header || (($? == 1)) || return 1
  else
    [[ -e equal && -e header ]] || return 1
  fi
  while read -r offset _; do is_header_counter "$offset" || return 1; done < header
}

is_header_counter() { [[ "$1" =~ ^(19|20|2[5-8]|4[1-4]|9[3-9]|100)$ ]]; } # cmp counts from 1

# Proof of a transaction in WAL mode. A reader with an older snapshot prevents the checkpoint: compare a copy then.
report_transaction() {
  local checkpoint size
  size="$(file_size backup)"
  checkpoint="$(answer checkpoint)"
  if [[ ! "$checkpoint" =~ ^0\|([0-9]+)\|([0-9]+)$ || "${BASH_REMATCH[1]}" != "${BASH_REMATCH[2]}" ]]; then
    say "a reader has an older snapshot open: comparing a copy"
    compare_copy "$size" || return 0
  fi
  changed="$(count_changed_pages "$size")"
  identical=no
  if [[ -e equal ]] && ((changed == 0)); then identical=yes; fi
  [[ "$(answer truncated)" == "0|"* ]] || result "wal_bytes $(file_size "$target-wal")"
}

compare_copy() {
  rm --force -- equal differences compared || return
  (($(free .) - $(file_size live) - $(file_size live-wal) >= floor)) ||
    { say "not compared: too little space for a copy"; return 1; }
  "${SQLITE[@]}" "$(uri "$target" mode=ro)" ".timeout $wait" "BEGIN" "SELECT 'pages'" "PRAGMA page_count" \
    ".backup --async compared" > printed 2>&1 || { say "not compared: $(head --bytes=1000 printed)"; return 1; }
  echo "truncated" >> printed
  echo "1|" >> printed
  if cmp --silent --ignore-initial=100 --bytes=$(($1 - 100)) compared backup; then : > equal; fi
  cmp --verbose --bytes="$1" compared backup | head -n "$MOST_DIFFERENCES" > differences || true
  rm -- compared
}

count_changed_pages() {
  local offset high low page_size count pages=()
  read -r high low < <(od --address-radix=n --format=u1 --skip-bytes=16 --read-bytes=2 -- backup)
  page_size=$((high * 256 + low))
  ((page_size > 1)) || page_size=65536
  while read -r offset _; do
    is_header_counter "$offset" || pages[(offset - 1) / page_size]=1
  done < differences
  count="$(answer pages)"
  ((count = ${#pages[@]} + (count > $1 / page_size ? count - $1 / page_size : 0)))
  echo "$count"
}

report_integrity() {
  local line
  "${SQLITE[@]}" "$(uri "$target" mode=ro)" ".timeout $wait" "PRAGMA integrity_check" 2>&1 | head -n 100 |
    while IFS= read -r line; do result "integrity $line"; done || true
}

# $1 is not empty after a kill.
restore_in_place() {
  say "restoring the content in one transaction"
  if ! put_in_place "$linked"; then
    # The first attempt has changed nothing, and needs no way back. One before a kill may have been complete.
    [[ -n "$1" ]] || enter saving
    fail "SQLite did not restore the backup"
  fi
  case "$proof" in
    transaction) report_transaction ;;
    *)
      is_equal || fail "the database differs from the backup"
      identical=yes
      ;;
  esac
  [[ "$proof" != stopped ]] || require_still_unused
}

# --- swap -----------------------------------------------------------------------------------------------------------

# The files of a swap are in a private directory. The one that it is in may belong to the service, which could rename
# it, and have root write to another one: so it is opened once, and used by its descriptor, which stays the same.
open_work() {
  [[ -d "$private" ]] || must "create $private" mkdir -- "$private"
  exec 6< "$private" || fail "$private cannot be opened"
  # Not one that a link leads to.
  [[ "$(readlink /proc/self/fd/6)" == "$private" &&
    -n "$(find "$work/" -maxdepth 0 -type d -uid "$EUID" ! -perm /077)" ]] ||
    { exec 6<&-; fail "$private is not a private directory of this user: find out who created it, then remove it"; }
}

remove_work() {
  local suffix
  [[ -d "$work/" ]] || return 0
  for suffix in "" "${SIDECARS[@]}"; do rm --force -- "$work/$name$suffix" "$work/new$suffix" || return; done
  rmdir -- "$private" || return
  exec 6<&-
}

# Raw copies of a damaged database have sidecars. Those of any other backup are left by somebody who opened it.
source_suffixes() {
  local suffix
  [[ "$1" == *.raw.db ]] || return 0
  for suffix in -wal -journal; do [[ ! -f "$1$suffix" ]] || echo "$suffix"; done
}

# Give a file the owner and mode of the database, or those of the settings or of the directory.
set_owner() {
  if [[ -e "$target" ]]; then
    must "set the owner" chown --reference="$target" -- "$1"
    must "set the mode" chmod --reference="$target" -- "$1"
    return
  fi
  if [[ -n "$owner" ]]; then
    must "set the owner" chown "$owner" -- "$1"
  elif ((EUID == 0)); then
    must "set the owner" chown --reference="$folder" -- "$1"
  fi
  must "set the mode" chmod "${mode:-600}" -- "$1"
}

write_new() {
  local suffix source
  say "writing the new file next to the database"
  open_work
  for suffix in "" $(source_suffixes "$backup"); do
    must "remove a file of a killed restore" rm --force -- "$work/new$suffix"
    source="$linked"
    [[ -z "$suffix" ]] || source="$backup$suffix" # the rotation deletes no raw copies: only the database is held
    must "write the new file" cp -- "$source" "$work/new$suffix"
    set_owner "$work/new$suffix"
    must "flush the new file" sync -- "$work/new$suffix"
  done
  must "flush the directory" sync -- "$work" "$folder"
  new="$(inode "$work/new")" || fail "$work/new cannot be read"
  old="$(inode "$target")" || fail "$target cannot be read"
}

# Move a file that is neither the old nor the new one out of the way: a restarted service has created it.
set_stranger_aside() {
  local suffix moved
  moved="$target.set-aside_$(date +%Y-%m-%d_%H-%M-%S)"
  while [[ -e "$moved" || -e "$moved-wal" || -e "$moved-journal" ]]; do moved+="+"; done
  for suffix in "" "${SIDECARS[@]}"; do
    [[ -e "$target$suffix" || -L "$target$suffix" ]] || continue
    [[ ! "$target$suffix" -ef "$work/$name$suffix" ]] || continue
    must "set $target$suffix aside" mv --no-clobber --no-target-directory -- "$target$suffix" "$moved$suffix"
    say "a file that is not of this restore was moved to $moved$suffix"
  done
  must "flush $folder" sync -- "$folder"
}

# Move the old files to $private, each of them either there or here after a crash.
#
# The sidecars get a second name first: a service that starts while the database is away would create an empty one, and
# SQLite would delete a -wal or -journal next to that.
set_old_aside() {
  local suffix
  if [[ "$old" == none ]] || is_live "$old"; then
    for suffix in "${SIDECARS[@]}"; do
      [[ -e "$target$suffix" && ! "$target$suffix" -ef "$work/$name$suffix" ]] || continue
      must "remove a file of a killed restore" rm --force -- "$work/$name$suffix"
      must "keep $target$suffix" ln --no-target-directory -- "$target$suffix" "$work/$name$suffix"
    done
    must "flush $work" sync -- "$work"
  fi
  if [[ "$old" != none ]] && is_live "$old"; then
    must "move the old file" mv --no-clobber --no-target-directory -- "$target" "$work/$name"
    must "flush $folder" sync -- "$folder" "$work"
  fi
  for suffix in "${SIDECARS[@]}"; do
    [[ "$target$suffix" -ef "$work/$name$suffix" ]] || continue
    must "move $target$suffix" rm -- "$target$suffix"
  done
  must "flush $folder" sync -- "$folder"
}

# Not mv, which would replace a file that a restarted service has created meanwhile.
link_new() {
  local suffix
  if ! is_live "$new"; then
    for suffix in $(source_suffixes "$backup"); do
      [[ "$target$suffix" -ef "$work/new$suffix" ]] ||
        must "put the new $name$suffix in place" ln --no-target-directory -- "$work/new$suffix" "$target$suffix"
    done
    must "put the new file in place" ln --no-target-directory -- "$work/new" "$target"
  fi
  must "flush $folder" sync -- "$folder"
}

# The proof of a swap: byte for byte, no sidecars, and nobody has opened the database.
check_swap() {
  local suffix
  require_still_unused
  for suffix in "${SIDECARS[@]}"; do
    [[ ! -e "$target$suffix" || "$target$suffix" -ef "$work/new$suffix" ]] ||
      fail "$target$suffix has appeared: the service was started again during the restore"
  done
  is_live "$new" || fail "$target was replaced during the restore"
  cmp --silent -- "$target" "$linked" || fail "the database differs from the backup"
  identical=yes
}

# $1 is not empty after a kill: a file that is neither the old nor the new one is then expected.
swap() {
  if [[ "$stage" != linking ]]; then
    enter aside
    [[ -z "$1" || "$old" == none ]] || is_live "$old" || set_stranger_aside
    set_old_aside
    require_still_unused
  fi
  enter linking
  [[ -z "$1" ]] || is_live "$new" || set_stranger_aside
  say "putting the new file in place"
  link_new
  check_swap
}

# Go back to the old files. The sidecars come first: the database is never in place without its -wal.
put_back() {
  local suffix
  if [[ "$old" != none ]] && is_live "$old"; then return; fi
  if is_live "$new"; then
    for suffix in "${SIDECARS[@]}"; do
      [[ "$target$suffix" -ef "$work/$name$suffix" ]] || must "remove $target$suffix" rm --force -- "$target$suffix"
    done
    must "remove the new file" rm -- "$target"
    must "flush $folder" sync -- "$folder"
  fi
  set_stranger_aside
  for suffix in "${SIDECARS[@]}"; do
    [[ -e "$work/$name$suffix" && ! "$target$suffix" -ef "$work/$name$suffix" ]] || continue
    must "put $target$suffix back" ln --no-target-directory -- "$work/$name$suffix" "$target$suffix"
  done
  must "flush $folder" sync -- "$folder"
  if [[ "$old" != none ]]; then
    [[ "$(inode "$work/$name")" == "$old" ]] || fail "the old file is not in $private"
    must "put the old file back" ln --no-target-directory -- "$work/$name" "$target"
    must "flush $folder" sync -- "$folder"
  fi
}

# Go back to a state that only raw copies have: as after a swap, with new copies of them as the old files.
put_raw_back() {
  local suffix
  [[ -n "$stop" ]] || fail "raw copies can only be put back while the service is stopped: stop is not set"
  if [[ -z "$old" ]]; then
    require_unused
    open_work
    for suffix in "" -wal -journal; do
      [[ -e "../${saved##*/}$suffix" ]] || continue
      must "copy the saved state" cp -- "../${saved##*/}$suffix" "$work/$name$suffix"
      set_owner "$work/$name$suffix"
      must "flush the saved state" sync -- "$work/$name$suffix"
    done
    new="$(inode "$target")" || fail "$target cannot be read"
    old="$(inode "$work/$name")" || fail "$work/$name cannot be read"
    must "flush $folder" sync -- "$work" "$folder"
    enter reverting
  fi
  put_back
}

# --- all of it ------------------------------------------------------------------------------------------------------

# Remove what the restore needed. The journal goes last: until then, the restore is pending.
clean() {
  local problem
  problem="$(
    remove_work 2>&1 && rm --force -- "$linked" part part-journal compared 2>&1 && sync -- . &&
      find . -mindepth 1 -maxdepth 1 ! -name journal ! -name lock -type f,l -delete 2>&1 &&
      rm --force -- journal 2>&1 && rm --force -- lock && rmdir -- "../${journal##*/}" 2>&1 &&
      sync -- "${journal%/*}" 2>&1
  )" && return
  say "could not remove all files of the restore: $problem"
  return 1
}

# Go forward from the stage. $1 is not empty after a kill.
go_on() {
  case "$stage" in
    preparing | stopping | saving)
      enter preparing
      hold "$1"
      check_space
      [[ -n "$1" || "$save" == none || ! -e "../${saved##*/}" ]] || fail "$saved exists"
      [[ "$method" != swap ]] || write_new
      enter stopping
      stop_service
      enter saving
      save_state
      ;;
    restoring | aside | linking)
      stop_service
      if is_unchanged; then
        enter saving
        save_state
      fi
      ;;
  esac
  case "$stage" in
    saving | restoring | aside | linking)
      if [[ "$method" == swap ]]; then
        [[ "$stage" != saving ]] || is_live "$old" || fail "$target was replaced while the state was saved"
        swap "$1"
      else
        [[ "$stage" != saving ]] || schema="$(read_schema)" || schema=""
        enter restoring
        restore_in_place "$1"
      fi
      enter starting
      ;;
  esac
  start_service || fail "the service is not healthy"
  [[ "$proof" != transaction ]] || report_integrity
  result "proof $proof"
  result "identical ${identical:-no}"
  [[ -z "$changed" ]] || result "changed_pages $changed"
  # If the journal cannot be written, the restore is still in the stage before, which can be completed again.
  write_journal cleaning || say "the journal cannot be written"
  stage=cleaning
  clean || exit "$UNCLEAN"
  say "done"
  exit "$DONE"
}

main() {
  local argument key id pending
  action="$1"
  shift
  for argument; do
    key="${argument%%=*}"
    case " ${keys[*]} journal stop start healthy directory limit " in
      *" $key "*) printf -v "$key" "%s" "${argument#*=}" ;;
      *) fail "not an argument: $key" ;;
    esac
  done
  id="$started"
  # The service may put a link to another database in the place of its own. SQLite has the option since 3.31.
  ! "${SQLITE[@]}" -nofollow :memory: "" > /dev/null 2>&1 || SQLITE+=(-nofollow)
  if [[ "$action" == restore ]]; then
    check_values
    open_journal
    [[ ! -e journal ]] || fail "a restore was killed: complete or revert it first"
    set_paths
    started="$(date +%s.%3N)"
    stage=preparing
    go_on ""
  fi
  open_journal
  [[ -e journal ]] || fail "there is no restore to $action"
  is_own_file journal || fail "$journal/journal is not a regular file of this user"
  read_journal
  pending="$stage" stage=""
  [[ "$started" == "$id" ]] || fail "another restore has been started meanwhile"
  check_values
  [[ " ${stages[*]} " == *" $pending "* ]] || fail "not a stage: $pending"
  set_paths
  stage="$pending"
  case "$stage $action" in
    "reverting "*) revert ;;
    "reverted "*) finish_revert ;;
    *" complete") go_on recovery ;;
    "preparing revert" | "stopping revert" | "saving revert") abandon ;;
    "cleaning revert") fail "the restore was done, and the service is up: it can only be completed" ;;
    *" revert") revert ;;
  esac
}

main "$@"
