"""The private machine of these tests is isolated."""

from __future__ import annotations

import subprocess
from pathlib import Path

from demo_backups.settings.model import Settings

from .machine import USER, Machine


def outside_state() -> dict[str, object]:
    """Return the state of this machine that a test could change if the private machine were not isolated."""
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


def test_private_machine_changes_nothing_outside(
    private_machines: None, tmp_path: Path, project_settings: Settings
) -> None:
    before = outside_state()
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
            output = machine.run("sh", "-c", f"touch {folder}/x 2>&1 && rm {folder}/x || :")
            assert "Read-only file system" in output
        running = [Path(f"/proc/{process}") for process in (machine.init, *machine.processes("sshd"))]
        assert all(process.exists() for process in running)
        assert outside_state() == before
    finally:
        machine.close()
    assert sshd.process.poll() is not None
    assert not any(process.exists() for process in running)
    assert outside_state() == before
