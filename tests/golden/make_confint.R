# lme4's profile and Wald intervals: Rscript make_confint.R > confint.json
suppressMessages(library(lme4))
fits <- list(
  sleepstudy = lmer(Reaction ~ Days + (Days | Subject), sleepstudy),
  Dyestuff   = lmer(Yield ~ 1 + (1 | Batch), Dyestuff),
  Dyestuff2  = lmer(Yield ~ 1 + (1 | Batch), Dyestuff2),
  Penicillin = lmer(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin),
  Pastes     = lmer(strength ~ 1 + (1 | sample) + (1 | batch), Pastes)
)
number <- function(x) ifelse(is.na(x), "null", formatC(x, digits = 12, format = "g"))
row <- function(name, ends) sprintf("      \"%s\": [%s, %s]", name, number(ends[1]), number(ends[2]))
row.table <- function(table) paste(sapply(rownames(table), function(n) row(n, table[n, ])), collapse = ",\n")
one <- function(name) {
  fit <- fits[[name]]
  p <- profile(fit, delta = 0.2)
  parts <- c(
    sprintf("    \"formula\": \"%s\"", paste(deparse(formula(fit)), collapse = " ")),
    sprintf("    \"profile_0.95\": {\n%s\n    }", row.table(confint(p, level = 0.95))),
    sprintf("    \"profile_0.80\": {\n%s\n    }", row.table(confint(p, level = 0.80))),
    sprintf("    \"wald_0.95\": {\n%s\n    }", row.table(confint(fit, method = "Wald", parm = "beta_", level = 0.95)))
  )
  sprintf("  \"%s\": {\n%s\n  }", name, paste(parts, collapse = ",\n"))
}
versions <- sprintf("  \"versions\": {\"R\": \"%s\", \"lme4\": \"%s\"}", getRversion(), packageVersion("lme4"))
cat("{\n", paste(c(versions, sapply(names(fits), one)), collapse = ",\n"), "\n}\n", sep = "")
