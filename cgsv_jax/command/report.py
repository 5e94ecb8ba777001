"""`cgsv report`: finished runs and sweeps as one HTML page."""

import pathlib

from cgsv_jax.command import show
from cgsv_jax.command.flags import Report
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.host import files, terminal
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import page

_PAGES = (".html", ".htm")  # no table or document of a run is called so


def report(args: Report) -> None:
    """Writes the page, into the run's own directory unless a file is named, and says where.

    Raises:
      ValueError: a run cannot be read, or the page's name is none of a page, or a folder's.
      OSError: it cannot be written.
    """
    every = show.read(args.runs)
    if args.out is not None:
        file = files.path_of(args.out, "--out")
    else:
        folder = every[0].directory if len(every) == 1 else pathlib.Path()
        file = folder / directory_lib.REPORT
    if files.kind(file) == "folder":
        raise ConfigError(f"--out is {str(file)!r}, which is a folder, it must name a file")
    if file.suffix.lower() not in _PAGES:
        raise ConfigError(f"--out is {str(file)!r}, it must end in {' or '.join(_PAGES)}")
    with files.reading(every[0].directory):
        text = page.page([own.section for own in every], show.differ(every))
    files.write_files(file.parent, {file.name: text.encode()})
    terminal.say(terminal.console(), str(file))
