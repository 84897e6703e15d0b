# limma's moderated t and F: Rscript make_limma.R limma.json; xz limma.json
suppressMessages({library(limma); library(jsonlite)})
set.seed(12); n <- 24
d <- data.frame(x = round(rnorm(n), 4), f = rep(c("a", "b", "c"), 8))
X <- model.matrix(~ x + f, d)
table <- function(e) {
  t <- topTable(e, coef = "x", number = Inf, sort.by = "none"); F <- topTable(e, coef = c("fb", "fc"), number = Inf, sort.by = "none")
  list(estimate = t$logFC, mean = t$AveExpr, statistic = t$t, p_value = t$P.Value, adj_p_value = t$adj.P.Val, F = F$F,
       F_p_value = F$P.Value, F_adj_p_value = F$adj.P.Val, df_prior = as.character(rep_len(e$df.prior, nrow(t))),
       s2_prior = rep_len(e$s2.prior, nrow(t)), df_residual = e$df.residual)
}
# variances s2 (v); gaps: genes without their first 1, 2, ... values; trend: whether all have a table of it
one <- function(s2, outliers, gaps = 0, wave = 0.4) {
  v <- length(s2)
  Y <- matrix(rnorm(n * v), v) * sqrt(s2) * exp(wave * cos(1:v / 6)) + 5 + 3 * sin(1:v / 6)
  Y[outliers, ] <- Y[outliers, ] * 5; Y[2, ] <- Y[2, ] + 1.5 * (d$f == "b")
  for (j in seq_len(gaps)) Y[v + 1 - j, seq_len(j)] <- NA
  Y <- round(Y, 6); fit <- lmFit(Y, X)
  list(Y = t(Y), plain = table(eBayes(fit)), trend = table(eBayes(fit, trend = TRUE)),
       robust = table(eBayes(fit, robust = TRUE)), given = table(eBayes(fit, trend = seq_len(v)^2)))
}
out <- list(
  versions = list(R = as.character(getRversion()), limma = as.character(packageVersion("limma"))), samples = d,
  varied = one(4 / rchisq(60, 6), 1:6), few = one(9 / rchisq(20, 9), 3), five = one(9 / rchisq(5, 9), 3),
  outliers = one(16 / rchisq(120, 16), c(1, 5, 9), 4), equal = one(rep(1, 80), c(1, 5), wave = 0), same = one(rep(1, 40), integer(0), 1, wave = 0)
)
write_json(out, commandArgs(TRUE)[1], digits = 15, auto_unbox = TRUE, na = "null", dataframe = "columns")
