"""Several traits of one record in one model: their covariances in every random term and in the residual."""
