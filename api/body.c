typedef int em_empty_body;
