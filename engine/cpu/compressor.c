typedef int em_empty_compressor;
