"""Deploy the backup script, and check that what is used is safe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..backup.deploy import (
    Deployment,
    check_deployment,
    deploy_script,
    plan_deployment,
    probe_sqlite,
    require_tools,
)
from ..backup.permissions import require_safe_paths
from ..backup.script import Script, read_script
from ..backup.script_lint import require_safe
from ..errors import StepError, UncheckedScriptError, UnsafeScriptError
from .session import Session


def deploy(work: Session, force_unsafe: bool = False) -> None:
    """Deploy the database's script; if the host already has it, say so and change nothing.

    Raises UnsafeScriptError or UncheckedScriptError unless `force_unsafe` is set.
    """
    script = read_script(work.database.local_script)
    check_local_script(work, script, force_unsafe)
    work.record.script_sha256 = script.sha256
    require_tools(work.host)
    version = probe_sqlite(work.host)
    require_safe_paths(work.host, work.database, with_script=True, strict=True)
    deployment = plan_deployment(work.host, work.database, script)
    check_deployment(work.host, deployment)
    if not deployment.is_needed:
        work.out.say(f"{deployment.target} is up to date (SHA-256 {script.sha256[:12]}): nothing to do")
    elif work.dry_run:
        work.out.say(deployment.diff())
        work.show(deployment.command())
    else:
        deploy_script(work.host, deployment)
        previous = f"; the old script is {deployment.target.name}.previous" if deployment.installed else ""
        work.out.say(f"deployed {deployment.target} (SHA-256 {script.sha256[:12]}, sqlite3 {version}){previous}")


def check_local_script(work: Session, script: Script, force_unsafe: bool) -> None:
    """Check that the script of this checkout is safe."""
    advice = (
        "use a checkout with the safe script: git switch to its branch, or select it with release.repository. "
        "To use this script anyway: --force-unsafe"
    )
    with _unsafe_allowed(work, force_unsafe):
        require_safe(script.content, str(script.path), advice=advice)


def check_installed_script(work: Session, deployment: Deployment, force_unsafe: bool) -> None:
    """Check that the script on the host is safe."""
    if deployment.installed is None:
        return
    advice = f"deploy a safe script: {work.task('deploy')}. To use the installed one anyway: --force-unsafe"
    with _unsafe_allowed(work, force_unsafe):
        require_safe(deployment.installed.content, str(deployment.target), host=work.host.name, advice=advice)


@contextlib.contextmanager
def _unsafe_allowed(work: Session, force_unsafe: bool) -> Iterator[None]:
    """With `force_unsafe`, turn the error of an unsafe script into a warning."""
    try:
        yield
    except (UnsafeScriptError, UncheckedScriptError) as error:
        if not force_unsafe:
            raise
        work.out.say(f"warning: {error.action} (--force-unsafe): {', '.join(error.output.splitlines())}")


def require_deployed(work: Session) -> Deployment:
    """Compare the script on the host with that of this checkout; raises StepError if the host has none."""
    deployment = plan_deployment(work.host, work.database, read_script(work.database.local_script))
    if deployment.installed is None:
        raise StepError(
            f"there is no {deployment.target}", host=work.host.name, advice=f"deploy it: {work.task('deploy')}"
        )
    work.record.script_sha256 = deployment.installed.sha256
    return deployment
