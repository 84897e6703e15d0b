# Tests of terms and contrasts, estimated marginal means and comparisons of models, by lmerTest, pbkrtest and emmeans.
#
#     Rscript tests/golden/make_inference.R        (from the root of the repository; writes tests/golden/inference.json.xz)
#
# Data: afex's obk.long as in tests/golden/data (tests/golden/PROVENANCE.md), with rows dropped so that no cell size is
# equal. `dropped` counts rows from 1. Fits by lme4, the search carried on to a flat criterion.
suppressMessages({library(lmerTest); library(emmeans); library(jsonlite)})
options(contrasts = c("contr.treatment", "contr.poly"))

file <- "tests/golden/data/afex_obk.long.csv.xz"
connection <- xzfile(file)
text <- readLines(connection)
close(connection)
sha256 <- strsplit(system2("sh", c("-c", shQuote(paste("xz -dc", file, "| sha256sum"))), stdout = TRUE), " ")[[1]][1]
all <- read.csv(text = text)
all$id <- factor(all$id, levels = 1:16)
all$treatment <- factor(all$treatment, levels = c("control", "A", "B"))
all$gender <- factor(all$gender, levels = c("F", "M"))
all$phase <- factor(all$phase, levels = c("fup", "post", "pre"))
all$hr <- as.numeric(all$hour)
all$w <- 1 + (seq_len(nrow(all)) - 1) %% 3
unbalanced <- c(1:7, 33, 60:70, 150, 151, 201)
no_cell <- which(all$treatment == "A" & all$gender == "F")

control <- lmerControl(optimizer = "bobyqa", calc.derivs = FALSE, optCtrl = list(rhoend = 1e-10, maxfun = 1e6))
fit <- function(formula, dropped, weights = NULL, sum = FALSE, REML = TRUE) {
  d <- all[-dropped, ]
  d$weights. <- if (is.null(weights)) rep(1, nrow(d)) else d[[weights]]
  contrasts <- if (sum) list(treatment = "contr.sum", gender = "contr.sum", phase = "contr.sum") else NULL
  assign("d", d, envir = globalenv())
  suppressMessages(lmer(as.formula(formula), d, REML = REML, weights = weights., control = control, contrasts = contrasts))
}
rows <- function(table) {
  out <- as.data.frame(table)
  names(out) <- c("sum_sq", "mean_sq", "num_df", "den_df", "F", "p_value")
  cbind(term = trimws(rownames(table)), out)
}
anovas <- function(m, weights) { # pbkrtest 0.5.2 takes no notice of weights
  out <- list()
  for (type in 1:3) for (ddf in c("Satterthwaite", if (is.null(weights)) "Kenward-Roger"))
    out[[length(out) + 1]] <- list(type = type, ddf = tolower(ddf), rows = rows(suppressMessages(anova(m, type = type, ddf = ddf))))
  out
}

base <- "value ~ treatment * gender * phase + age + (1 | id)"
coded <- "value ~ C(treatment, contr.sum) * C(gender, contr.sum) * C(phase, contr.sum) + age + (1 | id)"
models <- list(
  list(id = "three factors", formula = base, python = base, dropped = unbalanced),
  list(id = "sum contrasts", formula = base, python = coded, dropped = unbalanced, sum = TRUE),
  list(id = "covariates", formula = "value ~ treatment * phase + age * gender + age:phase + (1 | id)", dropped = unbalanced),
  list(id = "function", formula = "value ~ phase * I(age^2) + treatment + (1 | id)",
       python = "value ~ phase * I(age**2) + treatment + (1 | id)", dropped = unbalanced),
  list(id = "empty cell", formula = "value ~ treatment * gender + phase + (1 | id)", dropped = no_cell),
  list(id = "no intercept", formula = "value ~ 0 + treatment * phase + (1 | id)", dropped = unbalanced),
  list(id = "slopes", formula = "value ~ treatment * phase + hr + (1 + hr | id)", dropped = unbalanced),
  list(id = "weights", formula = "value ~ treatment * phase + gender + (1 | id)", dropped = unbalanced, weights = "w"))
models <- lapply(models, function(m) {
  f <- fit(m$formula, m$dropped, m$weights, isTRUE(m$sum))
  if (is.null(m$python)) m$python <- m$formula
  c(m, list(anova = anovas(f, m$weights), deviance = REMLcrit(f)))
})

