"""The report on a release, as an HTML page or Markdown."""
