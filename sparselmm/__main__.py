"""`python -m sparselmm` is the command `sparselmm`."""

from .cli import app

app()
