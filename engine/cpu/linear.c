typedef int em_empty_linear;
