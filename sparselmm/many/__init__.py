"""One model, many responses: everything that depends on the design is made once, each response ends at its own optimum.

`lmm_many` (fit.py) -> `Design` and blocks of Y -> a fitter (`spectral`, `general`, `structured`) -> `ManyFits`.
"""
