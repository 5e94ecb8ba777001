"""Examples in docstrings have no section of their own: on the site they are blocks of code."""

import re

import griffe

EXAMPLE = re.compile(r"(?:^|(?<=\n\n))((?:>>> .*)(?:\n.+)*)")


def fenced(text):
    """A docstring whose doctests stand between fences."""
    return EXAMPLE.sub(r"```pycon\n\1\n```", text)


class Doctests(griffe.Extension):
    """Griffe asks an instance of a class of its own about everything that it has read."""

    def on_instance(self, *, obj, **_):
        """Changes the docstring of a module, class, function or attribute."""
        if obj.docstring and not obj.is_alias:
            obj.docstring.value = fenced(obj.docstring.value)
