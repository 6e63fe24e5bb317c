typedef int em_empty_moe;
