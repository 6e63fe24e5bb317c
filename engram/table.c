typedef int em_empty_table;
