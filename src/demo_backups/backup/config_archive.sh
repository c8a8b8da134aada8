#!/usr/bin/env bash
# Pack files of an application into an archive, and unpack an archive into a new directory.
#
#   config_archive.sh scan APP_DIR MOST_FILES PATH...
#   config_archive.sh pack APP_DIR BACKUP_DIR FLOOR MOST_BYTES MOST_FILES COUNT PATH...
#   config_archive.sh unpack ARCHIVE TARGET FLOOR
#
# PATHs are relative to APP_DIR; with `pack`, those after the first COUNT are only listed as missing.
#
# What is below APP_DIR may belong to the user of the service, who may exchange anything for a symbolic link or a pipe
# at any time, while this script runs as root. So no link below APP_DIR is followed: a directory is entered step by
# step, and the kernel is asked each time where that was. tar opens what it packs without following a link and without
# waiting. The files are first copied into a directory that only this user can enter. Everything else, the checksums
# too, is made of that copy.
#
# The names of files are printed only by `scan` and in messages of failures; their content never is.
#
# The exit status: 0 done, 4 done but an old archive could not be deleted, 75 another run is in progress, else failed.
set -euo pipefail
umask 077
export LC_ALL=C PATH="$PATH:/usr/bin:/bin"
unset CDPATH TAR_OPTIONS

UNCLEAN=4 CHANGED=10 BUSY=75
SHOWN=100 # special files
KEEP=30 # archives; a new one is made only if something has changed
DATE='[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]_[0-9][0-9]-[0-9][0-9]-[0-9][0-9]'
OVERHEAD=$((64 * 1024 * 1024)) # bytes that tar may need for the names and attributes of all files
ENTRY='%y:%m:%u:%g:%U:%G:%p//%l\0' # of LIST; no path has // in it
PART=.config.tar.part LOCK=.config.tar.lock
stage="" root="" last="" problem=""

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}
result() { printf 'result: %s\n' "$*"; }

remove_stage() {
  [[ -d "$stage" && ! -L "$stage" ]] || return 0
  chmod -R u+rwX -- "$stage" && rm -rf -- "$stage"
}

require_tar() { [[ "$(tar --version 2> /dev/null)" == *"GNU tar"* ]] || fail "GNU tar is not installed"; }

# Fail unless the disk of a directory has so many bytes free.
require_space() {
  local blocks size
  read -r blocks size < <(stat --file-system --format='%a %S' -- "$1")
  ((blocks * size >= $2)) || fail "not enough space on the disk of $1: $((blocks * size)) bytes are free, $2 are needed"
}

# --- what is packed ---------------------------------------------------------------------------------------------------

# Change to the directory of the application. An account that owns a directory above it could put a link there.
enter_app() {
  local place="" name
  local -a names
  IFS=/ read -ra names <<< "${1#/}"
  for name in "${names[@]}"; do
    place+="/$name"
    if [[ -L "$place" ]]; then
      [[ -n "$(find "$place" -maxdepth 0 \( -uid 0 -o -uid "$EUID" -o -uid "${SUDO_UID:-0}" \))" ]] ||
        fail "$place is a symbolic link of another user: it is not followed"
    fi
  done
  cd -P -- "$1" || exit
  root="$(readlink /proc/self/cwd)"
  root="${root%/}"
}

# Print the type of a file in this directory, or `missing`.
type_of() {
  local printed
  if printed="$(find "./$1" -maxdepth 0 -printf %y 2>&1)"; then
    echo "$printed"
  elif [[ "$printed" == *': No such file or directory' || "$printed" == *': Not a directory' ]]; then
    echo missing
  else
    fail "$printed"
  fi
}

# Change to the directory of a path, in a subshell, and set `last` to the name there. Prints what prevents it: `missing`
# or `link`. With a second argument, the same directories are made there, with their owner and mode.
enter_parent() {
  local place="$root" copy="${2:-}" name type
  local -a names
  IFS=/ read -ra names <<< "$1"
  last="${names[-1]}"
  unset 'names[-1]'
  for name in "${names[@]}"; do
    type="$(type_of "$name")" || exit 1
    case "$type" in
      d) ;;
      l) echo link && return 1 ;;
      *) echo missing && return 1 ;;
    esac
    cd -P -- "./$name" || exit 1
    place+="/$name"
    [[ "$(readlink /proc/self/cwd)" == "$place" ]] || { echo link && return 1; }
    if [[ -n "$copy" ]]; then
      copy+="/$name"
      mkdir -p -- "$copy" && copy_attributes "$copy" || exit 1
    fi
  done
}

