# The process of one measurement with an R package: Rscript worker.R lme4|glmmTMB formula folder warm ml|reml
# prints a line of JSON at its end.

read_table <- function(folder) {
  columns <- read.table(file.path(folder, "columns.txt"), col.names = c("name", "kind", "levels"))
  table <- lapply(seq_len(nrow(columns)), function(i) {
    path <- file.path(folder, paste0(columns$name[i], ".bin"))
    number <- columns$kind[i] == "float"
    width <- if (number) 8 else 4
    values <- readBin(path, if (number) "double" else "integer", file.size(path) / width, width, endian = "little")
    if (number) return(values)
    structure(values + 1L, levels = as.character(seq_len(columns$levels[i]) - 1L), class = "factor")
  })
  as.data.frame(setNames(table, columns$name))
}

# A fit with the standard errors of the coefficients: list(deviance, converged, se).
fitters <- list(
  lme4 = function(formula, table, reml) {
    fit <- lmer(formula, table, REML = reml, control = lmerControl(calc.derivs = FALSE))
    se <- sqrt(diag(as.matrix(vcov(fit))))
    list(deviance = -2 * as.numeric(logLik(fit)), converged = fit@optinfo$conv$opt == 0, se = se)
  },
  glmmTMB = function(formula, table, reml) {
    fit <- glmmTMB(formula, table, REML = reml)
    se <- sqrt(diag(vcov(fit)$cond))
    list(deviance = -2 * as.numeric(logLik(fit)), converged = fit$fit$convergence == 0, se = se)
  }
)

given <- commandArgs(trailingOnly = TRUE)
package <- given[1]
suppressPackageStartupMessages(library(package, character.only = TRUE))
fit <- function(table) {
  suppressMessages(suppressWarnings(fitters[[package]](as.formula(given[2]), table, given[5] == "reml")))
}
invisible(fit(read_table(given[4])))
table <- read_table(given[3])
seconds <- c()
while (length(seconds) == 0 || (sum(seconds) < 1 && length(seconds) < 5)) { # as in worker.py
  clock <- Sys.time()
  found <- fit(table)
  seconds <- c(seconds, as.numeric(difftime(Sys.time(), clock, units = "secs")))
}
stopifnot(is.finite(found$deviance), all(is.finite(found$se)))
cat(sprintf(
  '\n{"deviance": %.17g, "converged": %s, "seconds": %.9g, "version": "%s (R %s)"}\n',
  found$deviance, tolower(as.character(isTRUE(as.logical(found$converged)))), min(seconds),
  as.character(packageVersion(package)), as.character(getRversion())
))
