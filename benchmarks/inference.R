# What is done with lme4's fit of InstEval: Rscript inference.R refits
# prints "name seconds" a line, seconds of processor time; the bootstrap from a few refits.

suppressPackageStartupMessages({
  library(lme4)
  library(lmerTest)
})
refits <- as.integer(commandArgs(trailingOnly = TRUE)[1])
note <- function(name, seconds) cat(name, seconds, "\n")
processor <- function(expression) sum(system.time(expression)[1:2])

note("fit", processor(fit <- lme4::lmer(y ~ service + (1 | s) + (1 | d) + (1 | dept), InstEval)))
note("summary", processor(print(summary(lmerTest::as_lmerModLmerTest(fit)))))
note("ranef", processor(ranef(fit, condVar = TRUE)))
note("bootstrap", 100 / refits * processor(lme4::bootMer(fit, function(f) c(fixef(f), sigma(f), getME(f, "theta")),
                                                   nsim = refits, seed = 1)))
note("profile", processor(profile(fit, which = "theta_")))
