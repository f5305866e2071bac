"""An extension of griffe: what stands under `@scheme` returns an `ix.Scheme`, whatever it makes that of."""

from typing import Any

import griffe

DECORATORS = ("scheme(", "named(")


class SchemeReturns(griffe.Extension):
    """Writes `-> Scheme` into the signatures of schemes, which griffe reads without their decorator."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Set what a decorated function returns."""
        if any(str(each.value).startswith(DECORATORS) for each in func.decorators):
            func.returns = griffe.ExprName("Scheme", parent=func)
