"""A repository on a server, reached by SFTP through the user's own OpenSSH."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo_backups.errors import RepositoryUnreachableError
from demo_backups.offsite.result import State
from demo_backups.rehearsal.server import ALIAS

from ..helpers.constants import IS_CI
from ..helpers.copies import hash_of
from ..helpers.offsite import FIRST, OffsiteSetup
from ..helpers.sshd import SSHD, serve_openssh


@pytest.mark.skipif(not SSHD and not IS_CI, reason="sshd is not installed")
def test_repository_on_sftp_server(machine: OffsiteSetup, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    sha256 = hash_of(machine.add_copy())
    with serve_openssh(folder, folder) as server:
        ssh_config = tmp_path / "it's the config"
        ssh_config.write_text(server.ssh_config.read_text())
        machine.settings = machine.settings.model_copy(update={"ssh_config": str(ssh_config)})
        machine.change_offsite(repository=f"sftp:{ALIAS}:{machine.repository}")
        result, _ = machine.store()
        assert result.series[0].state is State.STORED, str(result.series[0].error)
        (machine.copies / FIRST).unlink()
        assert hash_of(machine.restore().file) == sha256
        server.known_hosts.write_text("")
        with pytest.raises(RepositoryUnreachableError):  # 0.14 may lose what ssh says about the host key
            machine.stored()
