typedef int em_empty_sse;
