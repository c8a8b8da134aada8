"""Texts of crontabs, with and without the job of the index database."""

from __future__ import annotations

import random
from pathlib import PurePosixPath

from demo_backups.backup.crontab import CrontabJob

SCHEDULE = "0  * * * * "
SCRIPT_PATH = "/home/torrust/github/torrust/torrust-demo/share/bin/index-db-backup.sh"
PUBLISHED_LINE = f"{SCHEDULE}{SCRIPT_PATH} >> /var/log/cron.log 2>&1"
JOB = CrontabJob("index", SCHEDULE, SCRIPT_PATH, PurePosixPath("/var/log/cron.log"), PurePosixPath(SCRIPT_PATH))
PIECES = [
    "",
    "\n",
    "\n\n",
    "# a comment\n",
    "MAILTO=root@example.org\nPATH=/usr/bin:/bin\n",
    "SHELL=/bin/bash\n",
    '0 3 * * * tar cf "/b/$(date +\\%F).tar" /srv\n',
    "@hourly /usr/bin/thing\n",
    "@reboot   x\t\n",
    "*/5 * * * * /usr/bin/check >/dev/null 2>&1\n",
    "5 * * * * /usr/bin/other-index-db-backup.sh\n",
    f"#{PUBLISHED_LINE}\n",
    f"# {SCRIPT_PATH} ran here before\n",
    "0 * * * * windows\r\n",
    "# form\x0cfeed, next\x85line and \u2028 are no line ends to cron\n",
    "# ünï and a byte that is none: \udcff\n",
    "  \t \n",
    "A_REF=x\n",
]
ENDS = ["", "# no newline at the end", "0 1 * * * also none", "\r\n"]


def make_crontabs() -> list[str]:
    """Make crontabs of every kind, always the same ones: each piece alone, each end, and 200 mixtures."""
    random_ = random.Random(85)
    mixtures = ["".join(random_.choices(PIECES, k=random_.randint(2, 8))) + random_.choice(ENDS) for _ in range(200)]
    return [*PIECES, *ENDS, *(piece + end for piece in PIECES for end in ENDS), *mixtures]
