"""A network that fails between the maintainer's machine and the server: it drops everything, or resets connections."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from ..helpers.proxies import SilentProxy, silent_proxy
from .framework import Fault, Injection, Strike
from .machine import TASKS, Machine, RunningTask, wait_for
from .moments import Moment, choose_moment

PATIENCE = 0.3  # seconds that a maintainer waits before Ctrl-C
SILENT, RESET = "a network that drops everything", "a network that resets connections"


@dataclass(frozen=True)
class BrokenNetwork:
    """A proxy that does not forward what the open connections send; later ones work."""

    name: str
    tasks: tuple[str, ...] = TASKS

    def missing(self) -> str | None:
        """Say why it cannot be used on this machine."""
        return None

    @contextlib.contextmanager
    def arrange(self, machine: Machine, task: str, rng: random.Random) -> Iterator[Injection]:
        """Let the tasks connect to a proxy."""
        config = machine.folder / "server/ssh_config_proxy"
        known = machine.folder / "server/known_hosts_proxy"
        with silent_proxy(machine.server.port) as proxy:
            port = machine.server.port
            known.write_text(machine.server.known_hosts.read_text().replace(f":{port} ", f":{proxy.port} "))
            text = machine.server.ssh_config.read_text().replace(f"Port {port}", f"Port {proxy.port}")
            config.write_text(text.replace(str(machine.server.known_hosts), str(known)))
            machine.environment["INVOKE_SSH_CONFIG"] = str(config)
            yield NetworkInjection(machine, task, proxy, choose_moment(machine, task, rng, before=0), self.name)


@dataclass
class NetworkInjection:
    """A broken network in one try."""

    machine: Machine
    task: str
    proxy: SilentProxy
    moment: Moment
    kind: str

    def start(self) -> RunningTask:
        """Start the task."""
        self.moment.arm(self.machine)
        return self.machine.start_task(self.task)

    def strike(self, task: RunningTask) -> Strike:
        """Stop forwarding; after that, the maintainer presses Ctrl-C."""
        hit = self.moment.reach(self.machine, task) and self.proxy.connections > 0
        if self.kind == RESET:
            self.proxy.reset()
        else:
            self.proxy.silence()
        self.machine.gate.disarm()
        if self.kind == SILENT:
            wait_for(lambda: task.has_ended, PATIENCE)
            self._interrupt(task)
            self.proxy.reset()  # the server gives the connection up
        return Strike(self.moment.name, f"connection {self.proxy.connections}", hit)

    def _interrupt(self, task: RunningTask) -> None:
        """Press Ctrl-C until the task has ended."""
        for _ in range(3):
            if task.has_ended:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(task.process.pid, signal.SIGINT)
            wait_for(lambda: task.has_ended, 15)

    def repair(self) -> None:
        """Do nothing: new connections work."""


FAULTS: tuple[Fault, ...] = (BrokenNetwork(SILENT), BrokenNetwork(RESET))
