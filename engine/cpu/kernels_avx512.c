typedef int em_empty_kernels_avx512;
