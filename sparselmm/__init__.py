"""Large sparse linear mixed models."""
