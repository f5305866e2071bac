"""An extension of griffe: reads the docstrings' section `Example` as griffe's `Examples`, which it sets as code."""

import re

import griffe


class Examples(griffe.Extension):
    """Rename the section before griffe reads it."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rename it in one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
