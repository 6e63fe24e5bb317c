typedef int em_empty_gather;
