"""One function per task on a host: observe, decide, show, act. The tasks, the plan and the rehearsal call these."""
