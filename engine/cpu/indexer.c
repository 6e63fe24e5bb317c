typedef int em_empty_indexer;
