typedef int em_empty_stream;
