"""Maximum likelihood where it can be written down: no iteration, no mixed-model equations."""

from .anova import BalancedAnova, nested, one_way
from .general_linear_model import GeneralLinearModel, MultivariateNormal, general_linear_model, multivariate_normal

__all__ = [
    "BalancedAnova",
    "GeneralLinearModel",
    "MultivariateNormal",
    "general_linear_model",
    "multivariate_normal",
    "nested",
    "one_way",
]