# contrasts of several rows, right sides too
m <- fit("value ~ treatment * phase + gender + (1 | id)", unbalanced)
L <- rbind(c(0, 1, -1, 0, 0, 0, 0, 0, 0, 0), c(0, 0.5, 0, 1, 0, -2, 0, 0, 0, 0.25), c(0, 0, 0, 0, 0, 1, 1, 0, -1, 0))
tests <- lapply(c("Satterthwaite", "Kenward-Roger"), function(ddf) {
  one <- contest(m, L, joint = FALSE, ddf = ddf, confint = TRUE)
  names(one) <- c("estimate", "std_error", "df", "t", "lower", "upper", "p_value")
  list(ddf = tolower(ddf), zero = rows(contest(m, L, ddf = ddf)), rhs = c(1, -0.5, 0.25),
       shifted = rows(contest(m, L, rhs = c(1, -0.5, 0.25), ddf = ddf)), one = one)
})

# estimated marginal means
means <- function(case) {
  emm_options(lmer.df = case$ddf)
  m <- fit(case$formula, case$dropped, case$weights)
  grid <- suppressMessages(emmeans(m, as.formula(case$specs), at = case$at, level = case$level))
  table <- as.data.frame(summary(grid))
  names(table)[names(table) %in% c("asymp.LCL", "lower.CL")] <- "lower"
  names(table)[names(table) %in% c("asymp.UCL", "upper.CL")] <- "upper"
  names(table)[names(table) == "SE"] <- "std_error"
  pairs <- lapply(c("tukey", "holm", "bonferroni", "none"), function(adjust) {
    t <- as.data.frame(suppressMessages(summary(pairs(grid), adjust = adjust)))
    names(t)[names(t) %in% c("t.ratio", "z.ratio")] <- "t"
    names(t)[names(t) == "SE"] <- "std_error"
    names(t)[names(t) == "p.value"] <- "p_value"
    list(adjust = adjust, rows = t)
  })
  c(case, list(rows = table, pairs = pairs))
}
covariates <- "value ~ treatment * phase + age * gender + age:phase + (1 | id)"
cases <- list(
  list(formula = base, dropped = unbalanced, specs = "~ treatment", by = NULL, ddf = "satterthwaite", level = 0.95),
  list(formula = base, dropped = unbalanced, specs = "~ treatment", by = NULL, ddf = "kenward-roger", level = 0.9),
  list(formula = base, dropped = unbalanced, specs = "~ phase | gender", by = "gender", ddf = "satterthwaite", level = 0.95),
  list(formula = base, dropped = unbalanced, specs = "~ phase * treatment", by = NULL, ddf = "asymptotic", level = 0.95),
  list(formula = covariates, dropped = unbalanced, specs = "~ phase", by = NULL, ddf = "satterthwaite", level = 0.95),
  list(formula = covariates, dropped = unbalanced, specs = "~ gender | age", by = "age", at = list(age = c(-2, 3)),
       ddf = "kenward-roger", level = 0.95),
  list(formula = "value ~ treatment * phase + gender + (1 | id)", dropped = unbalanced, weights = "w",
       specs = "~ treatment | phase", by = "phase", ddf = "satterthwaite", level = 0.95))
cases <- lapply(cases, means)

# likelihood-ratio tests; models fitted by REML are refitted by ML
f <- list("value ~ phase + (1 | id)", "value ~ treatment * phase + (1 | id)",
          "value ~ treatment * phase + (1 + hr | id)")
fits <- lapply(f, fit, dropped = unbalanced)
a <- suppressMessages(anova(fits[[1]], fits[[2]], fits[[3]]))
comparison <- list(formulas = unlist(f), dropped = unbalanced, n_params = a$npar, aic = a$AIC, bic = a$BIC,
                   loglik = a$logLik, deviance = a$deviance, chisq = a$Chisq, df = a$Df, p_value = a[["Pr(>Chisq)"]])

versions <- sapply(c("lme4", "lmerTest", "pbkrtest", "emmeans"), function(p) as.character(packageVersion(p)))
out <- list(software = c(list(R = paste(R.version$major, R.version$minor, sep = ".")), as.list(versions)),
            data = list(name = "afex_obk.long", sha256 = sha256),
            models = models,
            contrasts = list(formula = "value ~ treatment * phase + gender + (1 | id)", dropped = unbalanced, L = L, tests = tests),
            means = cases, comparison = comparison)
target <- xzfile("tests/golden/inference.json.xz", "w")
writeLines(toJSON(out, digits = NA, auto_unbox = TRUE, null = "null", na = "null"), target)
close(target)
