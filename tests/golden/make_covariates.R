# Estimated marginal means where the formula reads covariates through functions, by emmeans.
#
#     Rscript tests/golden/make_covariates.R       (from the root of the repository; writes tests/golden/covariates.json)
#
# Data: lme4's sleepstudy with columns of the row's number i = 0 ... 179, two of them missing.
suppressMessages({library(lmerTest); library(emmeans); library(jsonlite)})

i <- 0:179
d <- transform(lme4::sleepstudy, x = 1 + i %% 9 + 0.5 * (i %% 4), two = 2 * (i %% 5 == 0),
               f = factor(c("a", "b", "c")[1 + (i %/% 2) %% 3]))
d$x[c(3, 50)] <- NA
control <- lmerControl(optimizer = "bobyqa", calc.derivs = FALSE, optCtrl = list(rhoend = 1e-10, maxfun = 1e6))
cases <- list(
  list(formula = "Reaction ~ f * log(x) + poly(Days, 2) + two + (1 | Subject)", specs = c("f", "two", "Days")),
  list(formula = "Reaction ~ f * I(x^2) + two:f + Days + (1 | Subject)",
       python = "Reaction ~ f * I(x**2) + two:f + Days + (1 | Subject)", specs = c("f", "x")),
  list(formula = "Reaction ~ f + log(x) * Days + (1 | Subject)", specs = c("f", "x"), by = "f"))
for (k in seq_along(cases)) {
  m <- lmer(as.formula(cases[[k]]$formula), d, control = control)
  cases[[k]]$means <- lapply(cases[[k]]$specs, function(s) {
    out <- as.data.frame(emmeans(m, s, lmer.df = "satterthwaite"))
    names(out)[1:4] <- c("level", "emmean", "std_error", "df")
    out[1:4]
  })
  if (is.null(cases[[k]]$python)) cases[[k]]$python <- cases[[k]]$formula
}
versions <- lapply(c(R = "base", lme4 = "lme4", lmerTest = "lmerTest", emmeans = "emmeans"),
                   function(p) as.character(packageVersion(p)))
writeLines(toJSON(list(versions = versions, cases = cases), auto_unbox = TRUE, digits = 12, pretty = TRUE),
           "tests/golden/covariates.json")
