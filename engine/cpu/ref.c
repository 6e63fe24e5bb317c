typedef int em_empty_ref;
