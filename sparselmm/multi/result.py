"""What `lmm_multi` gives: tables in units of the traits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from .._typing import FloatArray, Text
from ..equations import fitted_values
from ..inference.ranef import effect_errors, effect_table
from ..results import Fit
from . import covariances
from .covariances import Components, term_labels, user_order
from .predict import predict
from .stack import Stacked, coefficient_name
from .summary import summary


@dataclass(frozen=True, eq=False)
class MultiFit:
    """A fitted model of several traits. All tables are in units of the traits, but `fit` is not.

    fit: the ordinary fit of all values below each other, each trait divided by its `scale`, with everything that a
    `Fit` has. stacked: how it was made.
    """

    stacked: Stacked
    fit: Fit

    @property
    def traits(self) -> tuple[str, ...]:
        """Names of the T traits."""
        return self.stacked.traits

    @property
    def scale(self) -> pd.Series:
        """Standard deviations by which the traits were divided for `fit`."""
        return pd.Series(self.stacked.scale, index=list(self.traits))

    @property
    def reml(self) -> bool:
        """Whether the REML criterion was minimised."""
        return self.fit.reml

    @property
    def converged(self) -> bool:
        """The certificate of `fit`."""
        return self.fit.converged

    @property
    def is_singular(self) -> bool:
        """Whether some G or R is singular: a variance of zero, a correlation of +-1, or less than full rank."""
        return self.fit.is_singular

    @property
    def nobs(self) -> pd.Series:
        """Values of each trait that were used."""
        return pd.Series(self.stacked.present.sum(axis=0), index=list(self.traits))

    @property
    def n_records(self) -> int:
        """Records used: rows of the table with a trait at least, and nothing else missing."""
        return len(self.stacked.present)

    @property
    def n_dropped(self) -> pd.Series:
        """Records left out: without any trait, and with a missing value in what the formula reads."""
        return pd.Series({"without a trait": self.stacked.empty, "incomplete": self.stacked.wide.n_dropped})

    @property
    def deviance(self) -> float:
        """-2 log-likelihood of the traits in their own units; the REML criterion if `reml`."""
        count = self.nobs.to_numpy(dtype=float)
        if self.reml:
            count -= self.fixef.notna().to_numpy().sum(axis=1)
        return self.fit.deviance + float(2.0 * count @ np.log(self.stacked.scale))

    @property
    def loglik(self) -> float:
        """Log-likelihood, restricted if `reml`."""
        return -0.5 * self.deviance

    @property
    def n_params(self) -> int:
        """Estimated parameters: coefficients, variances and covariances."""
        return self.fit.n_params

    @property
    def aic(self) -> float:
        """deviance + 2 n_params."""
        return self.deviance + 2.0 * self.n_params

    @property
    def bic(self) -> float:
        """deviance + n_params log(number of values)."""
        return self.deviance + self.n_params * float(np.log(self.fit.nobs))

    @property
    def fixef(self) -> pd.DataFrame:
        """Coefficients, traits by names; NaN for one that was dropped as linearly dependent."""
        return self._by_trait(self.fit.fixef)

    @property
    def fixef_se(self) -> pd.DataFrame:
        """Standard errors of the coefficients."""
        return self._by_trait(self.fit.fixef_se)

    @property
    def vcov(self) -> pd.DataFrame:
        """Covariance matrix of all coefficients that are in the model; index (trait, coefficient)."""
        names = [name for name in self._names if name in self.fit.vcov.index]
        scale = np.array([self.scale[self._names[name][0]] for name in names])
        index = pd.MultiIndex.from_tuples([self._names[name] for name in names], names=["trait", "coefficient"])
        values = self.fit.vcov.loc[names, names].to_numpy() * np.outer(scale, scale)
        return pd.DataFrame(values, index=index, columns=index)

    def coef_table(self, ddf: Any = None) -> pd.DataFrame:
        """A row a trait and coefficient: estimate, std_error, df, t (or z), p_value; ddf as in `Fit.coef_table`."""
        table = self.fit.coef_table(ddf).loc[list(self._names)]
        table.index = pd.MultiIndex.from_tuples(self._names.values(), names=["trait", "coefficient"])
        scale = self.scale[table.index.get_level_values("trait")].to_numpy()
        return table.assign(estimate=table["estimate"] * scale, std_error=table["std_error"] * scale)

    def G(self, term: str | None = None) -> pd.DataFrame:
        """Covariances among the traits of a random term, by its text or its group; the only one for None.

        `(1 + x | g)` has a row for each effect of each trait.
        """
        return self._components.table(self._components.block(term))

    def G_se(self, term: str | None = None) -> pd.DataFrame:
        """Standard errors of `G`, by the delta method; NaN on the boundary."""
        return self._components.errors(self._components.block(term))

    @property
    def R(self) -> pd.DataFrame:
        """Covariances among the residuals of a record (of weight 1); NaN for traits that no record has both of."""
        return self._components.table(self._components.blocks[-1])

    @property
    def R_se(self) -> pd.DataFrame:
        """Standard errors of `R`."""
        return self._components.errors(self._components.blocks[-1])

    def correlations(self) -> pd.DataFrame:
        """Correlations of every term, of the residual and of the phenotype; index (term, trait1, trait2).

        estimate, std_error (delta method), and `boundary`: whether it is +-1, where there is no standard error. The
        phenotype is the sum of all terms and the residual, left out where a term's variance differs between rows.
        """
        return covariances.correlations(self.stacked, self._components)

    def heritability(self, *, exclude: str | Sequence[str] = ()) -> pd.DataFrame:
        """Heritability and shares of the phenotypic variance of each trait; index (trait, quantity, of).

        heritability: genetic variance (`ped`, `known`) of a group over the sum of all terms and the residual; share:
        of each term. exclude: terms that do not count. Errors: ModelError without a genetic term, or with slopes.
        """
        return covariances.heritability(self.stacked, self._components, exclude)

    def ranef(self, se: bool | str = False) -> dict[str, pd.DataFrame]:
        """BLUPs: text of each term -> levels by traits (by effects, for several). se: as in `Fit.ranef`."""
        out, errors = {}, effect_errors(self.fit, se)
        for k, label in enumerate(term_labels(self.stacked)):
            term, block = self.fit.spec.terms[k], self._components.blocks[k]
            at, b, error = user_order(self.stacked, term), self.fit.estimate.evaluation.b[k], errors[k]
            own = None if error is None else error[:, at] * block.scale
            out[label] = effect_table(term, b[:, at] * block.scale, own, block.effects)
        return out

    @property
    def fitted(self) -> pd.DataFrame:
        """X beta + Z b of every trait in every record used, also where it was missing; index: rows of the table."""
        stacked, B = self.stacked, self.fixef.to_numpy()
        columns = [fitted_values(stacked.wide, beta, self.effects(t)) for t, beta in enumerate(B)]
        return pd.DataFrame(np.column_stack(columns), index=stacked.rows, columns=list(self.traits))

    def predict(
        self,
        newdata: Any,
        *,
        re: bool | str | Sequence[str] = True,
        new_levels: str = "population",
        se: bool = False,
        interval: str | None = None,
        level: float = 0.95,
        given: bool | str | Sequence[str] = False,
    ) -> pd.DataFrame:
        """Predicted means of new rows, rows by traits: X beta + Z b, with what the fit knows of their levels.

        re: with all random effects, none, or those of some terms or groups. new_levels: "population" predicts an
        unknown level with b = 0, "error" refuses it. se: columns `<trait>_se` too, at known G and R; interval:
        `<trait>_lower` and `<trait>_upper` of the mean ("confidence") or of a new record ("prediction"). given: traits
        that are known in new rows (a missing value is not), names or True for all that newdata has: each row's other
        traits are predicted from them too, through the effects and the residuals, as if the row were among the data.
        """
        return predict(self, newdata, re, new_levels, se, interval, level, given)

    def summary(self) -> Text:
        """Criterion, variances and correlations of each term, coefficients, and the facts of the fit."""
        return Text(summary(self))

    def __repr__(self) -> str:
        cells = ", ".join(f"{n:,} of {trait}" for trait, n in self.nobs.items())
        return (
            f"<sparselmm: {len(self.traits)} traits in {self.n_records:,} records ({cells}); {self.fit.spec.formula}>"
        )

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    @cached_property
    def _components(self) -> Components:
        return covariances.components(self.stacked, self.fit)

    @property
    def _names(self) -> dict[str, tuple[str, str]]:
        """Names in `fit` -> trait, coefficient; in the user's order."""
        every = self.stacked.wide.fixed_names
        return {coefficient_name(t, c): (t, c) for t in self.traits for c in every}

    def _by_trait(self, values: pd.Series) -> pd.DataFrame:
        every = list(self.stacked.wide.fixed_names)
        table = values[list(self._names)].to_numpy().reshape(len(self.traits), len(every))
        return pd.DataFrame(table * self.stacked.scale[:, None], index=list(self.traits), columns=every)

    def effects(self, t: int) -> list[FloatArray]:
        """BLUPs (m, r) of trait t, one array for each term of the formula."""
        stacked = self.stacked
        out = [np.zeros((term.n_levels, term.n_effects)) for term in stacked.wide.terms]
        for (k, effects), b in zip(stacked.source, self.fit.estimate.evaluation.b, strict=True):
            place = stacked.order.index(t) * len(effects)
            out[k][:, list(effects)] = b[:, place : place + len(effects)] * stacked.scale[t]
        return out
