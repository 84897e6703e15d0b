"""What `lmm_many` returns: a frozen record of arrays, one row a response, and the tables made of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .._errors import ModelError
from .._typing import AnyArray, BoolArray, FloatArray, IntArray
from ..terms import ModelSpec
from .design import Design
from .estimates import Estimates
from .moderated import f_table, moderation, p_values, t_table, trend_covariate
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

    def top_table(
        self,
        coef: str | Sequence[str],
        *,
        n: int | None = None,
        moderated: bool = True,
        trend: Any = False,
        robust: bool = False,
    ) -> pd.DataFrame:
        """Responses by evidence on coefficients or contrasts, the strongest first.

        One name: estimate, std_error, statistic (t), df. Several: an estimate each, F of all of them together, num_df,
        the rank of what is tested, and den_df (Satterthwaite's, by Fai & Cornelius 1996). Then p_value and
        adj_p_value, Benjamini & Hochberg's false discovery rate. n: rows, all if None.
        moderated: residual variances drawn to their common prior (Smyth 2004, sections 3 to 6): t and F have the
        posterior variance, and the prior's degrees of freedom in addition. trend: the prior variance is a smooth
        function of the average of a response, or of v numbers. robust: responses whose variance is out of line are
        drawn less, and do not count in the prior (Phipson et al. 2016); not with trend. All as in limma's eBayes.
        Errors: ModelError, DataError.
        """
        several = isinstance(coef, Iterable) and not isinstance(coef, str)
        places = self._places(list(coef) if several else [coef])
        if n is not None and (isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0):
            raise ModelError(f"n={n!r}: a whole number of rows from 0 on, or None for all")
        covariate = trend_covariate(trend, self.estimates)
        if (covariate is not None or robust) and not moderated:
            raise ModelError("trend= and robust= say how variances are moderated: leave moderated=False out")
        if covariate is not None and robust:
            raise ModelError("robust=True has one prior for all responses: leave trend= out")
        e, by = self.estimates, moderation(self.estimates, covariate, robust) if moderated else None
        if several:
            table = f_table(self.design, e, places, self.responses, by)
        else:
            table = t_table(e, places[str(coef)], self.responses, by)
        return table if n is None else table.head(n)

    def _places(self, wanted: Sequence[Any]) -> dict[str, int]:
        """Of names among coefficients and contrasts. Errors: ModelError."""
        names = [*self.coefficients, *self.contrast_names]
        unknown = [name for name in wanted if name not in names]
        if unknown or not wanted:
            what = f"no coefficient or contrast '{unknown[0]}'" if unknown else "no coefficients to test"
            raise ModelError(f"{what}; there are {', '.join(names)}")
        return {name: names.index(name) for name in wanted}

    def variance_partition(self) -> pd.DataFrame:
        """Shares of the variance of each response: a column a term, `fixed` (of X beta) and `residual`."""
        return pd.DataFrame(fractions(self.design, self.estimates), index=self.responses)

    def __repr__(self) -> str:
        fitted = int((self.reason == "").sum())
        return f"<sparselmm: {len(self.responses):,} responses, {fitted:,} fitted; {self.spec.formula}>"
