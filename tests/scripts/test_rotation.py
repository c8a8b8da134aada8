"""The rotation: which files a successful backup deletes."""

from __future__ import annotations

from ..helpers.backup_script import DAY, OLD_BACKUP, OLD_TRACKER_BACKUP, ScriptSetup, make_older
from ..helpers.databases import is_consistent


def test_rotation_deletes_old_index_backups_only(setup: ScriptSetup) -> None:
    # find's -mtime +7 counts whole days: more than seven have passed after eight.
    deleted = {OLD_BACKUP: 10 * DAY, "backup_2026-01-01_00-00-00.db": 8 * DAY + 60}
    remaining = {
        "backup_2026-01-02_00-00-00.db": 8 * DAY - 3600,
        "backup_2026-01-03_00-00-00.db": 0,
        OLD_TRACKER_BACKUP: 10 * DAY,
        "backup_2020-01-01_00-00-00.db.gz": 10 * DAY,
        "my_backup_2020-01-01_00-00-00.db": 10 * DAY,
        "notes.txt": 10 * DAY,
        ".backup_hidden.db": 10 * DAY,
        ".tracker_backup.lock": 10 * DAY,
        ".tracker_backup.part": 10 * DAY,
        "below/backup_2020-01-01_00-00-00.db": 10 * DAY,
        "below": 10 * DAY,
    }
    (setup.folder / "below").mkdir()
    for name, age in {**deleted, **remaining}.items():
        path = setup.folder / name
        if name != "below":
            path.write_text("x")
        make_older(path, age)
    (setup.folder / "backup_folder.db").mkdir()
    make_older(setup.folder / "backup_folder.db", 10 * DAY)
    (setup.folder / "backup_link.db").symlink_to("notes.txt")
    make_older(setup.folder / "backup_link.db", 10 * DAY)
    with setup.dates("2026-02-02_00-00-00"):
        done = setup.run()
    assert (done.returncode, done.stderr) == (0, "")
    names = {str(path.relative_to(setup.folder)) for path in setup.folder.rglob("*")}
    created = {"backup_2026-02-02_00-00-00.db", ".backup.lock"}
    assert names == {*remaining, "backup_folder.db", "backup_link.db", *created}


def test_undeletable_backup_fails_rotation_only(setup: ScriptSetup, private_mounts: list[str]) -> None:
    deleted = "backup_2020-01-01_00-00-00.db"
    for name in (deleted, OLD_BACKUP):
        (setup.folder / name).write_text("old")
        make_older(setup.folder / name, 10 * DAY)
    # A mount point cannot be deleted, not even by root.
    inside = f'mount --bind "$BACKUP_DIR/{OLD_BACKUP}" "$BACKUP_DIR/{OLD_BACKUP}"; exec "$@"'
    with setup.dates("2026-02-02_00-00-00"):
        done = setup.run(*private_mounts, "sh", "-euc", inside, "sh")
    created = "backup_2026-02-02_00-00-00.db"
    assert done.returncode == 4
    assert f"./{OLD_BACKUP}" in done.stderr
    assert f"{created} was made, but" in done.stderr
    assert setup.visible() == [OLD_BACKUP, created]  # the rotation deletes what it can
    assert is_consistent(setup.folder / created)
