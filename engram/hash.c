typedef int em_empty_hash;
