"""Association of markers given a fitted null model: `slm.scan`.

`markers` (where genotypes come from) and `people` (whose rows are whose) -> `projection` (the null's P over people)
-> `association` (statistics of a block) -> `run` (all blocks) -> `result`.
"""
