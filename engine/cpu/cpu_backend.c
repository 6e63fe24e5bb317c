typedef int em_empty_cpu_backend;
