typedef int em_empty_pcg64;
