typedef int em_empty_sequence;
