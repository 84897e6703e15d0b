"""Association of markers given a fitted null model: `slm.scan`.

`markers` (where genotypes come from) and `people` (whose rows are whose) -> `projection` (the null's P over people),
`moments` (means of a block) -> `association` (its statistics), `gaps` (without people), `refit` (with variances of
its own) -> `run` (all blocks), `store` (what is finished) -> `result`.
"""
