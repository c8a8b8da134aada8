"""Add the backup to the crontab of the host, and remove it."""

from __future__ import annotations

from ..backup.crontab import make_job
from ..backup.crontab_change import disable_job, enable_job
from ..backup.crontab_install import check_executable, retry_if_changed
from ..backup.permissions import require_safe_paths
from ..backup.script import Script, read_script
from ..errors import StepError
from .scripts import check_local_script, require_deployed
from .session import Session


def enable(work: Session, force_unsafe: bool = False) -> None:
    """Add the database's job to the crontab of the host; if a line does the same already, say so and change nothing.

    Raises StepError for a database that the published crontab has no line for, and unless the script is deployed and
    can be executed; CrontabConflictError if another line runs the script otherwise than published; UnsafeScriptError
    or UncheckedScriptError unless `force_unsafe` is set.
    """
    script = read_script(work.database.local_script)
    check_local_script(work, script, force_unsafe)
    job = make_job(work.settings, work.database, script)
    deployment = require_deployed(work)
    if deployment.is_needed:
        raise StepError(
            f"{deployment.target} is not the script of this checkout",
            host=work.host.name,
            advice=f"deploy it first: {work.task('deploy')}",
        )
    check_executable(work.host, deployment.target, deployment.script)
    require_safe_paths(work.host, work.database, with_script=True, strict=True)
    retry_if_changed(lambda: enable_job(work, job, deployment.script))


def disable(work: Session, yes: bool = False) -> None:
    """Remove the lines that run the database's script from the crontab of the host; the rest of it does not change.

    A line that no task added is removed after a question, or with `yes`. Raises CrontabConflictError if a line remains
    active, in this crontab or another, and UnclearCrontabError if one may.
    """
    try:
        script = read_script(work.database.local_script)
        job = make_job(work.settings, work.database, script)
    except StepError:  # a job can be removed without them
        script, job = Script(work.database.local_script, b""), None
    retry_if_changed(lambda: disable_job(work, job, script, yes))
