typedef int em_empty_hyper;
