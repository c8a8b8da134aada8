#!/usr/bin/env bash
# Back up the live tracker database into BACKUP_DIR and keep seven days of backups.
#
# Run it by hand, not from cron: at 17 GB a copy keeps the disks busy for a minute or more, and is kept for a week.

# Stop at the first failure: a backup that failed must never reach the rotation.
set -euo pipefail
umask 077

DATABASE_FILE="${DATABASE_FILE:-/home/torrust/github/torrust/torrust-demo/storage/tracker/lib/database/sqlite3.db}"
BACKUP_DIR="${BACKUP_DIR:-/home/torrust/backups}"
PART=".tracker_backup.part"
LOCK=".tracker_backup.lock"

fail() { echo "tracker-db-backup.sh: $*" >&2; exit 1; }
# Not a link, and not a file that another user has made.
is_own_file() { [[ -n "$(find "$1" -maxdepth 0 -type f -links 1 -uid "$EUID")" ]]; }

DATABASE_FILE="$(realpath -e -- "$DATABASE_FILE")"
[[ -f "$DATABASE_FILE" && -s "$DATABASE_FILE" ]] || fail "$DATABASE_FILE is empty, or is not a file"
read -r SIZE MODE LINKS < <(stat -c '%s 0%a %h' -- "$DATABASE_FILE")
# SQLite looks for a -wal next to the name by which it opened the file: the service may have opened it by another one.
((LINKS == 1)) || fail "$DATABASE_FILE has more than one hard link"

# Another user who can write to the directory could put a link in the place of any file in it.
cd -- "$BACKUP_DIR"
[[ -n "$(find . -maxdepth 0 \( -uid 0 -o -uid "$EUID" \) ! -perm /022)" ]] ||
  fail "$PWD belongs to another user, or other users can write to it"

# One run at a time. sqlite3 inherits the lock: if this script is killed, the lock is held until the copy ends.
[[ ! -e "$LOCK" && ! -L "$LOCK" ]] || is_own_file "$LOCK" || fail "$PWD/$LOCK is not a regular file of this user"
exec 9>> "./$LOCK" # not by $PWD, in which the directory may have been replaced since it was checked
flock --nonblock 9 || fail "another run is in progress in $BACKUP_DIR"
choose_name() { BACKUP_FILE="tracker_backup_$(date +%Y-%m-%d_%H-%M-%S).db" && [[ ! -e "$BACKUP_FILE" ]]; }
# A run in the same second, or an hour earlier when summer time ends, may have taken the name: wait for the next second.
choose_name || { sleep 1 && choose_name; } || fail "$PWD/$BACKUP_FILE already exists: was the clock set back?"
trap 'rm -f -- "$PART" "$PART-journal"' EXIT
rm -f -- "$PART" "$PART-journal" # left by a killed run

# Not cp, which copies pages while the service changes them, and not a plain .backup, which starts over at every commit
# of the service: BEGIN and one read pin a snapshot for the whole copy. With -readonly, sqlite3 neither creates nor
# writes the source.
printed="$(sqlite3 -batch -init /dev/null -bail -readonly "$DATABASE_FILE" \
  ".timeout 120000" "BEGIN" "SELECT 1 FROM sqlite_master LIMIT 0" ".backup --async $PART" 2>&1)" ||
  fail "cannot back up $DATABASE_FILE: ${printed:-sqlite3 ended with status $?}"

# If the source is truncated during the copy, sqlite3 copies zeros and reports no error: the source is then smaller than
# before, and smaller than its copy. After a VACUUM in WAL mode, a checkpoint may make it as small as the copy: that is
# correct.
LEFT="$(stat -c %s -- "$DATABASE_FILE")"
((LEFT >= SIZE || LEFT >= $(stat -c %s -- "$PART"))) || fail "$DATABASE_FILE became smaller while it was copied"

# Publish only a complete copy, readable by those who can read its source, and never over another backup: ln fails where
# mv replaces. This sync replaces those that --async leaves out.
is_own_file "$PART" || fail "$PWD/$PART was replaced while it was written"
printf -v MODE %o "$((MODE & 0755))" # nobody but its owner may write it
chmod "$MODE" -- "$PART"
sync -- "$PART"
ln --no-target-directory -- "$PART" "$BACKUP_FILE"
sync -- . # the new name is on disk before an old backup is deleted

# find names what it cannot delete, and deletes the others. Status 4: the backup is good, only the rotation failed.
if ! find . -maxdepth 1 -type f -name 'tracker_backup_*.db' -mtime +7 -delete; then
  echo "tracker-db-backup.sh: $PWD/$BACKUP_FILE was made, but an expired backup could not be deleted" >&2
  exit 4
fi
