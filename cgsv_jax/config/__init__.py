"""One validated description of an experiment, for the command, for files and for Python."""
