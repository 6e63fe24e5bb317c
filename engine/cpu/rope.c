typedef int em_empty_rope;
