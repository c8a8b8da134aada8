"""The configuration of a server, with files that only root can read, restored where users have other numbers."""

from __future__ import annotations

import shutil

from ..helpers.tasks import assert_success
from .conftest import Server

CONFIG = ("--database", "config")
SECRET = "hunter2-in-a-file"
FILES = {  # below app_dir: owner and mode
    ".env.production": ("root:root", "600"),
    "storage/tls/key.pem": ("root:service", "440"),
    "storage/tls": ("service:service", "2710"),
    "storage/index/etc/index.toml": ("service:service", "644"),
}


def test_configuration_is_restored_with_owners(server: Server) -> None:
    machine, app = server.machine, str(server.settings.app_dir)
    machine.run("useradd", "--uid", "1500", "service")
    machine.run("mkdir", "-p", f"{app}/storage/tls", f"{app}/storage/index/etc")
    for name in (name for name in FILES if name != "storage/tls"):
        machine.run("sh", "-c", f"echo '{SECRET} {name}' > {app}/{name}")
    machine.run("ln", "-s", "/etc/shadow", f"{app}/storage/index/etc/shadow")
    for name, (owner, mode) in FILES.items():
        machine.run("chown", owner, f"{app}/{name}")
        machine.run("chmod", mode, f"{app}/{name}")
    paths = {"INVOKE_CONFIG_PATHS": ".env.production storage/tls storage/index/etc"}

    assert_success(server.inv("backup-config", **paths))
    (name,) = server.names()
    archive = server.backups / name
    assert (archive.stat().st_mode & 0o777, archive.stat().st_uid) == (0o600, 0)
    assert machine.run("sh", "-c", "cat /etc/shadow").splitlines()[0].encode() not in archive.read_bytes()
    assert_success(server.inv("fetch", *CONFIG))

    archive.unlink()
    shutil.rmtree(machine.outside(server.settings.app_dir))
    machine.run("usermod", "--uid", "1600", "service")
    machine.run("groupmod", "--gid", "1601", "service")
    assert_success(server.inv("restore", *CONFIG, "--from", "here", "--to", app, "--yes"))
    for name, (owner, mode) in FILES.items():
        assert machine.run("stat", "-c", "%U:%G %a", f"{app}/{name}") == f"{owner} {mode}\n"
        assert machine.run("stat", "-c", "%u", f"{app}/{name}") == ("0\n" if owner.startswith("root") else "1600\n")
    assert machine.run("cat", f"{app}/storage/tls/key.pem") == f"{SECRET} storage/tls/key.pem\n"
    assert machine.run("readlink", f"{app}/storage/index/etc/shadow") == "/etc/shadow\n"
    assert machine.run("stat", "-c", "%U", app) == "torrust\n"  # the login, to whom app_dir belonged
    assert SECRET not in server.evidence()
