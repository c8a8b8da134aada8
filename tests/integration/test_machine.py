"""The private machine of these tests keeps to itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

from demo_backups.settings import Settings

from .machine import USER, Machine


def seen_from_here() -> dict[str, object]:
    """What the tests on a private machine could change here, were it not private."""
    places = ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/sudoers", "/etc/crontab"]
    folders = ["/etc/sudoers.d", "/etc/cron.d", "/etc/ssh", "/var/spool/cron/crontabs", "/home"]
    crontab = subprocess.run(["crontab", "-l"], capture_output=True, check=False)
    return {
        "files": {place: Path(place).read_bytes() for place in places if Path(place).exists()},
        "folders": {folder: sorted(path.name for path in Path(folder).iterdir()) for folder in folders},
        "crontab": crontab.stdout + crontab.stderr,
        "state": Path("/root/.demo-backups").exists(),
        "mounts": Path("/proc/self/mounts").read_text(),
    }


def test_nothing_of_it_reaches_this_machine_and_nothing_of_it_stays(
    private_machines: None, tmp_path: Path, project_settings: Settings
) -> None:
    before = seen_from_here()
    (tmp_path / "home").mkdir()
    (tmp_path / "machine").mkdir()
    machine = Machine(tmp_path / "machine", tmp_path / "home")
    try:
        machine.boot()
        machine.make_demo(project_settings)
        sshd = machine.sshd()
        machine.start("cron", "-f", log="cron.out")
        machine.set_crontab(b"* * * * * /bin/true\n")
        machine.run("mount", "-t", "tmpfs", "tmpfs", "/home")
        assert machine.run("id", "-un", USER).strip() == USER
        assert machine.crontab() == b"* * * * * /bin/true\n"
        for folder in ("/", "/usr/bin", "/var/lib", "/var/spool", "/opt", "/srv"):
            said = machine.run("sh", "-c", f"touch {folder}/x 2>&1 && rm {folder}/x || :")
            assert "Read-only file system" in said
        running = [Path(f"/proc/{process}") for process in (machine.init, *machine.processes("sshd"))]
        assert all(process.exists() for process in running)
        assert seen_from_here() == before
    finally:
        machine.close()
    assert sshd.process.poll() is not None
    assert not any(process.exists() for process in running)
    assert seen_from_here() == before
