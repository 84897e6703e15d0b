"""One exception root and one warning root; every error names the term or column and the way out."""


class SparselmmError(ValueError):
    """Root of every error that the package raises on purpose."""


class FormulaError(SparselmmError):
    """A formula that cannot be read; the message underlines the place."""

    def __init__(self, message: str, formula: str = "", start: int = 0, end: int | None = None):
        self.formula, self.start, self.end = formula, start, end
        if formula:
            width = max(1, (len(formula) if end is None else end) - start)
            message = f"{message}\n\n    {formula}\n    {' ' * start}{'^' * width}"
        super().__init__(message)


class DataError(SparselmmError):
    """A table, a column or an array that cannot be used as given."""


class ModelError(SparselmmError):
    """A model that is not identified, or a parameter that does not exist."""


class EngineError(SparselmmError):
    """An engine that is unknown, missing or too small for the problem."""


class SparselmmWarning(UserWarning):
    """Root of every warning that the package gives."""
