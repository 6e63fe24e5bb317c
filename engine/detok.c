typedef int em_empty_detok;
