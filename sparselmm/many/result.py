"""What `lmm_many` returns: a frozen record of arrays, one row a response, and the tables made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .._errors import ModelError
from .._typing import AnyArray, BoolArray, FloatArray, IntArray
from ..terms import ModelSpec
from .design import Design
from .estimates import Estimates
from .moderated import moderated_table, p_values
from .variances import fractions


@dataclass(frozen=True, slots=True, eq=False)
class ManyFits:
    """v fits of one model. Arrays have one row a response, in the order of Y; NaN where `reason` says why.

    spec: the model (its y is a stand-in). responses: (v,) names. contrast_names: what `contrasts=` asked for.
    extra: what a mode adds, such as `Sigma` of mode="common".
    """

    spec: ModelSpec
    design: Design
    responses: pd.Index
    contrast_names: tuple[str, ...]
    estimates: Estimates
    reml: bool
    mode: str
    extra: Mapping[str, Any]

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the p columns of `fixef`."""
        return self.spec.fixed_names

    @property
    def varpar_names(self) -> tuple[str, ...]:
        """Names of the k columns of `varpar`: `sd_x|g`, `cor_x.z|g`, ..."""
        return self.design.parameters.natural_names

    @property
    def fixef(self) -> FloatArray:
        """Coefficients, (v, p)."""
        return self.estimates.beta[:, : len(self.coefficients)]

    @property
    def fixef_se(self) -> FloatArray:
        """Standard errors, (v, p)."""
        return self.estimates.se[:, : len(self.coefficients)]

    @property
    def fixef_df(self) -> FloatArray:
        """Satterthwaite's degrees of freedom, (v, p); n - p (REML) with mode="common", NaN with ddf="wald"."""
        return self.estimates.df[:, : len(self.coefficients)]

    @property
    def varpar(self) -> FloatArray:
        """Variance parameters on the natural scale, (v, k), without sigma."""
        return self.estimates.varpar

    @property
    def sigma(self) -> FloatArray:
        """Residual standard deviations, (v,)."""
        return self.estimates.sigma

    @property
    def loglik(self) -> FloatArray:
        """Log-likelihoods, restricted if `reml`, (v,)."""
        return self.estimates.loglik

    @property
    def df_residual(self) -> FloatArray:
        """Degrees of freedom of sigma^2, 2/var(log sigma^2), (v,)."""
        return self.estimates.df_residual

    @property
    def nobs(self) -> IntArray:
        """Values that were there, (v,)."""
        return self.estimates.nobs

    @property
    def converged(self) -> BoolArray:
        """Whether the certificate holds, (v,)."""
        return self.estimates.converged

    @property
    def gradient_norm(self) -> FloatArray:
        """The certificate: scaled gradient at the optimum, in standard errors, (v,)."""
        return self.estimates.gradient_norm

    @property
    def is_singular(self) -> BoolArray:
        """Whether a variance is zero or a correlation +-1, (v,)."""
        return self.estimates.is_singular

    @property
    def reason(self) -> AnyArray:
        """Why a response has no fit, or did not converge; empty where all is well, (v,)."""
        return self.estimates.reason

    def to_frame(self) -> pd.DataFrame:
        """One row a response and coefficient (or contrast): estimate, std_error, df, statistic, p_value."""
        names = [*self.coefficients, *self.contrast_names]
        e = self.estimates
        statistic = e.beta / e.se
        return pd.DataFrame({
            "response": self.responses.repeat(len(names)),
            "coefficient": np.tile(np.array(names, dtype=object), len(self.responses)),
            "estimate": e.beta.ravel(),
            "std_error": e.se.ravel(),
            "df": e.df.ravel(),
            "statistic": statistic.ravel(),
            "p_value": p_values(statistic, e.df).ravel(),
        })  # fmt: skip

    def variances(self) -> pd.DataFrame:
        """One row a response: `varpar`, sigma, loglik and the facts of the fit."""
        e = self.estimates
        frame = pd.DataFrame(e.varpar, index=self.responses, columns=list(self.varpar_names))
        facts = ("sigma", "loglik", "df_residual", "nobs", "converged", "is_singular", "reason")
        return frame.assign(**{name: getattr(e, name) for name in facts})

    def top_table(self, coef: str, *, n: int | None = None, moderated: bool = True) -> pd.DataFrame:
        """Responses by evidence on one coefficient or contrast, the strongest first.

        moderated: residual variances drawn to their common prior (Smyth 2004), which adds the prior's degrees of
        freedom to each test. adj_p_value: Benjamini & Hochberg's false discovery rate. n: rows, all if None.
        """
        names = [*self.coefficients, *self.contrast_names]
        if coef not in names:
            raise ModelError(f"no coefficient or contrast '{coef}'; there are {', '.join(names)}")
        if n is not None and (isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0):
            raise ModelError(f"n={n!r}: a whole number of rows from 0 on, or None for all")
        table = moderated_table(self.estimates, names.index(coef), self.responses, moderated)
        return table if n is None else table.head(n)

    def variance_partition(self) -> pd.DataFrame:
        """Shares of the variance of each response: a column a term, `fixed` (of X beta) and `residual`."""
        return pd.DataFrame(fractions(self.design, self.estimates), index=self.responses)

    def __repr__(self) -> str:
        fitted = int((self.reason == "").sum())
        return f"<sparselmm: {len(self.responses):,} responses, {fitted:,} fitted; {self.spec.formula}>"
