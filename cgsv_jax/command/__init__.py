"""The `cgsv` command: words in, a run directory and tables out."""
