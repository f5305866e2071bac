"""An extension of griffe: the docstrings' section `Example` is what griffe knows as `Examples`, code that it sets as code."""

import re

import griffe


class Examples(griffe.Extension):
    """Rename the section before griffe reads it."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rename it in one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
