# Makes genomics.json: Rscript genomics.R <folder with lmer_Y.csv.gz, lmer_d.csv, lmer_ref.csv, lmer_ref2.csv> <out>
# R 4.2.2, lme4 1.1-31, lmerTest 3.1-3, limma 3.54.1, jsonlite
suppressMessages({library(lme4); library(lmerTest); library(jsonlite)})
args <- commandArgs(TRUE); folder <- args[1]
d <- read.csv(file.path(folder, "lmer_d.csv")); d$sex <- factor(d$sex)
Y <- as.matrix(read.csv(file.path(folder, "lmer_Y.csv.gz")))[, 1:12]
few <- 1:8
strict <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5), calc.derivs = FALSE)
set.seed(7); W <- matrix(round(exp(rnorm(length(few) * nrow(d), sd = 0.5)), 3), length(few))
# sparse gaps: three patterns that are shared
gaps <- list(c(1, 2, 77), 401:420, integer(0)); pattern <- c(1, 1, 2, 2, 3, 1, 2, 3)

facts <- function(m) {
  v <- as.data.frame(VarCorr(m))
  list(beta = unname(fixef(m)), se = unname(sqrt(diag(as.matrix(vcov(m))))), sdcor = v$sdcor,
       loglik = as.numeric(logLik(m)))
}
fit <- function(j, formula, REML = TRUE, w = NULL, rows = seq_len(nrow(d))) {
  d$y <- Y[, j]; d$w <- if (is.null(w)) rep(1, nrow(d)) else w
  lmer(formula, d[rows, ], REML = REML, weights = w, control = strict)
}
one <- y ~ age + sex + trt + (1 | donor)
out <- list(
  samples = d, Y = t(Y), weights = W, pattern = pattern - 1, gaps = lapply(gaps, function(g) g - 1),
  one = lapply(1:12, function(j) facts(fit(j, one))),
  one_ml = lapply(few, function(j) facts(fit(j, one, FALSE))),
  satterthwaite = lapply(1:12, function(j) unname(coef(summary(fit(j, one)))[, "df"])),
  contrast = lapply(few, function(j) as.list(contest1D(fit(j, one), c(0, 1, 0, -1)))),
  weighted = lapply(few, function(j) facts(fit(j, one, w = W[j, ]))),
  gap_fits = lapply(few, function(j) facts(fit(j, one, rows = setdiff(seq_len(nrow(d)), gaps[[pattern[j]]])))),
  crossed = lapply(few, function(j) facts(fit(j, y ~ age + sex + trt + (1 | donor) + (1 | batch)))),
  slope = lapply(few, function(j) facts(fit(j, y ~ age + sex + trt + (1 + age | donor)))),
  slope_ml = lapply(few, function(j) facts(fit(j, y ~ age + sex + trt + (1 + age | donor), FALSE))),
  slope_weighted = lapply(few, function(j) facts(fit(j, y ~ age + sex + trt + (1 + age | donor), w = W[j, ])))
)
set.seed(11); df <- round(runif(60, 3, 40), 2); s2 <- 1.7 * rf(60, df, 9)
equal <- 0.8 * rchisq(40, 25) / 25
squeezed <- limma::squeezeVar(s2, df)
flat <- limma::squeezeVar(equal, rep(25, 40))
p <- c(0.001, 0.2, 0.04, 0.04, 0.9, 0.0003, 0.5, NA)
out$limma <- list(s2 = s2, df = df, var_prior = squeezed$var.prior, df_prior = squeezed$df.prior,
                  var_post = squeezed$var.post, equal = equal, equal_df_prior = as.character(flat$df.prior),
                  equal_var_post = flat$var.post, p = p, bh = p.adjust(p, "BH"))
write_json(out, args[2], digits = 15, auto_unbox = TRUE, na = "null", dataframe = "columns")
