"""Networks: a network is a function (x, noise, cond, low_res, aug) -> F, with unit-variance inputs and output."""
