"""The fitted model: a frozen record; every number is made by a function elsewhere and read here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ._typing import FloatArray, Text
from .dense import DenseLikelihood
from .engines.threads import blas_threads
from .equations import fitted_values
from .fitting import Estimate
from .likelihood import Likelihood
from .terms import ModelSpec

if TYPE_CHECKING:
    from .inference.bootstrap import Bootstrap
    from .inference.check import Check
    from .inference.emmeans import MarginalMeans
    from .inference.profile import Profile


@dataclass(frozen=True, eq=False)  # with slots Python 3.11 has no words for `fit.mine = 1`
class Fit:
    """A fitted linear mixed model. Arrays are in the order of the rows that were used.

    spec: the model. likelihood: the criterion, able to evaluate any theta. estimate: where the search ended.
    timings: seconds of each stage.
    """

    spec: ModelSpec
    likelihood: Likelihood | DenseLikelihood
    estimate: Estimate
    timings: Mapping[str, float]

    @property
    def reml(self) -> bool:
        """Whether the REML criterion was minimised."""
        return self.estimate.reml

    @property
    def fixef(self) -> pd.Series:
        """Fixed effects by coefficient name; NaN for a column that was dropped as linearly dependent."""
        return self._by_coefficient(self.estimate.evaluation.beta)

    @property
    def fixef_se(self) -> pd.Series:
        """Standard errors of the fixed effects, sqrt of the diagonal of `vcov`."""
        with blas_threads(self.likelihood.flops):
            variances = self.likelihood.fixed_variances(self.estimate.evaluation.theta, self.sigma)
        return self._by_coefficient(np.sqrt(variances))

    def coef_table(self, ddf: Any = None) -> pd.DataFrame:
        """A row a fixed effect: estimate, std_error, df, t (z for "wald"), p_value.

        ddf: "satterthwaite", "kenward-roger" (adjusts standard errors too), "wald"; None: Satterthwaite's where that
        is affordable (`summary()` says which).
        """
        from .inference.coef_table import coef_table

        return coef_table(self, ddf)

    def test(self, L: Any, rhs: Any = 0.0, *, joint: bool = True, ddf: Any = None, level: float = 0.95) -> pd.DataFrame:
        """Test L beta = rhs: one F test of all rows, or with joint=False a t test and an interval for each.

        L: weights as an array (p,) or (c, p), a mapping coefficient -> weight, or a DataFrame with a column a
        coefficient. ddf: as in `coef_table`.
        """
        from .inference.tests import test

        return test(self, L, rhs, joint=joint, ddf=ddf, level=level)

    def anova(self, type: int = 3, *, ddf: Any = None) -> pd.DataFrame:
        """An F test a term of the fixed part, as lmerTest's anova: type 3, 2 (marginal) or 1 (sequential)."""
        from .inference.tests import anova

        return anova(self, type, ddf=ddf)

    def emmeans(
        self, specs: Any, by: Any = None, *, at: Any = None, ddf: Any = None, level: float = 0.95
    ) -> "MarginalMeans":
        """Estimated marginal means of the levels of `specs` on a reference grid, with `.table` and `.pairs()`.

        by: columns within whose levels means are compared. at: values of covariates, their means if None.
        """
        from .inference.emmeans import emmeans

        return emmeans(self, specs, by, at=at, ddf=ddf, level=level)

    @property
    def vcov(self) -> pd.DataFrame:
        """sigma^2 (X'V^-1X)^-1 of the coefficients that are in the model."""
        names = [self.spec.fixed_names[j] for j in self.likelihood.kept]
        return pd.DataFrame(self._vcov(), index=names, columns=names)

    @property
    def dropped_columns(self) -> tuple[str, ...]:
        """Names of the columns of X that depend linearly on earlier ones."""
        kept = set(self.likelihood.kept.tolist())
        return tuple(name for j, name in enumerate(self.spec.fixed_names) if j not in kept)

    @property
    def sigma(self) -> float:
        """Residual standard deviation (of a row of weight 1)."""
        return self.estimate.evaluation.sigma

    @property
    def deviance(self) -> float:
        """-2 log-likelihood; the REML criterion if `reml`."""
        return self.estimate.evaluation.deviance

    @property
    def loglik(self) -> float:
        """Log-likelihood, restricted if `reml`; lme4's constants."""
        return -0.5 * self.deviance

    @property
    def nobs(self) -> int:
        """Rows used."""
        return self.spec.n

    @property
    def n_params(self) -> int:
        """Estimated parameters: fixed effects, directions without a prior, variance parameters and sigma not held."""
        return self.likelihood.n_fixed + self.likelihood.parameters.count + 1 - len(self.estimate.held)

    @property
    def aic(self) -> float:
        """deviance + 2 n_params."""
        return self.deviance + 2.0 * self.n_params

    @property
    def bic(self) -> float:
        """deviance + n_params log(nobs)."""
        return self.deviance + self.n_params * float(np.log(self.nobs))

    @property
    def caic(self) -> float:
        """Conditional AIC: -2 log f(y | beta, b) + 2 (effective degrees of freedom + 1) (Vaida & Blanchard 2005)."""
        from .inference.caic import conditional_aic

        return conditional_aic(self).caic

    @property
    def theta(self) -> pd.Series:
        """The structures' parameters; for `us` the relative Cholesky factor, as lme4's theta."""
        names = list(self.likelihood.parameters.names)
        return pd.Series(self.estimate.evaluation.theta.copy(), index=names, dtype=float)  # pandas 2 would share it

    @property
    def varpar(self) -> pd.Series:
        """Variance parameters on the natural scale: `sd_...`, `cor_...` and `sigma`, in units of the response."""
        from .inference.varpar import variance_parameters

        return variance_parameters(self)

    @property
    def varpar_se(self) -> pd.Series:
        """Standard errors of `varpar` from the information matrix; NaN where held or on the boundary."""
        from .inference.varpar import variance_parameter_errors

        return variance_parameter_errors(self)

    @property
    def varpar_vcov(self) -> pd.DataFrame:
        """Covariance matrix of `varpar`, by the delta method; NaN where held or on the boundary."""
        from .inference.varpar import variance_parameter_vcov

        return variance_parameter_vcov(self)

    @property
    def varcorr(self) -> pd.DataFrame:
        """Variances, covariances and the residual: columns group, effect1, effect2, vcov, sdcor."""
        from .inference.varpar import variances_and_correlations

        return variances_and_correlations(self)

    def ranef(self, se: bool | str = False) -> dict[str, pd.DataFrame]:
        """BLUPs of the random effects: group -> DataFrame, levels by effects.

        se: True or "conditional" adds `<effect>_se`, the standard deviation given beta (lme4's condVar);
        "prediction" that of b_hat - b, which counts the uncertainty of beta (Henderson's).
        """
        from .inference.ranef import random_effects

        return random_effects(self, se)

    def heritability(self, *, exclude: str | Sequence[str] = ()) -> pd.DataFrame:
        """Heritability and all shares of the phenotypic variance; index (quantity, of), estimate, std_error.

        With c the variances and covariances of `varcorr`, and sigma_p^2 their sum, the residual included:
        heritability: genetic variance (`ped`, `known`) of a group / sigma_p^2; of the dam it is the maternal one.
        total heritability: (a + 1.5 am + 0.5 m) / sigma_p^2 (Willham 1972), and correlation: am / sqrt(a m), of
        `ped(1 | animal + dam, P)`. repeatability: genetic plus permanent, `(1 | animal)`, of a group / sigma_p^2.
        share: each component / sigma_p^2; `Intercept|animal` is the permanent environment.

        sigma_p^2 is the variance of a record of weight 1 (of the reference stratum of `varident`) of a non-inbred
        animal about the fixed effects; mean F is ignored, as usual, and the diagonal of a matrix of `known` counts as
        one. The covariance of direct and maternal effects counts once: twice the relationship of an animal with its
        dam, 1/2. exclude: groups or terms that do not count in sigma_p^2, such as herds. A sire variance is a quarter
        of the additive one: see `variance_ratio`.
        Standard errors are the delta method's from the covariance matrix of all variance parameters, what was held
        or is zero taken as known; NaN where nothing in a quantity was free.

        Errors: ModelError where no term is genetic, or a term with slopes makes sigma_p^2 differ between rows.
        """
        from .inference.genetics import heritability

        return heritability(self, exclude)

    def variance_ratio(self, numerator: Any, denominator: Any = None) -> pd.Series:
        """estimate and std_error (delta method) of a ratio of sums of variances and covariances.

        numerator, denominator: names `effect|group`, `effect1.effect2|group`, `Residual`: one, several, or a mapping
        from names to coefficients. None: the phenotypic variance, as in `heritability`.
        """
        from .inference.genetics import variance_ratio

        return variance_ratio(self, numerator, denominator)

    def reliability(self, term: str | None = None) -> pd.DataFrame:
        """Reliability of each BLUP, 1 - PEV/(variance of the effect), levels by effects; its square root: accuracy.

        PEV = var(b_hat - b), at known variance parameters; the variance of animal l's breeding value is
        sigma_a^2 (1 + F_l), of any level its diagonal entry of sigma^2 G x Q^-1. NaN where the variance is zero.
        term: its group or its text; None: the only genetic one.
        """
        from .inference.genetics import reliability

        return reliability(self, term)

    @property
    def fitted(self) -> FloatArray:
        """X beta + offset + Z b, (n,)."""
        return fitted_values(self.spec, self.fixef.to_numpy(), list(self.estimate.evaluation.b))

    @property
    def resid(self) -> FloatArray:
        """y - fitted, (n,)."""
        return self.spec.y - self.fitted

    def residuals(self, kind: str = "response") -> FloatArray:
        """Residuals (n,): "response" (`resid`), "marginal" (y - X beta), "pearson" (over the residual's own standard
        deviation), "standardized" (over that of e_hat, so that all have variance one)."""
        from .inference.residuals import residuals

        return residuals(self, kind)

    def leverage(self) -> FloatArray:
        """Diagonal of the matrix that makes fitted values of y, random effects included, (n,)."""
        from .inference.residuals import leverage

        return leverage(self)

    def cooks_distance(self, by: Any = None) -> pd.Series:
        """Cook's distance of each row, or of each level of `by` (a group of the model, or labels of the rows).

        (beta - beta(I))' vcov^-1 (beta - beta(I)) / p exactly, without refits; variance parameters are held.
        """
        from .inference.influence import cooks_distance

        return cooks_distance(self, by)

    def vif(self) -> pd.DataFrame:
        """Variance inflation of each term of the fixed part: df, gvif, vif = gvif^(1/df), as R's car."""
        from .inference.explained import vif

        return vif(self)

    def r_squared(self) -> pd.Series:
        """marginal and conditional R^2 (Nakagawa & Schielzeth 2013; Johnson 2014 for slopes)."""
        from .inference.explained import r_squared

        return r_squared(self)

    def icc(self) -> pd.Series:
        """Share of each random term in the variance that the fixed part leaves."""
        from .inference.explained import icc

        return icc(self)

    def re_pca(self) -> pd.DataFrame:
        """Principal components of each group's random effects: sd over sigma, share, cumulative; as lme4's rePCA."""
        from .inference.explained import re_pca

        return re_pca(self)

    def check(self) -> "Check":
        """What a careful analyst would look at: print it; `.ok`, `.table`."""
        from .inference.check import check

        return check(self)

    def predict(
        self,
        newdata: Any = None,
        *,
        re: bool | str | Sequence[str] = True,
        new_levels: str = "population",
        se: bool = False,
        interval: str | None = None,
        level: float = 0.95,
        seed: Any = None,
    ) -> Any:
        """Predicted means of new rows, (n,); of the rows used where newdata is None.

        With `se` or `interval` a table: fit, se of the mean (of b_hat - b and beta_hat jointly), and for an interval
        lower, upper: "confidence" of the mean, "prediction" of a response, with its residual variance.

        re: with all random effects, none, or those of some terms or groups; what is left out counts as zero, without
        variance. new_levels: "population" predicts an unknown level with b = 0 and its variance in the table, "error"
        refuses, "sample" draws b of independent levels (seed). A series goes on to times that it has no state at.
        Variance parameters are taken as known.
        """
        from .inference.predict import predict

        return predict(
            self, newdata, re=re, new_levels=new_levels, se=se, interval=interval, level=level, seed=seed
        )  # fmt: skip

    def simulate(self, n: int = 1, seed: Any = None, *, effects: str = "new") -> FloatArray:
        """n responses (nobs, n). effects: "new" draws the random effects too, "fitted" keeps them, "none" has none."""
        from .inference.simulate import simulate

        return simulate(self, n, seed, effects=effects)

    def bootstrap(
        self,
        n: int = 1000,
        seed: int | None = None,
        *,
        workers: int = 1,
        file: Any = None,
        progress: bool = False,
        effects: str = "new",
    ) -> "Bootstrap":
        """Parametric bootstrap: n fits of simulated responses. workers: processes. file: kept there, and continued."""
        from .inference.bootstrap import bootstrap

        return bootstrap(self, n, seed, workers=workers, file=file, progress=progress, effects=effects)

    def profile(
        self, which: str | Iterable[str] | None = None, *, level: float = 0.99, reml: bool = False
    ) -> "Profile":
        """Profile likelihood by parameter: names, "fixef", "varpar", or all; out to intervals of `level`.

        By ML whatever the fit's criterion was; reml=True: variance parameters by the REML criterion.
        """
        from .inference.profile import profile

        return profile(self, which, level=level, reml=reml)

    def confint(
        self, method: str = "wald", level: float = 0.95, which: str | Iterable[str] | None = None, **options: Any
    ) -> pd.DataFrame:
        """lower, upper by parameter. method: "wald", "profile" (option: reml), "boot" (options: kind, and
        those of `bootstrap`)."""
        from .inference.confint import confint

        return confint(self, method, level, which, **options)

    def save(self, path: Any, *, se: bool = False) -> None:
        """Write the fit to a JSON file without the data; `slm.load(path)` reads it, enough to predict.

        se: with what standard errors and intervals of predictions need, the sparse equations.
        """
        from .inference.save import save

        save(self, path, se=se)

    def refit(self, y: Any, *, start: FloatArray | None = None) -> "Fit":
        """The same model and criterion for another response y (nobs,): nothing but the response is read again."""
        from .inference.refit import refit

        return refit(self, y, start=start)

    @property
    def converged(self) -> bool:
        """The scaled gradient is below the tolerance."""
        return self.estimate.converged

    @property
    def is_singular(self) -> bool:
        """A variance is zero or a correlation +-1: a legal answer, and one to know about."""
        return self.estimate.is_singular

    @property
    def gradient_norm(self) -> float:
        """sqrt(g'H^-1 g) of the criterion: the distance to the optimum in standard errors. 0 where all is held."""
        return self.estimate.gradient_norm

    @property
    def n_iter(self) -> int:
        """Iterations, the steps of the start included."""
        return self.estimate.n_iter

    @property
    def method(self) -> str:
        """ "newton"; "cobyqa" where a derivative-free search had to finish; "held" where nothing was free."""
        return "held" if self.estimate.optimum is None else self.estimate.optimum.method

    @property
    def engine(self) -> str:
        """The engine that factorised the equations."""
        return self.likelihood.engine_name

    def summary(self) -> Text:
        """A text in lme4's layout."""
        from .report import summary

        return summary(self)

    def tidy(self) -> pd.DataFrame:
        """One row a parameter: effect, group, term, estimate, std_error, statistic (as R's broom.mixed)."""
        from .report import tidy

        return tidy(self)

    def glance(self) -> pd.DataFrame:
        """One row: nobs, sigma, loglik, deviance, aic, bic, and the facts of the fit."""
        from .report import glance

        return glance(self)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        kind = "REML" if self.reml else "ML"
        return f"<sparselmm fit by {kind}: {self.spec.formula or 'from arrays'}; deviance {self.deviance:.4f}>"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def _vcov(self) -> FloatArray:
        return self.likelihood.vcov(self.estimate.evaluation.theta, self.sigma)

    def _by_coefficient(self, values: FloatArray) -> pd.Series:
        full = np.full(len(self.spec.fixed_names), np.nan)
        full[self.likelihood.kept] = values
        return pd.Series(full, index=list(self.spec.fixed_names), dtype=float)
