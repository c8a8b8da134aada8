"""A host, local or over SSH: commands, byte streams, jobs."""
