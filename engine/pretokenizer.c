typedef int em_empty_pretokenizer;
