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

fail() { echo "tracker-db-backup.sh: $*" >&2; exit 1; }

DATABASE_FILE="$(realpath -e -- "$DATABASE_FILE")"
[[ -f "$DATABASE_FILE" && -s "$DATABASE_FILE" ]] || fail "$DATABASE_FILE is empty, or is not a file"
cd -- "$BACKUP_DIR"

# One run at a time. sqlite3 inherits the lock: if this script is killed, the lock is held until the copy ends.
exec 9> "$PWD/.tracker_backup.lock"
flock --nonblock 9 || fail "another run is in progress in $BACKUP_DIR"
choose_name() { BACKUP_FILE="tracker_backup_$(date +%Y-%m-%d_%H-%M-%S).db" && [[ ! -e "$BACKUP_FILE" ]]; }
# A run in the same second, or an hour earlier when summer time ends, may have taken the name: wait for the next second.
choose_name || { sleep 1 && choose_name; } || fail "$PWD/$BACKUP_FILE already exists: was the clock set back?"
trap 'rm -f -- "$PART" "$PART-journal"' EXIT
rm -f -- "$PART" "$PART-journal" # left by a killed run

SIZE="$(stat -c %s -- "$DATABASE_FILE")"

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

# Publish only a complete copy, with the permissions of its source, and never over another backup: ln fails where mv
# replaces. This sync replaces those that --async leaves out.
chmod --reference="$DATABASE_FILE" -- "$PART"
sync -- "$PART"
ln --no-target-directory -- "$PART" "$BACKUP_FILE"
sync -- . # the new name is on disk before an old backup is deleted

find . -maxdepth 1 -type f -name 'tracker_backup_*.db' -mtime +7 -delete