# Give a directory the owner, if root does it, and the mode of this one.
copy_attributes() {
  ((EUID != 0)) || chown --reference=. -- "$1" || return
  chmod --reference=. -- "$1" || return
  ((EUID == 0)) || chmod u+rwx -- "$1"
}

# For each path: its state (ok, missing, link: it is or has one, special), how many files, and their bytes. Then, as
# `other`, what is in it and is neither a file nor a directory nor a link. An unreadable directory is a failure.
scan() {
  local most="$2" path
  enter_app "$1"
  shift 2
  for path; do (scan_path "$most" "$path") || exit; done
  printf end
}

scan_path() {
  local most="$1" path="$2" count=0 bytes=0 complete="" state type size name
  local -a special=()
  if ! state="$(enter_parent "$path")"; then
    [[ -n "$state" ]] || exit 1
    printf '%s\0' "$state" 0 0 "$path"
    return
  fi
  enter_parent "$path" > /dev/null
  type="$(type_of "$last")"
  case "$type" in
    f | d) state=ok ;;
    l) state="link" ;;
    missing) state=missing ;;
    *) state=special ;;
  esac
  if [[ "$state" == ok ]]; then
    while IFS=/ read -r -d '' type size name; do
      [[ "$type" != end ]] || { complete=yes && break; }
      ((++count <= most)) || break
      case "$type" in
        f) bytes=$((bytes + size)) ;;
        d | l) ;;
        *) ((${#special[@]} >= SHOWN)) || special+=("$path/$name") ;;
      esac
    done < <(find "./$last" -ignore_readdir_race -printf '%y/%s/%P\0' && printf 'end/0/\0')
    [[ -n "$complete" ]] || ((count > most)) || exit
  fi
  printf '%s\0' "$state" "$count" "$bytes" "$path"
  for name in "${special[@]}"; do printf '%s\0' other 0 0 "$name"; done
}

# --- packing ----------------------------------------------------------------------------------------------------------

pack() {
  local app="$1" folder="$2" floor="$3" most_bytes="$4" most_files="$5" count="$6" newest status=0
  shift 6
  require_tar
  cd -P -- "$folder"
  folder="$PWD"
  [[ -n "$(find . -maxdepth 0 \( -uid 0 -o -uid "$EUID" -o -uid "${SUDO_UID:-0}" \) ! -perm /022)" ]] ||
    fail "$folder belongs to another user, or other users can write to it"
  exec 9>> "./$LOCK"
  flock --nonblock 9 || exit "$BUSY"
  stage="$folder/$PART"
  trap remove_stage EXIT
  trap 'exit 1' HUP INT TERM
  remove_stage # left by a killed run
  copy_all "$app" "$most_bytes" "$floor" "${@:1:count}" || status=$?
  if ((status == CHANGED)); then
    remove_stage
    status=0
    copy_all "$app" "$most_bytes" "$floor" "${@:1:count}" || status=$?
  fi
  ((status != CHANGED)) || fail "files change while they are read"
  ((status == 0)) || exit "$status"
  cd -- "$stage"
  (($(find files -printf x | wc -c) < 2 * most_files)) || fail "there are too many files"
  describe "$@"
  # One from before the clock was set back is no newer one.
  newest="$(list_archives "$folder" ! -newermt now | tail -n 1)"
  if [[ -n "$newest" ]] && is_same "$folder/$newest"; then
    if is_good "$folder/$newest"; then
      result "unchanged $newest"
      return
    fi
    result "damaged $newest"
  fi
  tar --create --file=archive --format=gnu --sort=name --hard-dereference -- SHA256SUMS LIST files
  is_good "$stage/archive" || fail "the archive that was written does not have the content of its files: $problem"
  publish "$folder"
}

# Copy all paths into the private directory. Status CHANGED: something was changed meanwhile. `set -e` is off here.
copy_all() {
  local app="$1" most="$2" floor="$3" path
  shift 3
  mkdir -- "$stage" "$stage/files" || exit
  (
    enter_app "$app"
    copy_attributes "$stage/files" || exit
    for path; do (copy_path "$path" "$most" "$floor") || exit; done
  ) || return
  # What a service makes when it starts: it has no content.
  find "$stage/files" ! -type f ! -type d ! -type l -delete
}

copy_path() {
  local path="$1" most="$2" floor="$3" copy="$stage/files" printed status=1
  require_space "$stage" "$floor"
  enter_parent "$path" "$copy" > /dev/null || return "$CHANGED"
  [[ "$path" != */* ]] || copy+="/${path%/*}"
  case "$(type_of "$last")" in f | d) ;; *) return "$CHANGED" ;; esac
  # One that grows without end must not fill the disk. The last line has the statuses; the others are messages.
  printed="$(
    exec 2>&1
    tar --create --file=- --format=gnu --hard-dereference -- "./$last" |
      head -c "$((most + OVERHEAD))" |
      tar --extract --file=- --directory="$copy" --preserve-permissions --numeric-owner --delay-directory-restore
    echo "${PIPESTATUS[*]}"
  )"
  case "${printed##*$'\n'}" in
    "0 0 0") return 0 ;;
    "1 0 0") status="$CHANGED" ;; # some files were changed or removed while they were read
  esac
  printf '%s\n' "tar could not copy $path: $printed" >&2
  return "$status"
}

# Write SHA256SUMS and LIST, which has the paths too that are missing.
describe() {
  local path
  {
    find files -printf "$ENTRY"
    for path; do [[ -e "files/$path" || -L "files/$path" ]] || printf 'x:0:::0:0:%s//\0' "files/$path"; done
  } | sort --zero-terminated > LIST
  list_sums > SHA256SUMS
}

list_sums() {
  sha256sum -- LIST && find files -type f -print0 | sort --zero-terminated | xargs --null --no-run-if-empty sha256sum --
}

# The archives in a directory for which a test of find holds, the oldest first.
list_archives() {
  find "$1" -maxdepth 1 -type f "${@:2}" -name "config_$DATE.tar" -printf '%T@ %f\n' | sort --numeric-sort | cut -d ' ' -f 2
}

# Whether an archive describes the same content.
is_same() {
  local sums
  sums="$(tar --extract --to-stdout --occurrence=1 --file="$1" -- SHA256SUMS 2> /dev/null | sha256sum)" || return
  [[ "$sums" == "$(sha256sum < SHA256SUMS)" ]]
}

# Whether an archive can be unpacked, and has what it describes; if not, `problem` has the messages.
is_good() {
  local status=0
  mkdir check || exit
  problem="$(
    cd check || exit
    {
      tar --extract --file="$1" --preserve-permissions --delay-directory-restore -- SHA256SUMS LIST files &&
        has_content
    } 2>&1
  )" || status=1
  chmod -R u+rwX -- check
  rm -rf -- check
  return "$status"
}

# Whether the content of this directory is what SHA256SUMS and LIST describe, apart from the owners. Only files that are
# in it are read, no others that SHA256SUMS may name.
has_content() {
  local expected actual
  [[ "$(find SHA256SUMS LIST files -maxdepth 0 -printf %y)" == ffd ]] || return
  expected="$(plain_sums < SHA256SUMS)" && actual="$(list_sums | plain_sums)" || return
  [[ "$expected" == "$actual" ]] || { echo "the checksums differ" && return 1; }
  expected="$(sed --null-data '/^x:/d' LIST | cut --zero-terminated -d : -f 1,2,7- | sort -z | sha256sum)" || return
  actual="$(find files -printf '%y:%m:%p//%l\0' | sort -z | sha256sum)" || return
  [[ "$expected" == "$actual" ]]
}

# Lines of sha256sum, in which older versions do not escape a carriage return.
plain_sums() { sed 's/^\\//; s/\\r//g' | tr --delete '\r' | sort; }

publish() {
  local folder="$1" name old status=0
  name="config_$(date +%Y-%m-%d_%H-%M-%S).tar"
  if [[ -e "$folder/$name" ]]; then
    sleep 1
    name="config_$(date +%Y-%m-%d_%H-%M-%S).tar"
  fi
  chmod 600 -- archive
  touch -- archive
  sync -- archive
  ln --no-target-directory -- archive "$folder/$name"
  sync -- "$folder"
  result "created $name"
  for old in $(list_archives "$folder" | head -n "-$KEEP"); do rm -- "$folder/$old" || status="$UNCLEAN"; done
  return "$status"
}

# --- unpacking --------------------------------------------------------------------------------------------------------

unpack() {
  local archive="$1" target="$2" floor="$3" parent name size
  require_tar
  parent="${target%/*}" name="${target##*/}"
  [[ -f "$archive" && ! -L "$archive" ]] || fail "$archive is not a regular file"
  exec 7< "$archive"
  cd -P -- "${parent:-/}"
  require_new "./$name"
  stage="$PWD/.$name.part"
  [[ ! -L "$stage" ]] || fail "$stage is a symbolic link"
  [[ -e "$stage" ]] || mkdir -- "$stage"
  [[ -n "$(find "$stage" -maxdepth 0 -type d -uid "$EUID")" ]] ||
    fail "$stage belongs to another user, or is not a directory"
  exec 9< "$stage"
  flock --nonblock 9 || exit "$BUSY"
  trap remove_stage EXIT
  trap 'exit 1' HUP INT TERM
  chmod -R u+rwX -- "$stage"
  find "$stage" -mindepth 1 -delete # left by a killed run
  size="$(stat --dereference --format=%s /dev/fd/7)"
  require_space "$stage" "$((size + floor))"
  cd -- "$stage"
  tar --extract --file=- --preserve-permissions --no-same-owner --delay-directory-restore -- SHA256SUMS LIST files <&7
  [[ -z "$(find files ! -type f ! -type d ! -type l -printf x -quit)" ]] || fail "the archive has a special file"
  [[ -z "$(find files -type f -size "+${size}c" -printf x -quit)" ]] || fail "a file in the archive is larger than the archive"
  has_content || fail "what was unpacked is not what $archive describes"
  ((EUID != 0)) || restore_owners
  if [[ -e "../$name" ]]; then
    [[ ! -k .. ]] || fail "$target exists, in a directory in which any user could have made it: name a new path"
    ((EUID != 0)) || chown --reference="../$name" -- files
    chmod --reference="../$name" -- files
  fi
  result "files $(find files -type f -printf x | wc -c)"
  result "bytes $(find files -type f -printf '%s\n' | sum_up)"
  sync --file-system .
  require_new "../$name"
  mv --no-target-directory -- files "../$name"
  sync -- ..
}

sum_up() {
  local sum=0 number
  while read -r number; do sum=$((sum + number)); done
  echo "$sum"
}

# Only a directory that is empty may be there.
require_new() {
  if [[ -L "$1" || (-e "$1" && ! -d "$1") ]]; then
    fail "$PWD/$1 exists, and is not a directory"
  elif [[ -d "$1" && -n "$(find "$1" -mindepth 1 -maxdepth 1 -printf x -quit)" ]]; then
    fail "$PWD/$1 is not empty"
  fi
}

# Give everything its owner by name: the same number may be that of another user on this host. What belongs to a user
# that is not known here stays root's.
restore_owners() {
  local line rest mode user group path known number=0
  local -A numbers=()
  while IFS= read -r -d '' line; do
    [[ "$line" != x:* ]] || continue
    rest="${line#*:}"
    mode="${rest%%:*}" rest="${rest#*:}"
    user="${rest%%:*}" rest="${rest#*:}"
    group="${rest%%:*}" rest="${rest#*:*:*:}"
    path="${rest%%//*}"
    if [[ -z "${numbers["$user:$group"]:-}" ]]; then
      numbers["$user:$group"]=$((++number))
    fi
    printf '%s\0' "$path" >> "owner.${numbers["$user:$group"]}"
    [[ "$line" == l:* || ${#mode} -lt 4 ]] || printf '%s\0' "$mode" "$path" >> special-modes
  done < LIST
  for known in "${!numbers[@]}"; do
    user="${known%%:*}" group="${known#*:}"
    is_known passwd "$user" || { result "unknown_user $user" && user=root; }
    is_known group "$group" || { result "unknown_group $group" && group=root; }
    xargs --null chown --no-dereference -- "$user:$group" < "owner.${numbers["$known"]}"
  done
  [[ ! -e special-modes ]] || xargs --null -n 2 chmod -- < special-modes # chown removes these bits
}

is_known() { [[ "$2" =~ [^0-9] && "$2" != -* ]] && getent "$1" "$2" > /dev/null; }

"$@"
